"""Reading arithmetic that a model wrote: nothing here runs its text, or builds the huge numbers it may ask for."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_DIGITS = 10_000
"""An answer whose evaluation would build a number of more decimal digits than this is absurd."""

_TOKENS = re.compile(r"\d*\.\d*|\d+|\\[A-Za-z]+|\\.|[^\s\\]")
_SEPARATORS = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;:! ]|(?<=\d)(?:,|\{,\})(?=\d{3})")
"""What stands in LaTeX and says nothing: also that of thousands."""
_OPENING, _CLOSING = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_WRITTEN = {"×": "*", "⋅": "*", "·": "*", "÷": "/", "−": "-", "–": "-"}
_WRITTEN |= {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": ""}
_FUNCTIONS = frozenset(
    """sin cos tan sec csc cot asin acos atan acot asec acsc
    sinh cosh tanh sech csch coth asinh acosh atanh exp log ln sqrt Abs""".split()  # noqa: SIM905
)
_FORMULA = (ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd, ast.Load)


def arithmetic(text: str, *, negate: bool = False) -> tuple[Fraction, list[int]]:
    """The exact value of a sum, product, ... of whole numbers, and the numbers in the order written.

    Args:
        text: Digits, parentheses and ``+ - * /`` (or × · ÷ − and their LaTeX commands). Powers are not arithmetic.
        negate: Allow a sign in front of a number or a parenthesis.

    Raises:
        ValueError: The text is anything else, or divides by 0.
    """
    for written, plain in _WRITTEN.items():
        text = text.replace(written, plain)
    if not re.fullmatch(r"[0-9+\-*/()\s]{1,1000}", text):
        raise ValueError("not plain arithmetic")
    numbers: list[int] = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                numbers.append(number)
                return Fraction(number)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand) if negate:
                return -value(operand)
        raise ValueError(f"{type(node).__name__} is not arithmetic")

    try:
        return value(_parse(text)), numbers
    except (ZeroDivisionError, RecursionError) as error:
        raise ValueError("division by zero, or too long") from error


def is_formula(text: str) -> bool:
    """Whether the text is an elementary formula, safe for ``sympy.parse_expr``, which runs what it is given as Python.

    Numbers, names of one letter, ``+ - * / **`` and calls of the elementary functions; and no number in it is huge.
    """
    from sympy import parse_expr

    def plain(node: ast.AST) -> bool:
        match node:
            case ast.Constant(value=number):
                return type(number) in (int, float)
            case ast.Name(id=name):
                return len(name) == 1 or name == "pi"
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return name in _FUNCTIONS and all(map(plain, arguments))
        return isinstance(node, _FORMULA) and all(map(plain, ast.iter_child_nodes(node)))

    try:
        if has_huge_exponent(text) or not plain(_parse(text)):
            return False
        return digits(parse_expr(text, evaluate=False)) <= MAX_DIGITS
    except (ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError):
        return False


def has_huge_exponent(text: str) -> bool:
    """Whether the text has a number such as 1e999999999, which sympy and fractions would write out in full."""
    return bool(re.search(r"[0-9._]e[-+]?[0-9_]{4}", text, re.IGNORECASE))


def is_literal(text: str) -> bool:
    """Whether the text is a Python literal (numbers, strings, lists, ...), which ``eval`` may have without harm."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return True


def digits(expression: Any) -> float:
    """About how many decimal digits the numbers have that evaluating a sympy expression would build; may be inf."""
    from sympy import Float, MatPow, Pow, Rational, factorial, gamma

    sizes = [digits(part) for part in getattr(expression, "args", ())]
    if isinstance(expression, Rational):
        return max(expression.p.bit_length(), expression.q.bit_length()) * math.log10(2)
    if isinstance(expression, Float):
        return abs(expression._mpf_[2] + expression._mpf_[3]) * math.log10(2)
    if isinstance(expression, Pow | MatPow) and not expression.exp.free_symbols:
        return sizes[0] * _ten_to(sizes[1])
    if isinstance(expression, factorial | gamma):
        return sizes[0] * _ten_to(sizes[0])
    return max(1.0, sum(sizes))


def written_digits(text: str) -> float:
    """What :func:`digits` tells of an expression, from its LaTeX alone: before a parser reads, and maybe evaluates, it.

    It goes by numbers, powers and factorials, whatever stands around them. Brackets are not to be nested deeply.
    """
    tokens = iter(_TOKENS.findall(_SEPARATORS.sub("", text)))
    ahead = next(tokens, "")

    def take() -> str:
        nonlocal ahead
        token, ahead = ahead, next(tokens, "")
        return token

    def total(closed: bool) -> tuple[float, bool]:
        parts = []
        while ahead:
            if ahead in _CLOSING:
                take()
                if closed:
                    break
            else:
                parts.append(power())
        return sum(size for size, _ in parts), any(letters for _, letters in parts)

    def power() -> tuple[float, bool]:
        size, letters = atom()
        while ahead and ahead in "^!":
            if take() == "!":
                size *= _ten_to(size)
                continue
            while ahead and ahead in "+-":
                take()
            exponent, symbols = power()
            size, letters = (size + exponent if symbols else size * _ten_to(exponent)), letters or symbols
        return size, letters

    def atom() -> tuple[float, bool]:
        token = take()
        if token in _OPENING:
            return total(closed=True)
        if token.isdecimal():
            return int(token).bit_length() * math.log10(2), False
        if "." in token and (value := float(f"0{token}0")):  # so that 5. and .5 are numbers too
            return min(abs(math.log10(value)), len(token)), False
        size = 0.0
        while token.startswith("\\") and ahead and ahead in _OPENING:  # what a command is of
            take()
            size += total(closed=True)[0]
        return size, token.isalpha()

    return total(closed=False)[0]


def _ten_to(exponent: float) -> float:
    return 10.0**exponent if exponent < 300 else math.inf


def _parse(text: str) -> ast.expr:
    """Parse one Python expression; every way in which text can be malformed raises ValueError."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not an expression") from error
