"""How long a number is that somebody asks for, without making it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, Pow, factorial

from hone.verifiers.expressions import MAX_DIGITS, digits, written_digits

numbers = st.integers(1, 10**9)


@given(numbers, numbers)
def test_latex_tells_the_digits_that_the_expression_would(base, exponent):
    power = Pow(Integer(base), Integer(exponent), evaluate=False)
    assert written_digits(f"{base}^{{{exponent}}}") == digits(power)
    assert written_digits(f"{base:,}^{exponent}") == digits(power)
    assert written_digits(rf"x = \frac{{{base}}}{{{base}}}^{{-{exponent}}}") == 2 * digits(power)
    if base < 300:
        assert written_digits(f"({base}!)") == digits(factorial(base, evaluate=False))


@given(st.integers(2, 1000), st.integers(1, 1000))
def test_no_number_has_more_digits_than_it_says(base, exponent):
    assert len(str(base**exponent)) <= written_digits(f"[{base}^{{{exponent}}}, y]") + 1


@pytest.mark.parametrize(
    "text",
    [
        "9^9^9",
        r"9^{\frac{99999}{1}}",
        r"9^\left(99999\right)",
        "9^{9^{9}} + x",
        "(2^{500})^{200}",
        "9^ {99999}",
        "9^-99999",
    ],
)
def test_towers_are_told_however_they_are_written(text):
    assert written_digits(text) > MAX_DIGITS


@pytest.mark.parametrize(
    "text",
    ["2^{1000}", "x^{99999}", "0.999^{99999}", r"e^{100000 x}", r"\sin^{-1}(100000)", "1" * 2000, "1." + "3" * 1500,
     "²!^!", r"\text{Wow!!!}", "", "^", "}{^", "9^"],
)  # fmt: skip
def test_what_is_not_absurd_is_let_through(text):
    assert written_digits(text) < MAX_DIGITS
