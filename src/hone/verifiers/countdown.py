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
from hone.verifiers.verdict import invalid, verdict


@settings
class CountdownVerifier:
    """Whether an equation reaches the target with the given numbers; exact, and nothing is evaluated but + - * /.

    The numbers and the target are ``nums`` and ``target`` of the task's answer or meta. The equation is the last line
    inside ``<answer>``, or of the response without that tag; it may end with "= target".

    Attributes:
        use_all: Every number exactly once; otherwise each at most once.
        max_chars: How much of the end of the response is read.
    """

    use_all: bool = True
    max_chars: int = Field(MAX_CHARS, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 for a right equation, 0.0 for a wrong one or none ("invalid")."""
        game = _game(task)
        text = extract(trajectory.response, "tag", self.max_chars)
        equation = extract(text or "", "last_line")
        if equation is None:
            return invalid()
        try:
            return verdict(reaches(equation, game["nums"], game["target"], use_all=self.use_all))
        except ValueError:
            return invalid()

    def example(self, task: Task) -> str | None:
        """The stored solution, if there is one."""
        solution = _game(task).get("solution")
        return solution and f"<answer>{solution}</answer>"


def reaches(equation: str, numbers: Sequence[int], target: int, *, use_all: bool = True, negate: bool = False) -> bool:
    """Whether the equation uses the numbers, as often as they are given, and its value is the target.

    Raises:
        ValueError: The text is not arithmetic; see :func:`~hone.verifiers.expressions.arithmetic` (and ``negate``).
    """
    left, equals, right = equation.strip().rstrip(".").partition("=")
    value, used = arithmetic(left, negate=negate)
    if equals and arithmetic(right, negate=True)[0] != target:
        return False
    fits = Counter(used) == Counter(numbers) if use_all else Counter(used) <= Counter(numbers)
    return fits and value == target


def _game(task: Task) -> dict[str, Any]:
    """The task's numbers and target, from its meta and its answer (a mapping, or the target alone)."""
    answer = task.answer if isinstance(task.answer, Mapping) else {"target": task.answer}
    return {**{key: value for key, value in answer.items() if value is not None}, **task.meta}
