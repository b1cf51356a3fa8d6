"""Replies of writers to many requests at once, each on disk as soon as it is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from hone import ranks
from hone.keys import key
from hone.seats import Player, Writer
from hone.synthesis.journal import Journal
from hone.synthesis.provenance import described, digest
from hone.types import Message

log = logging.getLogger("hone")

PATIENCE = 8
"""Failures in a row, the first of them in this call, after which a writer counts as down."""


class Outage(ConnectionError):
    """A writer is down: one request may fail for its own sake, but not all of them."""


@dataclass
class Replies:
    """Asks a writer.

    A failed request is not an empty reply: it is not kept, so that a later run asks again. Of several processes the
    first asks, so that nothing is paid for twice, and all have its replies.

    Attributes:
        player: Awaits the requests.
        journal: The replies so far; what is in it is not asked again.
        writer: Whom to ask.
        seed: Of the writer's draws.
    """

    player: Player
    journal: Journal
    writer: Writer
    seed: int

    def __post_init__(self) -> None:
        self._failed = 0
        self._counted: set[str] = set()

    def identity(self) -> Any:
        """Who writes, with which settings, as plain data."""
        settings = described(self.writer) if is_dataclass(self.writer) else None
        return {"name": self.writer.name, "settings": settings}

    def ask(self, requests: Mapping[str, tuple[Sequence[Message], int]]) -> dict[str, str | Exception]:
        """The reply to each request, or the error that prevented it.

        Args:
            requests: By any name: the messages, and the number of the attempt, for another reply to the same messages.

        Raises:
            Outage: Requests failed, and none succeeded, eight times in a row.
        """
        identity = self.identity()
        keys = {
            name: f"reply/{digest(list(messages), attempt, identity, self.seed)}"
            for name, (messages, attempt) in requests.items()
        }
        new = {keys[name]: (name, *request) for name, request in requests.items() if keys[name] not in self.journal}
        kept, failures, outage = ranks.first(lambda: self._ask_now(new)) if new else ({}, {}, None)
        for where in kept.keys() - self.journal:
            self.journal.put(where, kept[where])
        for where in dict.fromkeys(k for k in keys.values() if k in self.journal and k not in self._counted):
            self._counted.add(where)
            self.player.sampled += self.journal[where].get("tokens", 0)  # as if it had been sampled now, and here
        if outage is not None:
            raise outage
        return {name: failures.get(k) or self.journal[k]["reply"] for name, k in keys.items()}

    def _ask_now(self, new: Mapping[str, tuple[str, Sequence[Message], int]]) -> tuple[Any, Any, Outage | None]:
        """The rows that this brought into the journal, what failed, and whether the writer is down."""
        failures: dict[str, Exception] = {}
        outage = None
        try:
            self.player.run(self._ask_all(new, failures))
        except Outage as error:
            outage = error
        kept = {where: self.journal[where] for where in new if where in self.journal}
        return kept, {where: ranks.portable(error) for where, error in failures.items()}, outage

    async def _ask_all(
        self, requests: Mapping[str, tuple[str, Sequence[Message], int]], failures: dict[str, Exception]
    ) -> None:
        async def ask(where: str, name: str, messages: Sequence[Message], attempt: int) -> None:
            seed = key(self.seed, where, attempt)
            try:
                reply = await self.writer.write(messages, seed=seed)
            except Exception as error:
                failures[where] = error
                self._failed += 1
                log.warning("no reply of %s on %s: %s", self.writer.name, name, error)
                if self._failed >= PATIENCE:
                    raise Outage(f"{self.writer.name}: {self._failed} requests in a row failed; {error}") from error
                return
            self._failed = 0
            self._counted.add(where)
            tokens = getattr(self.writer, "tokens", {}).pop(seed, 0)  # of the run's own policy
            self.journal.put(where, {"for": name, "attempt": attempt, "reply": reply, "tokens": tokens})

        try:
            async with asyncio.TaskGroup() as asking:
                for where, request in requests.items():
                    asking.create_task(ask(where, *request))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
