import math

import pytest

from hone.types import Task
from hone.verifiers import mathematics
from hone.verifiers.mathematics import MathVerifier


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("42", "42"),
        ("42", 42),
        ("42.0", "42"),
        ("1,234", "1234"),
        (r"\$10", "10"),
        ("$10$", "10"),
        ("**42**", "42"),
        ("42.", "42"),
        (r"12 \text{ cm}", "12"),
        ("x = 5", "5"),
        ("5", "x = 5"),
        ("0.5", r"\frac{1}{2}"),
        (r"\frac12", "1/2"),
        (r"\dfrac{3}{6}", "$\\frac{1}{2}$"),
        (r"10\%", "10"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        (r"\{2, 1\}", r"\{1, 2\}"),
        ("(1, 2)", "(1,2)"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("2^{10}", "1024"),
        ("x**2 + 1", "x^2 + 1"),
        ("3*sqrt(2)", r"3\sqrt{2}"),
        ("2^{2023}", "2^{2023}"),
        (r"\text{Yes}", r"\text{Yes}"),
        (r"\infty", r"\infty"),
        (r"e^{-x^2}", r"e^{-x^2}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_equal(judge, answer, reference):
    score = judge(MathVerifier(), rf"So the answer is $\boxed{{{answer}}}$.", reference)
    assert (score.value, score.error) == (1.0, None)


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        (r"\boxed{43}", "42"),
        (r"\boxed{42} or rather \boxed{41}", "42"),
        (r"\boxed{41, 42}", "42"),
        (r"\boxed{42 \text{ or } 43}", "42"),
        ("42", "42"),
        (r"\boxed{}", "42"),
        (r"\boxed{", "42"),
        (r"\boxed{-42}", "42"),
        (r"\boxed{(1, 3)}", "(1,2)"),
        (r"\boxed{x^2 + 1}", "x^2 - 1"),
        (r"\boxed{\text{No}}", r"\text{Yes}"),
        ("", "42"),
    ],
)
def test_different(judge, response, reference):
    assert judge(MathVerifier(), response, reference).value == 0


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        "10^{1000000000}",
        "99999999!",
        r"\binom{1000000000}{500000000}",
        r"\sin(10^{1000000})",
        "(x+1)^{1000000}",
        "[1, 9^{9^{9^9}}]",  # what follows is evaluated while it is parsed
        "(9^{9^{9^9}}, 3)",
        r"\left[0.5, 3^{1,000,000,000} - 1\right)",
        r"x \in [1, (1/3)^{-99999999}]",
        r"[0, 1) \cup [2, 2^\frac{9999999999}{3}]",
        r"591N = 5555 = 555555555^5555555555--r",
        r"\gcd(4, 9^{9^{9^9}})",
        r"\binom{9^{9^9}}{2}",
        r"9^{9^{9^9}} \pm 1",
        r"\begin{pmatrix} 1 & 9^{9^{9^9}} \\ 2 & 3 \end{pmatrix}",
        r"\mathbb{R} \setminus [1, 9999999!]",
        "=".join(map(str, range(400))),
        "(" * 200 + "1" + ")" * 200,
        "1" * 5000,
    ],
)
def test_the_absurd_is_invalid_without_being_evaluated(judge, answer):
    import time

    start = time.perf_counter()
    score = judge(MathVerifier(), rf"\boxed{{{answer}}}", "42")
    assert (score.value, score.parts["invalid"]) == (0.0, 1.0)
    assert time.perf_counter() - start < 2


def test_restating_the_problem_is_no_answer(judge):
    restated = r"\boxed{\int_0^1 3x^2 dx}"
    assert judge(MathVerifier(), restated, "1").value == 0
    assert judge(MathVerifier(), restated, r"\int_0^1 3x^2 dx").value == 1
    assert judge(MathVerifier(), r"\boxed{\sum_{i=1}^{3} i}", "6").value == 0


def test_where_to_look(judge):
    response = "Natalia sold 48/2 = 24 in May, 72 in all."
    assert judge(MathVerifier(extract="last_number"), response, "72").value == 1
    assert judge(MathVerifier(extract=r"regex:#### (.*)"), "so\n#### 72", "72").value == 1
    assert judge(MathVerifier(extract="tag"), "<answer>72</answer>", "72").value == 1
    assert judge(MathVerifier(max_chars=10), r"\boxed{72}" + " " * 10, "72").value == 0


@pytest.mark.parametrize("reference", ["", "  ", "$$"])
def test_an_unreadable_reference_is_the_verifiers_failure(judge, reference):
    with pytest.raises(ValueError, match="reference"):
        judge(MathVerifier(), r"\boxed{1}", reference)


