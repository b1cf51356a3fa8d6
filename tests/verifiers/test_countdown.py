from fractions import Fraction

import pytest

from hone.types import Task
from hone.verifiers.countdown import CountdownVerifier
from hone.verifiers.expressions import arithmetic, digits, is_formula, is_literal

GAMES = [
    {"nums": [12, 16, 48], "target": 76, "solution": "(16 + 12) + 48"},
    {"nums": [97, 11, 90], "target": 176, "solution": "90 - (11 - 97)"},
    {"nums": [5, 67, 16, 56], "target": 880, "solution": "(67 - 56) * (16 * 5)"},
    {"nums": [58, 97, 13], "target": 657, "solution": "(13 * 58) - 97"},
]


@pytest.mark.parametrize("game", GAMES)
def test_stored_solutions(judge, game):
    verifier = CountdownVerifier()
    example = verifier.example(Task("t", [], meta=game))
    assert judge(verifier, example, **game).value == 1
    assert judge(verifier, example, {**game}).value == 1
    assert judge(verifier, example, game["target"], nums=game["nums"]).value == 1


@pytest.mark.parametrize(
    "response",
    [
        "<answer>16 + 12 + 48</answer>",
        "<answer>16+12+48 = 76</answer>",
        "I try 1+1.\n16 + 12 + 48 = 76.",
        "<answer>first\n(48+16)+12</answer>",
        "<answer>48 − (0 - 16) + 12</answer>".replace("0 - ", "").replace("− (16)", "+ 16"),
        "<answer>16×1</answer> <answer>12+48+16</answer>",
    ],
)
def test_right(judge, response):
    assert judge(CountdownVerifier(), response, **GAMES[0]).value == 1


def test_signs_as_written(judge):
    for equation in ("(8−2)×6÷3", r"(8-2)\times 6 \div 3", "(8 – 2)·6/3"):
        assert judge(CountdownVerifier(), equation, nums=[8, 2, 6, 3], target=12).value == 1
    assert judge(CountdownVerifier(), "8/(3-8/3)", nums=[8, 8, 3, 3], target=24).value == 1, "exact, not floating point"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "76",
        "<answer>16 + 12</answer>",
        "<answer>16 + 12 + 48 = 77</answer>",
        "<answer>16 + 12 + 48 = 76 = 75</answer>",
        "<answer>16 + 12 + 48 - 12 + 12</answer>",
        "<answer>1612 + 48</answer>",
        "<answer>48 + 28</answer>",
        "<answer>-(-16) + 12 + 48</answer>",
        "<answer>16 + 12 + 48 + 0</answer>",
        "<answer>16 + 12 + 4_8</answer>",
        "<answer>16 + 12 + 48 if 1 else 0</answer>",
        "<answer>(16 + 12 + 48</answer>",
        "<answer>16 + 12 + 48 # easy</answer>",
    ],
)
def test_wrong(judge, response):
    assert judge(CountdownVerifier(), response, **GAMES[0]).value == 0


@pytest.mark.parametrize(
    "equation", ["2**3", "8//1", "8%3", "8/0", "8/(3-3)", "8 ^ 3", "2e3", "3.0", "eight", "[8]", "8,3"]
)
def test_anything_but_arithmetic_is_invalid(judge, equation):
    assert judge(CountdownVerifier(), equation, nums=[8, 3], target=8).parts == {"invalid": 1.0}


def test_use_all(judge):
    game = {"nums": [5, 5, 7], "target": 10}
    assert judge(CountdownVerifier(), "5+5", **game).value == 0
    assert judge(CountdownVerifier(use_all=False), "5+5", **game).value == 1
    assert judge(CountdownVerifier(use_all=False), "5+5+5-5", **game).value == 0
    assert judge(CountdownVerifier(use_all=False), "5+5+7-7", **game).value == 0


def test_a_task_without_numbers_fails(judge):
    with pytest.raises(KeyError):
        judge(CountdownVerifier(), "1+1", 2)
    assert CountdownVerifier().example(Task("t", [], meta={"nums": [1], "target": 1})) is None


def test_arithmetic():
    assert arithmetic("(1+2)/4") == (Fraction(3, 4), [1, 2, 4])
    assert arithmetic("-(3)", negate=True)[0] == -3
    for text in ("-3", "1 2", "", "()", "1+", "(" * 400 + "1" + ")" * 400, "1" * 5000, "-" * 999 + "1", "007"):
        with pytest.raises(ValueError, match=r"."):
            arithmetic(text)


@pytest.mark.parametrize("text", ["x**2/2 + C", "-sin(2*x)*exp(x)", "sqrt(x) + log(Abs(x))", "2.5*x*y", "pi*E**x", "3"])
def test_formulas(text):
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "exec(chr(49))",
        "x.__class__",
        "Integral(x, x)",
        "[x][0]",
        "lambda: 1",
        "'a'",
        "x if x else 1",
        "9**9**9**9",
        "x**(9**9)",
        "1e999999999",
        "x + 1.E-9_999_999",
        "(x+1)**1000000",
        "answer",
        "True",
        "1j",
        "sin(x, evaluate=0)",
        "x(2)",
        "",
        "2x",
        "(" * 1000,
    ],
)
def test_no_formulas(text):
    assert not is_formula(text)


def test_literals():
    assert is_literal("[['_', 'Q'], 1.5]")
    assert not is_literal("entry")
    assert not is_literal("[" * 10_000)
    assert not is_literal("[0] * 9")


def test_digits():
    import sympy

    x, lazy = sympy.Symbol("x"), {"evaluate": False}
    assert 600 < digits(sympy.Pow(2, 2023, **lazy)) < 1300
    assert digits(sympy.Pow(9, sympy.Pow(9, sympy.Pow(9, 9, **lazy), **lazy), **lazy)) == float("inf")
    assert digits(sympy.factorial(10**8, **lazy)) > 10**8
    assert digits(sympy.exp(-(x**2))) < 10
    assert digits(sympy.Float("1e5000")) > 4000
    assert digits(sympy.nan) == digits(sympy.oo) == 1
