"""One server, as a trainer sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("hone")

FAILURES = 5
"""Requests that fail in a row on a server, after which it is lost though it says that it is well."""


class Failure(OSError):
    """A server answers, but not as one that is in order: with the status and the text."""


@dataclass(eq=False)
class Server:
    """One of them.

    Attributes:
        url: Where it is.
        serves: Whether it answers, by the weights of now.
        why: It does not.
        refused: What it said, or what is wrong with it, if to ask again is of no use before other weights come.
        longest: Most tokens of a context and its continuation; 0 where it has not said.
        failures: Requests that failed since one did not.
        failing: The last of them, if for that it is lost.
        posts: Requests under way.
        taking: What gives it weights, or did.
        vain: How often that was begun, or it did not answer, since it last served.
    """

    url: str
    serves: bool = False
    why: str = "not asked yet"
    refused: Exception | None = None
    longest: int = 0
    failures: int = 0
    failing: Failure | None = None
    posts: set[asyncio.Task[Any]] = field(default_factory=set)
    taking: asyncio.Task[None] | None = None
    vain: int = 0

    def says(self, answer: Any, *names: str) -> None:
        """Go no further with what is no server of ours, or is of another release.

        Raises:
            ValueError: If one of these is not in its answer.
        """
        if lacking := [name for name in names if not isinstance(answer, Mapping) or name not in answer]:
            raise ValueError(f"sampler: {self.url} does not say its {lacking[0]}; start `hone serve` of this release")

    def lose(self, why: str) -> None:
        """Give its requests back to those who wait, to ask another."""
        if self.serves:
            log.warning("sampler: the server %s is lost: %s", self.url, why)
        self.serves, self.why = False, why
        for post in self.posts:
            post.cancel()

    def fail(self, failure: Failure) -> None:
        """A request has failed; one too many, and it is lost. If it returns then, one more is enough."""
        self.failures += 1
        if self.failures >= FAILURES:
            self.failing = failure
            self.lose(f"{self.failures} requests failed in a row, the last with {failure}")
