"""Reading a source of tasks for another purpose than to train on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from hone.seats import TaskSource
from hone.types import Task


def once(source: TaskSource, limit: int | None = None) -> Iterator[Task]:
    """A source's tasks, at most ``limit``, up to its end or the first task that it gives again."""
    seen: set[str] = set()
    for task in islice(source, limit):
        if task.id in seen:
            return
        seen.add(task.id)
        yield task


def batches(tasks: Iterator[Task], size: int) -> Iterator[list[Task]]:
    """The tasks, so many at a time."""
    while batch := list(islice(tasks, size)):
        yield batch


def peek(source: TaskSource, limit: int) -> list[Task]:
    """A source's first tasks; it is left as it was."""
    cursor = source.state_dict()
    tasks = list(once(source, limit))
    source.load_state_dict(cursor)
    return tasks
