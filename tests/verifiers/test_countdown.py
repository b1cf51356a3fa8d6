from fractions import Fraction

import numpy
import pytest

from hone.tasks.files import Files
from hone.types import Segment, Task, Trajectory
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


@pytest.mark.parametrize(
    "response",
    [
        "35 = 20 + 3 * 5",
        "<answer>35 = 20 + 3*5</answer>",
        "So it is\n$20 + 3 \\times 5 = 35$.",
        "$$35 = 20 + 3 \\cdot 5$$",
        r"\(20 + \left(3 \times 5\right)\)",
        "\\[\n20 + 3*5 = 35\n\\]",
        "```\n20 + 3*5\n```",
        "$$\n20 + 3*5 = 35\n$$\n",
        "**20 + 3*5**",
        "**20 + 3*5 = 35.**",
        "`20 + 3*5`",
        "**$20 + 3*5$** = $35$",
        "<answer>**$20 + 3*5 = 35$**</answer>",
        r"\boxed{20 + 3*5 = 35}",
        r"$\boxed{20 + 3*5} = \boxed{35}$",
        "3*5 + 20 = **35**",
    ],
)
def test_what_a_fair_reader_takes_for_the_same_equation(judge, response):
    assert judge(CountdownVerifier(), response, nums=[3, 5, 20], target=35).value == 1


@pytest.mark.parametrize(
    "response",
    [
        "35 = 35",
        "35",
        "$35$ = **35**",
        "35 = 20 + 15",
        "35 = 20 + 3*5 = 35",
        "20 + 3*5 = 35 = 34 + 1",
        "20 + 3*5 = 34 = 35",
        "36 = 20 + 3*5",
        "20 + 3*5 = 36",
        "0 = 20 + 3*5 - 35",
        "35 = 20 + 3*5*1",
        "35 == 20 + 3*5",
        "35 = ",
        "= 20 + 3*5",
        "=",
        "$$",
        "**",
        "$20 + 3*5",
        "20 + 3*5**",
        "*20 + 3*5*",
        "**20 + 3*5** or **20 - 3*5**",
        "20 + 3*5 = 35, 20 - 3*5 = 5",
        "$x = 20 + 3*5$",
        "answer: 20 + 3*5",
        "20 + **3*5**",
        r"\boxed{20 + 3*5",
        "`35` = `20 + 15`",
    ],
)
@pytest.mark.parametrize("use_all", [True, False])
def test_what_he_does_not(judge, response, use_all):
    assert judge(CountdownVerifier(use_all=use_all), response, nums=[3, 5, 20], target=35).value == 0


def test_a_negative_target_may_stand_first(judge):
    for response in ("-12 = 3 - (20 - 5)", "3 - (20 - 5) = -12"):
        assert judge(CountdownVerifier(), response, nums=[3, 5, 20], target=-12).value == 1
    assert judge(CountdownVerifier(), "-12 = -(20 - 5 - 3)", nums=[3, 5, 20], target=-12).value == 0, "a sign is no sum"


@pytest.mark.parametrize("name", ["games.csv", "games.tsv", "games.jsonl"])
def test_rows_of_text_are_judged_like_rows_of_numbers(tmp_path, name):
    """The whole way: a file, the source of tasks, the verifier. A CSV cell is text."""
    rows = {
        "games.csv": 'nums,target,solution\n"[3, 5, 20]",35,20 + 3*5\n3 5 20,35,\n',
        "games.tsv": "nums\ttarget\tsolution\n3,5,20\t35.0\t20 + 3*5\n(3, 5, 20)\t 35\t\n",
        "games.jsonl": '{"nums": "[3, 5, 20]", "target": 35.0, "solution": "20 + 3*5"}\n'
        '{"nums": ["3", 5.0, "20"], "target": "35", "solution": null}\n',
    }
    (tmp_path / name).write_text(rows[name])
    settings = {"prompt": "{nums} to {target}", "shuffle": False, "repeat": False}
    in_meta = Files(path=str(tmp_path / name), meta=["nums", "target", "solution"], **settings)
    in_answer = Files(path=str(tmp_path / name), answer="{target}", meta=["nums", "solution"], **settings)
    verifier = CountdownVerifier()
    for source in (in_meta, in_answer):
        first, second = source
        assert verifier.example(first) == "<answer>20 + 3*5</answer>"
        assert verifier.example(second) is None
        for task in (first, second):
            assert verifier(task, said(task, "<answer>20 + 3*5</answer>")).value == 1
            assert verifier(task, said(task, "<answer>20 - 3*5</answer>")).value == 0


def said(task, text):
    return Trajectory(task, [Segment("response", "policy", (), text=text)])


@pytest.mark.parametrize(
    ("nums", "target"),
    [
        ((3, 5, 20), 35),
        ([3.0, 5, "20"], numpy.int64(35)),
        (numpy.array([3, 5, 20]), numpy.float32(35)),
        ("[ 3  5 20]", "35"),
        ("{3,5,20}", "+35"),
        ("3; 5; 20", "35."),
        ('["3", "5", "20"]', '"35"'),
        ("\n3\n5\n20\n", "35.00"),
    ],
)
def test_forms_of_numbers(judge, nums, target):
    assert judge(CountdownVerifier(), "20 + 3*5", nums=nums, target=target).value == 1


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ({}, r"task 't': nums is None; it should be a list of whole numbers"),
        ({"nums": [3, 5, 20]}, r"task 't': target is None; it should be a whole number, as in 35"),
        ({"nums": [], "target": 35}, r"nums is \[\]"),
        ({"nums": "", "target": 35}, "nums is ''"),
        ({"nums": "[3, 5, 2", "target": 35}, r"nums is '\[3, 5, 2'"),
        ({"nums": "3 5 x", "target": 35}, "nums is '3 5 x'"),
        ({"nums": [3, 5, 2.5], "target": 35}, r"nums is \[3, 5, 2.5\]"),
        ({"nums": [3, 5, None], "target": 35}, "nums is"),
        ({"nums": [3, 5, -20], "target": 35}, r"nums is \[3, 5, -20\]; .* without signs"),
        ({"nums": 20, "target": 35}, "nums is 20"),
        ({"nums": {"a": 3}, "target": 35}, "nums is"),
        ({"nums": b"35", "target": 35}, "nums is"),
        ({"nums": [3, 5, 20], "target": float("nan")}, "target is nan"),
        ({"nums": [3, 5, 20], "target": float("inf")}, "target is inf"),
        ({"nums": [3, 5, 20], "target": 35.5}, "target is 35.5"),
        ({"nums": [3, 5, 20], "target": True}, "target is True"),
        ({"nums": [3, 5, 20], "target": "20 + 3*5"}, r"target is '20 \+ 3\*5'"),
        ({"nums": [3, 5, 20], "target": "1,235"}, "target is '1,235'"),
    ],
)
def test_a_game_that_cannot_be_read_is_the_tasks_fault(judge, game, message):
    with pytest.raises(ValueError, match=message):
        judge(CountdownVerifier(), "20 + 3*5", **game)


def test_there_is_no_example_without_a_solution():
    for solution in (None, "", " ", float("nan")):
        assert CountdownVerifier().example(Task("t", [], meta={"nums": [1], "target": 1, "solution": solution})) is None


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
