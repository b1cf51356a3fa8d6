"""Tasks that Reasoning Gym makes up (arXiv 2505.24760; package ``reasoning-gym``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from hone.keys import key
from hone.seats import settings
from hone.tasks.gym_generators import Generator, check_spec
from hone.tasks.mixture import choose
from hone.types import Task


@settings
class TaskSpec:
    """How often a Reasoning Gym task is drawn, and how hard it is.

    Attributes:
        weight: Relative to the other tasks.
        config: Settings of the task's own configuration class; what is absent keeps its default.
    """

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    config: dict[str, Any] = Field(default_factory=dict)


@settings
class ReasoningGym:
    """A Reasoning Gym task, or a weighted mixture of several.

    ::

        reasoning_gym:
          tasks:
            basic_arithmetic: {config: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 2}}
            gcd: {weight: 0.5}

    Every item has a seed of its own, hashed from ``seed``, the split, the task and the item's number: Reasoning
    Gym's own items are seeded with ``seed + index``, so that two of its data sets with neighbouring seeds are one and
    the same but for one item.

    The splits never share a question. A hash of its text, which no seed enters, says to which one a question belongs;
    a draw that belongs to the other is thrown away. So a held-out item costs about ``1 / holdout`` draws, which is
    felt where a draw is slow (knight_swap 0.4 s, futoshiki 0.2 s, zebra_puzzles 0.1 s; most are below 1 ms). Where a
    configuration allows few questions, they repeat within a split.

    ``meta["entry"]`` is the item with its metadata, which a verifier needs where there is more than one right answer,
    and ``meta["config"]`` the configuration that it was made with.

    Attributes:
        tasks: The name of one task, with its default configuration; or a mapping of names to :class:`TaskSpec`.
        split: Which questions to draw.
        holdout: Fraction of all questions that is held out.
        seed: Of the items.
        limit: Number of items; None goes on without end.
    """

    tasks: str | dict[str, TaskSpec]
    split: Literal["train", "heldout"] = "train"
    holdout: float = Field(0.2, gt=0, lt=1)
    seed: int = 0
    limit: int | None = Field(None, ge=1)

    def __post_init__(self) -> None:
        self._cursor = 0
        self._seen: set[str] = set()
        self._generators: dict[str, Generator] = {}
        if not self.tasks:
            raise ValueError("tasks: none named")
        for name, spec in self._specs.items():
            check_spec(name, spec.config)

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        if self.limit is not None and self._cursor >= self.limit:
            raise StopIteration
        name = choose({name: spec.weight for name, spec in self._specs.items()}, self.seed, self.split, self._cursor)
        entry = self._draw(name)
        if self.split == "heldout":
            self._seen.add(entry["question"])
        task = Task(
            id=f"reasoning_gym/{name}/{self.split}/{self.seed}/{self._cursor}",
            prompt=[{"role": "user", "content": entry["question"]}],
            answer=entry["answer"],
            meta={"entry": entry, "config": self._specs[name].config},
        )
        self._cursor += 1
        return task

    def state_dict(self) -> dict[str, Any]:
        """The cursor: how many tasks have been handed out; and which held-out questions these were."""
        return {"cursor": self._cursor, "seen": sorted(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the source that gave this state would have gone on."""
        self._cursor, self._seen = state["cursor"], set(state["seen"])

    @property
    def _specs(self) -> dict[str, TaskSpec]:
        return {self.tasks: TaskSpec()} if isinstance(self.tasks, str) else self.tasks

    def _draw(self, name: str) -> dict[str, Any]:
        if name not in self._generators:
            self._generators[name] = Generator(name, self._specs[name].config)
        share = self.holdout if self.split == "heldout" else 1 - self.holdout
        # If a new question is left among equally likely ones, fewer than e^-20 of all items would need more.
        attempts = math.ceil(20 * (1 + len(self._seen)) / share)
        for attempt in range(attempts):
            seed = key(self.seed, self.split, name, self._cursor, attempt) % 2**31
            entry = self._generators[name].item(seed)
            heldout = key("holdout", entry["question"]) / 2**63 < self.holdout
            if heldout == (self.split == "heldout") and entry["question"] not in self._seen:
                return entry
        if self._seen:
            raise StopIteration  # there are no more different ones
        raise ValueError(
            f"reasoning_gym task {name!r}: none of {attempts} questions belongs to the {self.split} split; "
            f"its config {self._specs[name].config} allows too few different ones"
        )
