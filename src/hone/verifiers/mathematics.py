"""Mathematical equivalence, by math-verify (https://github.com/huggingface/Math-Verify)."""

from __future__ import annotations

import logging
import re
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, How, extract, present
from hone.verifiers.expressions import MAX_DIGITS, digits
from hone.verifiers.verdict import invalid, verdict

_MAX_LENGTH = 2_000
_MAX_DEPTH = 30

# What sympy and the LaTeX parser raise over text that means nothing; anything else is a fault of the verifier.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)


@settings
class MathVerifier:
    r"""Whether the final answer equals ``task.answer``: numbers, fractions, sets, intervals, expressions, LaTeX.

    math-verify's own time limits are off: they work through SIGALRM and turn a time-out into a wrong answer. The pool
    limits the time instead. Answers that would be hopeless to evaluate (``9^{9^{9^9}}``) score 0 without being
    evaluated, and so does an answer that only restates the problem, as an integral, sum, product, limit or derivative
    that the reference does not hold either.

    Attributes:
        extract: Where the answer stands; see :mod:`hone.verifiers.answers`.
        float_rounding: Decimal places to which a floating-point answer is compared.
        max_chars: How much of the end of the response is read.
    """

    extract: How = "boxed"
    float_rounding: int = Field(6, ge=0)
    max_chars: int = Field(MAX_CHARS, ge=1)

    def prepare(self) -> None:
        """Import math-verify and compile its patterns, so that the first verdict is not charged for it."""
        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
        _parse("1")

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 when equal, 0.0 when not, or when there is no readable answer ("invalid").

        Raises:
            ValueError: The reference answer cannot be parsed, or not even be compared with itself.
        """
        gold = _parse(str(task.answer))
        if not gold or not self._equal(gold, gold):
            raise ValueError(f"the reference answer {task.answer!r} cannot be read as mathematics")
        answer = extract(trajectory.response, self.extract, self.max_chars)
        if answer is None or _absurd_text(answer):
            return invalid()
        try:
            candidates = _parse(answer)
            if not candidates or _absurd(candidates) or (_unfinished(candidates) and not _unfinished(gold)):
                return invalid()
            return verdict(self._equal(gold, candidates))
        except _NONSENSE:
            return invalid()

    def _equal(self, gold: list[Any], candidates: list[Any]) -> bool:
        from math_verify import verify

        return verify(gold, candidates, float_rounding=self.float_rounding, timeout_seconds=None, raise_on_error=True)

    def example(self, task: Task) -> str | None:
        """The reference answer, where the setting looks for it."""
        return present(_tidy(str(task.answer)), self.extract)


def _parse(answer: str) -> list[Any]:
    """The answer as sympy expressions, followed by its text; empty when there is nothing in it."""
    from math_verify import LatexExtractionConfig, parse

    # The answer has been found already: inside a box math-verify reads all of it, and does not search again.
    return parse(rf"\boxed{{{_tidy(answer)}}}", [LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True)


def _tidy(answer: str) -> str:
    """Drop what surrounds an answer in running text (Markdown bold, dollar signs, the full stop); write ** as ^."""
    plain = answer.strip().removeprefix("**").removesuffix("**").strip().rstrip(".").strip("$").strip()
    return plain.replace("**", "^")


def _absurd_text(answer: str) -> bool:
    """Whether parsing itself would take too long: the parser's time grows steeply with depth."""
    depth = deepest = 0
    for character in answer:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    huge_binomial = re.search(r"binom|choose", answer) and re.search(r"[0-9]{5}", answer)
    return len(answer) > _MAX_LENGTH or deepest > _MAX_DEPTH or bool(huge_binomial)


def _absurd(candidates: list[Any]) -> bool:
    return any(digits(candidate) > MAX_DIGITS for candidate in candidates)


def _unfinished(candidates: list[Any]) -> bool:
    """Whether evaluation is left to the reader. It is also where sympy may search for minutes."""
    from sympy import Basic, Derivative, Integral, Limit, Product, Sum

    return any(isinstance(c, Basic) and c.has(Derivative, Integral, Limit, Product, Sum) for c in candidates)
