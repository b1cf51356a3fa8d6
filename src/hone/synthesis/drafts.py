"""What becomes of a seed and of the drafts that a writer makes of it, and the rows that tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any

from hone.synthesis import rewriting
from hone.synthesis.provenance import digest, digest_of_task
from hone.synthesis.rollouts import Tally
from hone.types import Task


@dataclass
class Seed:
    """A task that is tried as a seed.

    Attributes:
        task: As the source gave it.
        before: Rollouts by which it was selected.
        fresh: Further ones, which selected nothing; only of seeds with an accepted draft.
        drafts: All that were made of it.
        reason: Why nothing was made of it.
    """

    task: Task
    before: Tally | None = None
    fresh: Tally | None = None
    drafts: list[Draft] = field(default_factory=list)
    reason: str | None = None

    @cached_property
    def hash(self) -> str:
        """Of what it asks, and of its answer."""
        return digest_of_task(self.task)

    @property
    def question(self) -> str:
        """Its text."""
        return rewriting.question(self.task)

    @property
    def accepted(self) -> list[Draft]:
        """The drafts that nothing speaks against."""
        return [draft for draft in self.drafts if draft.reason is None]


@dataclass
class Draft:
    """One attempt at a harder question.

    Attributes:
        seed: What it was made of.
        attempt: Its number, from 1.
        source: The text that was rewritten: the seed's, or that of an accepted draft.
        question: The new text.
        reason: Why it was rejected; None while nothing speaks against it.
        detail: More of the reason, for people.
        grade: The judge's, 0 to 10.
        after: Rollouts by which it was accepted or rejected.
        fresh: Further ones, which selected nothing unless they are required to.
        blind: Rollouts without its images.
    """

    seed: Seed
    attempt: int
    source: str
    question: str | None = None
    reason: str | None = None
    detail: str | None = None
    grade: float | None = None
    after: Tally | None = None
    fresh: Tally | None = None
    blind: Tally | None = None

    @property
    def name(self) -> str:
        """The id of its task: stable, for it comes from the seed's id and from the text."""
        return f"{self.seed.task.id}/synth-{digest(self.question)[:8]}"

    @property
    def task(self) -> Task:
        """The seed's task with the new question; answer, images and what verifiers read are the seed's own."""
        return rewriting.rewritten(self.seed.task, self.question, self.name)


def accepted_rows(seed: Seed, provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows that ``files`` reads as tasks, with how each came about."""
    for draft in seed.accepted:
        task = draft.task
        meta = {name: value for name, value in task.meta.items() if _is_plain(value)}
        row = {"id": task.id, "prompt": [dict(m) for m in task.prompt], "answer": task.answer, "meta": meta}
        for name in ("prompt", "answer"):
            if not _is_plain(row[name]):
                raise ValueError(f"task {seed.task.id!r}: its {name} is not plain data; give images by path or URL")
        if left_out := sorted(task.meta.keys() - meta.keys()):
            row["meta_left_out"] = left_out  # not JSON; where the source itself gives the seed, it is all there
        yield row | _story(seed, draft, provenance)


def rejected_rows(seed: Seed, provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for a seed of which nothing was made, or one for each of its rejected drafts."""
    if seed.reason is not None:
        yield _story(seed, None, provenance) | {"reason": seed.reason}
    for draft in seed.drafts:
        if draft.reason is not None:
            yield _story(seed, draft, provenance) | {"reason": draft.reason, "detail": draft.detail}


def _story(seed: Seed, draft: Draft | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    tallies = {"before": seed.before, "fresh_before": seed.fresh}
    made: dict[str, Any] = {}
    if draft is not None:
        tallies |= {"after": draft.after, "fresh_after": draft.fresh, "blind": draft.blind}
        made = {"attempt": draft.attempt, "question": draft.question, "grade": draft.grade}
    return {
        **made,
        "rollouts": {name: asdict(tally) for name, tally in tallies.items() if tally is not None},
        "seed": {"id": seed.task.id, "hash": seed.hash, "question": seed.question},
        "provenance": dict(provenance),
    }


def _is_plain(value: Any) -> bool:
    """Whether JSON holds it as it is, but for tuples."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))
