"""A weighted sum of verifiers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from hone.seats import Verifier, settings
from hone.types import Score, Segment, Task, Trajectory
from hone.verifiers.verdict import failed, to_score


@settings
class Combine:
    """The weighted sum of several verifiers' values.

    The score's parts hold each one's own value under its name, and its own parts under "name/part"; its answer
    is that of the first part that reads one. If one fails, the whole does, and says which.

    Attributes:
        parts: Verifiers by name.
        weights: Of each part, by name; equal weights that sum to 1 unless given.
        gate: A part that must be above 0 for the others to count.
    """

    parts: dict[str, Verifier] = Field(min_length=1)
    weights: dict[str, float] | None = None
    gate: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Combine:
        if self.weights is not None and self.weights.keys() != self.parts.keys():
            raise ValueError(f"weights name {sorted(self.weights)}, the parts are {sorted(self.parts)}")
        if self.gate is not None and self.gate not in self.parts:
            raise ValueError(f"the gate {self.gate!r} is none of the parts {sorted(self.parts)}")
        return self

    def prepare(self) -> None:
        """Prepare every part that needs it."""
        for part in self.parts.values():
            getattr(part, "prepare", lambda: None)()

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """The weighted sum, or the first part's error."""
        logged: dict[str, float] = {}
        answer = None
        for name, part in self.parts.items():
            score = _judge(part, task, trajectory)
            if score.error is not None:
                return failed(f"{name}: {score.error}")
            logged[name] = score.value
            answer = score.answer if answer is None else answer
            logged |= {f"{name}/{detail}": value for detail, value in score.parts.items()}
        shut = self.gate is not None and logged[self.gate] <= 0
        counted = [self.gate] if shut else self.parts
        return Score(sum(self._weight(name) * logged[name] for name in counted), logged, answer=answer)

    def example(self, task: Task) -> str | None:
        """The first part's example that earns full marks from every part; None if there is none."""
        for part in self.parts.values():
            text = getattr(part, "example", lambda _: None)(task)
            if text is None:
                continue
            trajectory = Trajectory(task, [Segment("response", "forced", (), text=text)])
            if all(_judge(other, task, trajectory).value == 1 for other in self.parts.values()):
                return text
        return None

    def _weight(self, name: str) -> float:
        return 1 / len(self.parts) if self.weights is None else self.weights[name]


def _judge(verifier: Any, task: Task, trajectory: Trajectory) -> Score:
    try:
        return to_score(verifier(task, trajectory))
    except Exception as error:
        return failed(error)
