"""Instruction following that a program can check: IFEval (J. Zhou et al., arXiv 2311.07911)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.instructions import INSTRUCTIONS, detected, follows
from hone.verifiers.verdict import invalid


@settings
class IFEvalVerifier:
    """Whether the response follows all instructions of the task: ``meta["instruction_id_list"]``, ``meta["kwargs"]``.

    The kinds are those of :mod:`hone.verifiers.instructions`; one that is not known is an error. The score's part
    "instructions" is the share that is followed, so that both of the paper's accuracies, by prompt and by instruction,
    can be read.

    Attributes:
        loose: An instruction is also followed if the response follows it without its first line, its last line or both,
            or without asterisks: section 2.3, for replies that are introduced ("Sure, here it is:") or marked up.
        partial: Pay the share of the instructions that are followed; otherwise only all of them count.
        max_chars: A longer response scores 0.
    """

    loose: bool = False
    partial: bool = False
    max_chars: int = Field(100_000, ge=1)

    def prepare(self) -> None:
        """Load what tells languages apart; where it is missing, the tasks that need it will say so."""
        with suppress(ImportError):
            detected("hello")

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 if all are followed (with ``partial`` the share), 0.0 otherwise; nothing or too much is "invalid".

        Raises:
            ValueError: The task has no instructions, or one that is not known, or with other arguments than it takes.
        """
        asked = _instructions(task)
        text = trajectory.response
        if not text.strip() or len(text) > self.max_chars:
            return invalid()
        forms = list(_forms(text)) if self.loose else [text]
        try:
            followed = [any(follows(kind, form, arguments) for form in forms) for kind, arguments in asked]
        except ValueError as error:
            raise ValueError(f"task {task.id!r}: {error}") from error
        share = sum(followed) / len(followed)
        return Score(share if self.partial else float(all(followed)), {"invalid": 0.0, "instructions": share})

    def example(self, task: Task) -> str | None:
        """Unknown: instructions cannot be run backwards."""
        return None


def _instructions(task: Task) -> list[tuple[str, dict[str, Any]]]:
    kinds, arguments = task.meta.get("instruction_id_list"), task.meta.get("kwargs")
    if not isinstance(kinds, Sequence) or isinstance(kinds, str) or not kinds:
        raise ValueError(f"task {task.id!r}: meta.instruction_id_list is {kinds!r:.80}, not a list of instructions")
    fits = isinstance(arguments, Sequence) and len(arguments) == len(kinds)
    if not fits or not all(isinstance(own, Mapping) for own in arguments):
        raise ValueError(f"task {task.id!r}: meta.kwargs should be a mapping for each of the {len(kinds)} instructions")
    for kind in kinds:
        if kind not in INSTRUCTIONS:
            raise ValueError(f"task {task.id!r}: there is no instruction {kind!r}; known are {', '.join(INSTRUCTIONS)}")
    # Tables of one schema fill what an instruction does not take with nulls.
    return [
        (kind, {name: value for name, value in own.items() if value is not None})
        for kind, own in zip(kinds, arguments, strict=True)
    ]


def _forms(text: str) -> Iterator[str]:
    """The text, and what is left of it without first and last line and without asterisks; none that is blank."""
    lines = text.split("\n")
    for first, last in product((0, 1), (0, 1)):
        kept = "\n".join(lines[first : len(lines) - last]).strip() if first or last else text
        for form in (kept, kept.replace("*", "")):
            if form.strip():
                yield form
