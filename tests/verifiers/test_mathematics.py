import pytest

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
    from hone.types import Task

    verifier = MathVerifier(extract=how)
    assert judge(verifier, verifier.example(Task("t", [], reference)), reference).value == 1


def test_the_box_around_an_answer_is_not_searched_again():
    assert mathematics._parse("the answer is 7, not 42") != mathematics._parse("42")
