"""The scorers of Reasoning Gym (https://github.com/open-thought/reasoning-gym), made safe to train on.

Measured over release 0.1.25, some of its scorers cannot be used as they are. They pay floors to any text; they raise
over text that they cannot read; they pay the right reward for wrong answers (puzzle24 never looks at which numbers were
used, game_of_life_halting takes any text, complex_arithmetic takes "n an" and number_sorting a list of NaN, whose
distance from anything is not too large, coin_flip takes "0" for 0.375, whose first digit it is); and they run the
answer as Python. Below is what is done about each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, How, extract, has_odd_digits, present
from hone.verifiers.countdown import reaches
from hone.verifiers.expressions import has_huge_exponent, is_formula, is_literal
from hone.verifiers.references import is_missing
from hone.verifiers.verdict import invalid, verdict

Entry = Mapping[str, Any]
"""An item of a Reasoning Gym dataset: question, answer and metadata."""

_REPLACED: dict[str, Callable[[str, Entry], bool]] = {
    "countdown": lambda answer, entry: _uses(answer, entry, entry["metadata"]["target"]),
    "puzzle24": lambda answer, entry: _uses(answer, entry, 24),
    "game_of_life_halting": lambda answer, entry: answer.lower() == entry["answer"].lower(),
    "coin_flip": lambda answer, entry: _near(answer, entry["answer"]),
}
"""Judged here. The first two would also run the answer as Python."""

_READABLE: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(["simple_integration", "intermediate_integration", "polynomial_multiplication"], is_formula),
    **dict.fromkeys(
        ["binary_matrix", "n_queens", "spiral_matrix", "string_insertion"],
        lambda answer: bool(re.fullmatch(r"[A-Z0-9_\s]*", answer)) or is_literal(answer),
    ),
    "complex_arithmetic": lambda answer: bool(re.fullmatch(r"[0-9.eij+\-()\s]*", answer.lower())),
    "number_sorting": lambda answer: bool(re.fullmatch(r"[0-9.e+\-,\s\[\]'\"]*", answer.lower())),
    "rubiks_cube": lambda answer: not re.search(r"[0-9]{3}", answer),  # a move is written out as often as it says
}
"""What an answer must be for the scorer to see it. Those above complex_arithmetic run it as Python."""

_RAISES = {"boxnet", "calendar_arithmetic", "codeio", "game_of_life", "prime_factorization", "time_intervals"}
"""Scorers that raise over text that they cannot read; from any other an exception is a failure."""

_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_FLOOR = 0.05
_FLOORS = {"propositional_logic": 0.25}
"""Raw scores up to these are paid for nothing: for text of the right form, or (0.25) for a tautology."""

_ORACLES: dict[str, Callable[[Entry], str | None]] = {
    "boxnet": lambda entry: None,
    "graph_color": lambda entry: json.dumps(entry["metadata"]["possible_answer"]),
    "propositional_logic": lambda entry: entry["metadata"]["example_answer"],
    "rubiks_cube": lambda entry: entry["metadata"]["example_correct_answer"],
    "rush_hour": lambda entry: None,
}
"""Where the answer stands for tasks whose ``answer`` is None; two have none."""


@settings
class ReasoningGymVerifier:
    """Scores the answer to ``task.meta["entry"]`` as the entry's own dataset does.

    Attributes:
        extract: Where the answer stands; see :mod:`hone.verifiers.answers`.
        partial: Pay the raw score, without the floors that any text earns; otherwise only full marks count, as 1.0.
        max_chars: How much of the end of the response is read.
    """

    extract: How = "tag"
    partial: bool = False
    max_chars: int = Field(MAX_CHARS, ge=1)

    def prepare(self) -> None:
        """Import reasoning_gym, which takes a second or two."""
        import reasoning_gym  # noqa: F401

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 for a right answer (a fraction for a partly right one, with ``partial``), 0.0 otherwise.

        Raises:
            KeyError: The task has no entry, or its entry no "source_dataset".
            ValueError: Reasoning Gym has no such dataset, or the entry lacks the answer that this one needs.
        """
        entry = task.meta["entry"]
        name = entry["metadata"]["source_dataset"]
        if is_missing(entry["answer"]) and name not in _ORACLES:
            raise ValueError(f"task {task.id!r}: its entry has no answer, but {entry['answer']!r}")
        answer = extract(trajectory.response, self.extract, self.max_chars)
        readable = answer is not None and not has_odd_digits(answer, str(entry["answer"]))
        raw = _score(answer, entry) if readable else None
        if raw is None:
            return invalid()
        if self.partial:
            return verdict(raw if raw > _FLOORS.get(name, _FLOOR) else 0.0, answer)
        return verdict(raw >= 1.0, answer)

    def example(self, task: Task) -> str | None:
        """The stored answer, where the setting looks for it; None for the tasks that store none of use."""
        entry = task.meta["entry"]
        name = entry["metadata"]["source_dataset"]
        oracle = _ORACLES.get(name, lambda entry: entry["answer"])(entry)
        # Of intermediate_integration's stored answers one in eight still holds the integral.
        if oracle is None or not (oracle == "" or _READABLE.get(name, bool)(oracle)):
            return None
        return present(oracle, self.extract)


def _score(answer: str, entry: Entry) -> float | None:
    """The raw score, or None for an answer that cannot be read."""
    name = entry["metadata"]["source_dataset"]
    if not answer or entry["answer"] == "":  # some polynomials have no roots; their scorer pays for any text then
        return float(answer == entry["answer"])
    if name in _REPLACED:
        return float(_REPLACED[name](answer, entry))
    if not _READABLE.get(name, bool)(answer):
        return None
    try:
        return float(_scorer(name)(answer, entry))
    except RecursionError:  # nested too deep for any parser
        return None
    except _UNREADABLE:
        if name not in _RAISES:
            raise
        return None


@cache
def _scorer(name: str) -> Callable[[str, Entry], float]:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(name)


def _near(answer: str, right: str, tolerance: float = 1e-4) -> bool:
    """Whether a decimal or a fraction is the probability, to the scorer's own tolerance."""
    if has_huge_exponent(answer):
        return False
    try:
        return abs(Fraction(answer.replace(",", "")) - Fraction(right.replace(",", ""))) <= tolerance
    except (ValueError, ZeroDivisionError):
        return False


def _uses(answer: str, entry: Entry, target: int) -> bool:
    numbers = entry["metadata"]["numbers"]
    try:
        return reaches(answer, numbers, target, negate=True)
    except ValueError:
        return False