RATIONALE = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "task 't' has no reference answer, but None"),
        (math.nan, "has no reference answer, but nan"),
        (math.inf, "has no reference answer, but inf"),
        ("None", r"'None': it is missing; if the word is meant, write \\text\{None\}"),
        (" nan", "it is missing"),
        ("NULL", "it is missing"),
        (["72"], "it is a list, not text or a number"),
        ({"value": 72}, "it is a dict"),
        (RATIONALE, "it is an explanation; .*answer_pattern"),
        (RATIONALE.replace("#### ", ""), "it cannot be read as mathematics; .*answer_pattern"),
        ("There are 60 minutes in an hour, so it is [1 + (30/60)] hours", "it is an explanation"),
        (r"4 \to 3 \to 2", "it cannot be read as mathematics"),
        ("4 = 3", "it cannot be read as mathematics"),
    ],
)
def test_what_is_no_reference_is_refused(judge, reference, message):
    for response in (r"\boxed{None}", r"\boxed{nan}", rf"\boxed{{{reference}}}", r"\boxed{72}"):
        with pytest.raises(ValueError, match=message):
            judge(MathVerifier(), response, reference)


def test_no_example_of_what_is_missing():
    with pytest.raises(ValueError, match="task 't'"):
        MathVerifier().example(Task("t", [], None))


@pytest.mark.parametrize(
    "reference",
    [
        "even",
        "No solution",
        r"\text{None}",
        r"\text{east of the river}",
        "2516_8",
        "C_6H_{12}O_6",
        "10:30",
        True,
        0,
        0.5,
    ],
)
def test_words_and_odd_numbers_are_references(judge, reference):
    assert judge(MathVerifier(), rf"\boxed{{{reference}}}", reference).value == 1
    assert judge(MathVerifier(), r"\boxed{blue}", reference).value == 0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("3 = 3", 1),
        ("2 + 1 = 3", 1),
        (r"\sqrt{9} = |-3| = 3", 1),
        ("x = 3", 1),
        ("x = 2 + 1 = 3", 1),
        ("e = 3", 1),
        ("f(7) = 3", 1),
        (r"3 \text{ cm} = 30 \text{ mm}", 1),
        ("4 = 3", 0),
        ("4 == 3", 0),
        (r"4 \equiv 3", 0),
        ("4.0 = 3", 0),
        ("3.4 = 3", 0),
        ("-3 = 3", 0),
        ("4 = x = 3", 0),
        ("x = 4 = 3", 0),
        ("4 = 2 + 1 = 3", 0),
        ("4 = 3, 3", 0),
        (r"\{4 = 3\}", 0),
        (r"\frac{1}{0} = 3", 0),
        ("9^{9^9} = 3", 0),
        ("3 = 4", 0),
        ("5, 1 = 3", 0),
    ],
)
def test_an_equation_of_two_different_numbers_is_no_answer(judge, answer, value):
    assert judge(MathVerifier(), rf"\boxed{{{answer}}}", "3").value == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [("2/3 = 0.67", 1), ("0.67 = 0.67", 1), ("1/3 = 0.33", 1), ("1/3 = 0.34", 0), ("0.6 = 0.67", 0), ("0.7 = 0.67", 1)],
)
def test_a_decimal_equals_what_it_is_a_rounding_of(judge, answer, value):
    reference = answer.rpartition("= ")[2]
    assert judge(MathVerifier(), rf"\boxed{{{answer}}}", reference).value == value


def test_a_fault_of_the_verifier_is_not_a_wrong_answer(judge, monkeypatch):
    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr("math_verify.verify", out_of_memory)
    with pytest.raises(MemoryError):
        judge(MathVerifier(), r"\boxed{1}", "2")


def test_time_limits_by_signal_are_off(judge, monkeypatch):
    import signal

    def forbidden(*_):
        raise AssertionError("math-verify set an alarm")

    monkeypatch.setattr(signal, "alarm", forbidden)
    assert judge(MathVerifier(), r"\boxed{2}", "2").value == 1


@pytest.mark.parametrize("reference", ["72", r"\frac{1}{2}", "$x^2$", r"\{1,2\}"])
@pytest.mark.parametrize("how", ["boxed", "tag", "text"])
def test_example(judge, reference, how):
    verifier = MathVerifier(extract=how)
    assert judge(verifier, verifier.example(Task("t", [], reference)), reference).value == 1


def test_the_box_around_an_answer_is_not_searched_again():
    assert mathematics._parse("the answer is 7, not 42") != mathematics._parse("42")
