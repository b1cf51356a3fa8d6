"""Counts of attempts at a task, and the lines in which :mod:`hone.tasks.failures` stores them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hone.types import Group, Task

Row = Mapping[str, Any]
"""A line of the store, a task: ``id``, ``prompt``, ``answer``, ``meta``; ``failures``, each with ``text`` and ``stop``;
how many attempts ``passed``, ``failed``, or had no verdict (``errors``); a hash of what was ``asked``, and how it was
``made``."""


@dataclass
class Tally:
    """What became of the attempts at one task.

    Attributes:
        task: What was asked.
        success: Reward from which on an attempt passes.
        keep: Most failures that are kept.
        failures: The first different texts that failed, and why each of them ended.
    """

    task: Task
    success: float
    keep: int
    passed: int = 0
    failed: int = 0
    errors: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def count(self, group: Group) -> None:
        """Take more attempts in; those without a verdict are no failures."""
        for attempt in group:
            if attempt.reward is None:
                self.errors += 1
            elif attempt.reward >= self.success:
                self.passed += 1
            else:
                self.failed += 1
                if len(self.failures) < self.keep:
                    self.failures.setdefault(attempt.response, attempt.stop)

    @property
    def judged(self) -> int:
        """Attempts with a verdict."""
        return self.passed + self.failed

    def row(self, asked: str, made: Row) -> dict[str, Any]:
        """A line of the store.

        Raises:
            ValueError: The task is not plain data.
        """
        task = self.task
        row = {
            "id": task.id,
            "prompt": list(task.prompt),
            "answer": task.answer,
            "meta": dict(task.meta),
            "failures": [{"text": text, "stop": stop} for text, stop in self.failures.items()],
            "passed": self.passed,
            "failed": self.failed,
            "errors": self.errors,
            "asked": asked,
            "made": made,
        }
        try:
            json.dumps(row, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tasks.failures: task {task.id!r} cannot be stored as JSON: {error}") from error
        return row


def asked_again(row: Row) -> Task:
    """The task of a line."""
    return Task(row["id"], row["prompt"], row["answer"], row["meta"])


def with_failures(row: Row) -> Iterator[Task]:
    """The task of a line once for each failure that is kept, by an id of its own."""
    for number, attempt in enumerate(row["failures"]):
        yield Task(f"{row['id']}#{number}", row["prompt"], row["answer"], {**row["meta"], "attempt": attempt})


def pass_rate(row: Row) -> float:
    """The share of judged attempts that passed."""
    return row["passed"] / (row["passed"] + row["failed"])


def differences(theirs: Row, ours: Row) -> list[str]:
    """How a line was made that ours are not."""
    return [
        f"{name} was {theirs.get(name)!r} and is {value!r}" for name, value in ours.items() if theirs.get(name) != value
    ]


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """What the lines hold together."""
    rows = list(rows)
    return {
        "tasks": len(rows),
        "tasks with a failure": sum(bool(row["failures"]) for row in rows),
        "failures": sum(len(row["failures"]) for row in rows),
        **{
            f"attempts {what}": sum(row[name] for row in rows)
            for name, what in (("passed", "passed"), ("failed", "failed"), ("errors", "without a verdict"))
        },
    }
