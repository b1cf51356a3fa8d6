"""The tasks of a play, shared with the other processes of a run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from hone import ranks
from hone.dealing import costliest, dealt
from hone.types import Group, Task

REMEMBERED = 16384
"""Tasks whose length is remembered: those of a source without end do not come back."""
PAUSE = 0.2
"""Seconds between two looks at what other processes say."""
_numbers = count()
"""Every process makes the same shares in the same order."""


class Share:
    """What this process plays.

    The longest are dealt first, to each process so many as it has room for. Those that wait then are taken by whoever
    has played one to its end: behind a slow process nothing waits. If one gives up, all do.

    Args:
        lengths: Of the answers to each task, as expected.
        room: Most tasks to begin with; None for no limit.
        finished: Told in the first process of every group and its place, whoever played it, as soon as it is there.

    Attributes:
        places: Of the tasks to begin with.
        awaits: Groups of which ``finished`` is still to be told here.
    """

    def __init__(
        self, lengths: Sequence[float], room: int | None, finished: Callable[[int, Group], None] | None = None
    ) -> None:
        self._finished = finished
        self.awaits = 0 if finished is None or ranks.index() else len(lengths)
        self._heard = 0
        self._waiting: list[int] = []
        if not ranks.several():
            self.places = list(range(len(lengths)))
            return
        hands = dealt(lengths, ranks.count(), room)
        self.places = hands[ranks.index()]
        begun = {place for hand in hands for place in hand}
        self._waiting = [place for place in costliest(lengths) if place not in begun]
        self._counter = f"play {next(_numbers)}"

    def another(self) -> int | None:
        """The place of the next task that waits, now this process's own; None if there is none."""
        if not self._waiting or self._given_up():
            return None
        number = ranks.take(self._counter)
        return self._waiting[number] if number < len(self._waiting) else None

    def tell(self, place: int, group: Group) -> None:
        """A group has been played here: have the first process hear of it, if anybody wants to know."""
        if self._finished is None:
            return
        if ranks.index():
            ranks.post(f"{self._counter} group {ranks.take(f'{self._counter} groups')}", (place, group))
        else:
            self._told(place, group)

    def hear(self) -> None:
        """Have ``finished`` told of what other processes have played by now."""
        while self.awaits and ranks.several() and ranks.posted(name := f"{self._counter} group {self._heard}"):
            self._heard += 1
            self._told(*ranks.fetch(name))

    async def attend(self, plays: Sequence[asyncio.Task[None]]) -> None:
        """Hear of the groups of other processes, of all that are awaited or until it is cancelled.

        If one of them gives up, the plays here end.
        """
        awaited = bool(self.awaits)
        while ranks.several() and bool(self.awaits) == awaited:
            self.hear()
            if self._given_up():
                for play in plays:
                    play.cancel()
                return
            await asyncio.sleep(PAUSE)

    def give_up(self) -> None:
        """Have no process begin anything more, nor end what it has begun; the reason is told by :func:`together`."""
        if ranks.several():
            with suppress(RuntimeError):  # the first process may have ended, and then all hear of that
                ranks.post(f"{self._counter} given up", None)

    def _given_up(self) -> bool:
        return ranks.posted(f"{self._counter} given up")

    def _told(self, place: int, group: Group) -> None:
        self.awaits -= 1
        self._finished(place, group)


class Lengths:
    """How long answers are likely to be, from how long they were: only the order of play depends on it."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()

    def learn(self, groups: Sequence[Group]) -> None:
        """Remember what was played."""
        for group in groups:
            self._seen[group.task.id] = group.generated / max(1, len(group))
            self._seen.move_to_end(group.task.id)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def expected(self, tasks: Sequence[Task]) -> list[float]:
        """Steps of an answer: those of the last time, else the usual number; a longer prompt counts a little more."""
        usual = sum(self._seen.values()) / len(self._seen) if self._seen else 1.0
        return [self._seen.get(task.id, usual) + 1e-3 * _characters(task) for task in tasks]


def together(play: Callable[[], dict[int, Group]], tasks: int) -> list[Group]:
    """All groups of so many tasks, in their order, from what each process plays."""
    parts = ranks.each(play)
    found = {place: group for part in parts for place, group in part.items()}
    if (played := sum(map(len, parts))) != tasks or len(found) != tasks:
        raise RuntimeError(f"of {tasks} tasks {len(found)} were played, {played} times in all")
    return [found[place] for place in range(tasks)]


def _characters(task: Task) -> int:
    return sum(len(str(message.get("content", ""))) for message in task.prompt)
