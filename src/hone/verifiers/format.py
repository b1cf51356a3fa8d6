"""The form of a response, whatever it says."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import Pattern


@settings
class FormatVerifier:
    """Whether the response matches a regular expression.

    A pattern that backtracks without end is cut off by the pool's time limit, and is an error rather than a verdict.

    Attributes:
        pattern: Python's syntax; dots match newlines.
        match: "fullmatch" holds the whole response to it, "search" looks for it anywhere.
        max_chars: A longer response scores 0.
    """

    pattern: Pattern
    match: Literal["fullmatch", "search"] = "fullmatch"
    max_chars: int = Field(200_000, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 or 0.0."""
        response = trajectory.response
        if len(response) > self.max_chars:
            return Score(0.0)
        return Score(float(bool(getattr(re.compile(self.pattern, re.DOTALL), self.match)(response))))

    def example(self, task: Task) -> str | None:
        """Unknown: a pattern cannot be run backwards."""
        return None
