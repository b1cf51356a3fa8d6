"""Building scores: what every verifier returns, and what to make of a plain function's answer."""

from __future__ import annotations

import hashlib
import math
from numbers import Real
from typing import Any

from hone.types import Score

LONGEST_ANSWER = 500
"""Characters of :attr:`~hone.types.Score.answer`; a longer one is told by its hash, which votes as well."""


def verdict(value: float, answer: str | None = None) -> Score:
    """A judged answer: 1.0 (or True) is full marks; and the answer itself, the same text for equal ones."""
    return Score(float(value), {"invalid": 0.0}, answer=answer)


def invalid() -> Score:
    """No answer in the form that the verifier reads: worth 0, and counted by the part "invalid"."""
    return Score(0.0, {"invalid": 1.0})


def failed(error: BaseException | str) -> Score:
    """The verifier itself failed: no value, and the error's type and message (at most 500 characters)."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return Score(None, error=text[:500])


def to_score(value: Any) -> Score:
    """Accept what a verifier may return (a Score, a number or a bool) and turn anything else into an error.

    A numpy scalar (its bool is no number to Python) and an array or tensor without axes are the number they hold.
    """
    if not isinstance(value, Score):
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()
        if not isinstance(value, Real):
            return failed(f"TypeError: a verifier returns a Score, a number or a bool, not {type(value).__name__}")
        value = Score(float(value))
    if value.error is not None:
        return failed(str(value.error))
    if value.value is None or not math.isfinite(value.value):
        return failed(f"ValueError: the verifier's value is {value.value}, not a finite number")
    parts = {str(name): float(part) for name, part in value.parts.items()}
    answer = None if value.answer is None else str(value.answer)
    if answer is not None and len(answer) > LONGEST_ANSWER:
        answer = "blake2b:" + hashlib.blake2b(answer.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
    return Score(float(value.value), parts, answer=answer)
