"""Mathematical equivalence, by math-verify (https://github.com/huggingface/Math-Verify)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from decimal import Decimal
from numbers import Number
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, How, extract, has_odd_digits, present
from hone.verifiers.expressions import MAX_DIGITS, digits, written_digits
from hone.verifiers.references import reference
from hone.verifiers.verdict import invalid, verdict

_MAX_LENGTH = 2_000
_MAX_DEPTH = 30
_MAX_RELATIONS = 50
_MAX_WORDS = 8
_ADVICE = r"where it stands in longer text, answer_pattern takes it out, as in '####\s*(.+)$'"
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_NAMES_OF_NOTHING = {"none", "null", "nan", "<na>"}

# What sympy and the LaTeX parser raise over text that means nothing; anything else is a fault of the verifier.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)


@settings
class MathVerifier:
    r"""Whether the final answer equals ``task.answer``: numbers, fractions, sets, intervals, expressions, LaTeX.

    math-verify's own time limits are off: they work through SIGALRM and turn a time-out into a wrong answer. The pool
    limits the time instead. Answers that would be hopeless to evaluate (``9^{9^{9^9}}``) score 0 without being
    evaluated, and so does an answer that only restates the problem, as an integral, sum, product, limit or derivative
    that the reference does not hold either. Of an equation the right-hand side is the answer, ``x = 3`` or
    ``2 + 1 = 3``; but one that says that two different numbers are equal, ``4 = 3``, is none. (A decimal equals what
    it is a rounding of: ``2/3 = 0.67``.)

    The reference is text or a number. A missing value (null, NaN, or their names outside ``\text{}``) and a whole
    explanation are refused.

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
            ValueError: The reference answer is missing, cannot be parsed, or not even be compared with itself.
        """
        gold = self._gold(task)
        answer = extract(trajectory.response, self.extract, self.max_chars)
        if answer is None or _absurd_text(answer) or has_odd_digits(answer, str(task.answer)):
            return invalid()
        try:
            candidates = _parse(answer)
            if not candidates or _absurd(candidates) or (_unfinished(candidates) and not _unfinished(gold)):
                return invalid()
            if self._false(candidates):
                return invalid()
            return verdict(self._equal(gold, candidates), _spelt(candidates[0]))
        except _NONSENSE:
            return invalid()

    def _gold(self, task: Task) -> list[Any]:
        answer = reference(task)
        text = str(answer).strip()
        why = _no_reference(answer, text)
        gold = [] if why else _parse(text)
        only_text = all(isinstance(form, str) for form in gold) and len(text.split()) != 1
        if not gold or only_text or self._false(gold) or not self._equal(gold, gold):
            why = why or f"it cannot be read as mathematics; {_ADVICE}"
            raise ValueError(f"task {task.id!r}: the reference answer is {text[-80:]!r}: {why}")
        return gold

    def _equal(self, gold: list[Any], candidates: list[Any]) -> bool:
        from math_verify import verify

        return verify(gold, candidates, float_rounding=self.float_rounding, timeout_seconds=None, raise_on_error=True)

    def _false(self, candidates: list[Any]) -> bool:
        """Whether it says that two different numbers are equal."""
        return any(
            _plain(left) and _plain(right) and not (self._equal([left], [right]) or _rounded(left, right))
            for left, right in _equated(candidates)
        )

    def example(self, task: Task) -> str | None:
        """The reference answer, where the setting looks for it."""
        return present(_tidy(str(reference(task))), self.extract)


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
    """Whether parsing itself would take too long: its time grows steeply with depth, and with the length of chains."""
    depth = deepest = 0
    for character in answer:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    huge_binomial = re.search(r"binom|choose", answer) and re.search(r"[0-9]{5}", answer)
    relations = sum(map(answer.count, "=<>"))
    if len(answer) > _MAX_LENGTH or deepest > _MAX_DEPTH or relations > _MAX_RELATIONS or huge_binomial:
        return True
    return written_digits(_tidy(answer)) > MAX_DIGITS  # of intervals, chains and matrices, sympy evaluates some at once


def _absurd(candidates: list[Any]) -> bool:
    return any(digits(candidate) > MAX_DIGITS for candidate in candidates)


def _unfinished(candidates: list[Any]) -> bool:
    """Whether evaluation is left to the reader. It is also where sympy may search for minutes."""
    from sympy import Basic, Derivative, Integral, Limit, Product, Sum

    return any(isinstance(c, Basic) and c.has(Derivative, Integral, Limit, Product, Sum) for c in candidates)


def _no_reference(answer: Any, text: str) -> str | None:
    """Why this cannot be a reference at all."""
    if not isinstance(answer, str | Number):
        return f"it is a {type(answer).__name__}, not text or a number"
    if text.lower() in _NAMES_OF_NOTHING:
        return rf"it is missing; if the word is meant, write \text{{{text}}}"
    if "####" in text or len(_WORDS.findall(text)) > _MAX_WORDS:
        return f"it is an explanation; {_ADVICE}"
    return None


def _equated(candidates: list[Any]) -> Iterator[tuple[Any, Any]]:
    """The two sides of each equation, and the two ends of each chain of equations."""
    from sympy import And, Basic, Eq

    for candidate in candidates:
        if isinstance(candidate, Basic):
            yield from (equation.args for equation in candidate.atoms(Eq))
            for chain in candidate.atoms(And):
                links = getattr(chain, "_unsorted_args", chain.args)  # the parser keeps the order in which they stood
                if all(isinstance(link, Eq) for link in links):
                    yield links[0].lhs, links[-1].rhs


def _spelt(form: Any) -> str:
    """One text for a number however it is written (0.5, 1/2, 50/100); of anything else, what the parser made of it."""
    from sympy import Eq, Float, Rational

    form = form.rhs if isinstance(form, Eq) else form
    try:
        return str(Rational(str(form)) if isinstance(form, Float) else form)
    except _NONSENSE:  # whether it is right does not depend on how it is spelt
        return repr(form)


def _plain(side: Any) -> bool:
    """Whether it is a number, and no letter that may have been meant as a variable."""
    from sympy import E, I

    return bool(side.is_number) and not side.has(E, I)


def _rounded(*sides: Any) -> bool:
    """Whether one of two numbers is a decimal, and the other no further from it than half a unit of its last place."""
    from sympy import Float

    def places(side: Any) -> int:
        return -Decimal(repr(float(side))).as_tuple().exponent

    gap = abs(float(sides[0]) - float(sides[1]))
    return any(isinstance(side, Float) and gap <= 0.5000001 * 10.0 ** -places(side) for side in sides)
