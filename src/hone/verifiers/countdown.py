"""The countdown game: combine the given numbers into the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, extract
from hone.verifiers.expressions import arithmetic
from hone.verifiers.references import whole_number, whole_numbers
from hone.verifiers.verdict import invalid, verdict

# What stands around an equation in Markdown and LaTeX. Single asterisks do not: they are signs.
_WRAPPINGS = [("**", "**"), ("`", "`"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}")]
_CLOSERS = {"$$", "```", r"\]"}


@settings
class CountdownVerifier:
    r"""Whether an equation reaches the target with the given numbers; exact, and nothing is evaluated but + - * /.

    The numbers and the target are ``nums`` and ``target`` of the task's answer or meta, as numbers or as the text of a
    CSV file: ``"[3, 5, 20]"``, ``"3 5 20"``, ``"35"``. The equation is the last line inside ``<answer>``, or of the
    response without that tag. It is read as a person would who takes it by its word: ``20 + 3 * 5``,
    ``20 + 3 * 5 = 35`` and ``35 = 20 + 3 * 5`` are the same, and so they are in ``$...$``, ``\(...\)``, ``**...**``,
    backquotes or ``\boxed{...}``, and before a full stop. Words beside it, a second "=", or a side that is not the
    target, and it is not.

    Attributes:
        use_all: Every number exactly once; otherwise each at most once.
        max_chars: How much of the end of the response is read.
    """

    use_all: bool = True
    max_chars: int = Field(MAX_CHARS, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 for a right equation, 0.0 for a wrong one or none ("invalid").

        Raises:
            ValueError: The task's numbers or its target are missing, or are not whole numbers.
        """
        fields = _fields(task)
        numbers = whole_numbers(task, "nums", fields.get("nums"))
        target = whole_number(task, "target", fields.get("target"))
        text = extract(trajectory.response, "tag", self.max_chars)
        lines = [line for line in (text or "").splitlines() if line.strip() and line.strip() not in _CLOSERS]
        if not lines:
            return invalid()
        try:
            return verdict(reaches(lines[-1], numbers, target, use_all=self.use_all))
        except ValueError:
            return invalid()

    def example(self, task: Task) -> str | None:
        """The stored solution, if there is one."""
        solution = _fields(task).get("solution")
        return f"<answer>{solution}</answer>" if isinstance(solution, str) and solution.strip() else None


def reaches(equation: str, numbers: Sequence[int], target: int, *, use_all: bool = True, negate: bool = False) -> bool:
    """Whether a side of the equation uses the numbers, as often as they are given, and every side is the target.

    Raises:
        ValueError: The text is not arithmetic; see :func:`~hone.verifiers.expressions.arithmetic` (and ``negate``).
    """
    sides = [_bare(side) for side in _bare(equation).split("=", maxsplit=1)]
    if any(arithmetic(side, negate=True)[0] != target for side in sides):
        return False

    def fits(side: str) -> bool:
        try:
            used = Counter(arithmetic(side, negate=negate)[1])
        except ValueError:  # it has a sign
            return False
        return used == Counter(numbers) if use_all else used <= Counter(numbers)

    return any(map(fits, sides))


def _bare(text: str) -> str:
    """Take off the wrappings, each only where it is one pair around the whole."""
    while True:
        text = text.strip().rstrip(".").rstrip()
        for opening, closing in _WRAPPINGS:
            inner = text[len(opening) : -len(closing)]
            if text == f"{opening}{inner}{closing}" and closing not in inner:
                text = inner
                break
        else:
            return text


def _fields(task: Task) -> dict[str, Any]:
    """What the task's meta and its answer (a mapping, or the target alone) say of the game; without nulls."""
    answer = task.answer if isinstance(task.answer, Mapping) else {"target": task.answer}
    return {name: value for name, value in [*answer.items(), *task.meta.items()] if value is not None}
