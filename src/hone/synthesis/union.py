"""A source's tasks with their rewrites among them, some tasks at a time, with an exact state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from hone.keys import key
from hone.seats import TaskSource
from hone.synthesis.provenance import digest_of_task
from hone.synthesis.rewriting import rewritten
from hone.types import Task

Rewrites = Callable[[Sequence[Task]], list[dict[str, str]]]
"""The rewrites of some tasks, as plain data: ``seed`` (the task's hash), ``name`` (the new id), ``question``."""


class Union:
    """Hands out every task of a source once, in the source's order, and each of its rewrites once, at keyed places.

    A rewrite comes in the same block of the source's tasks as its seed. Where there are no rewrites, what is handed out
    is what the source gives. (It is no :class:`~hone.seats.TaskSource` itself, but what is within one.)

    Args:
        source: Of the seeds.
        size: Tasks of the source to a block.
        seed: Keys the places.
        rewrites: Called once for each block, when its first task is asked for.
        replace: Leave out the tasks that have rewrites.
    """

    def __init__(self, source: TaskSource, size: int, seed: int, rewrites: Rewrites, *, replace: bool) -> None:
        self._source, self._size, self._seed = source, size, seed
        self._rewrites, self._replace = rewrites, replace
        self._number = 0
        self._forget()

    def take(self) -> Task:
        """The next task.

        Raises:
            StopIteration: The source has ended.
        """
        if self._saved is not None and self._order is None:
            self._order = self._ordered(self._read(), self._saved)
        while self._order is None or self._position == len(self._order):
            self._open()
        self._position += 1
        return self._order[self._position - 1]

    def state(self) -> dict[str, Any]:
        """The source's state before the block, which block it is, its rewrites, and how much of it was handed out."""
        inside = self._saved is not None
        return {
            "source": self._start if inside else self._source.state_dict(),
            "block": self._number,
            "position": self._position,
            "rewrites": self._saved,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the union that gave this state would have gone on; nothing is read before it is asked for."""
        self._source.load_state_dict(state["source"])
        self._forget()
        self._number, self._position = state["block"], state["position"]
        self._start, self._saved = state["source"], state["rewrites"]

    def _forget(self) -> None:
        self._position = 0
        self._start: Any = None
        self._saved: list[dict[str, str]] | None = None
        self._order: list[Task] | None = None

    def _open(self) -> None:
        """Go on to the next block; if that fails, nothing has been read."""
        start = self._source.state_dict()
        try:
            tasks = self._read()
            if not tasks:
                raise StopIteration
            rewrites = self._rewrites(tasks)
        except BaseException:
            self._source.load_state_dict(start)
            raise
        self._number += self._order is not None
        self._start, self._saved, self._position = start, rewrites, 0
        self._order = self._ordered(tasks, rewrites)

    def _read(self) -> list[Task]:
        return list(islice(self._source, self._size))

    def _ordered(self, tasks: Sequence[Task], rewrites: Sequence[Mapping[str, str]]) -> list[Task]:
        """The block's tasks, each with its rewrites before, behind or between any of them."""
        seeds = {digest_of_task(task): task for task in tasks}
        if strange := [made["name"] for made in rewrites if made["seed"] not in seeds]:
            raise ValueError(f"the source no longer gives the task that {strange[0]!r} was made of")
        gone = {made["seed"] for made in rewrites} if self._replace else set()
        placed = [((float(i), 0), task) for i, task in enumerate(tasks) if digest_of_task(task) not in gone]
        for made in rewrites:
            place = key(self._seed, self._number, made["name"])
            where = (place % (len(tasks) + 1) - 0.5, place)
            placed.append((where, rewritten(seeds[made["seed"]], made["question"], made["name"])))
        return [task for _, task in sorted(placed, key=lambda pair: pair[0])]
