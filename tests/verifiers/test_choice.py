import pytest

from hone.types import Task
from hone.verifiers.choice import ChoiceVerifier


@pytest.mark.parametrize(
    "response",
    [
        "B",
        "(B)",
        "B)",
        "B.",
        "**B**",
        "B) 42 km",
        "The answer is (B)",
        "The answer is B.",
        "the answer is: **B**",
        "Answer: B",
        "Answer:\n\nB",
        "The correct option is B because A is wrong.",
        "The answer is B. A is wrong.",
        "The answer is A. No, wait: the answer is B.",
        "A is wrong, C is wrong.\nSo I take B.",
        r"Thus $\boxed{B}$",
        r"\boxed{\text{B}}",
        r"\boxed{\textbf{(B)}}",
        r"\boxed{b}",
        "<answer>B</answer>",
        "<answer>b</answer>",
        "The answer is A. <answer>(B) a horse</answer>",
        r"\boxed{A} no, \boxed{B}",
        "A triangle has three sides, so the answer is B",
    ],
)
def test_right(judge, response):
    assert judge(ChoiceVerifier(), response, "B").value == 1


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A",
        "A B C D",
        "B A C D",
        "A, B, C, D",
        "B or C",
        "The answer is A or B",
        "The answer is B or A",
        "The answer is B, C",
        "The answer is (B) and (D)",
        "The answer is (B), (A)",
        "B/C",
        r"\boxed{A, B}",
        r"\boxed{B, A}",
        r"\boxed{B} or \boxed{A}",
        "<answer>A B C D</answer>",
        "<answer></answer> B",
        "The answer is not B",
        "It is not B.",
        "the answer is E",
        "Bob",
        "B's",
        "vitamin-Bx",
        "a b c d",
        "b",
    ],
)
def test_wrong_or_undecided(judge, response):
    assert judge(ChoiceVerifier(), response, "B").value == 0


@pytest.mark.parametrize("reference", ["B", "(B)", "B)", " B. ", 1])
def test_reference_forms(judge, reference):
    assert judge(ChoiceVerifier(), "B", reference).value == 1


@pytest.mark.parametrize("reference", ["E", "", "AB", None, float("nan"), True, 4, -1])
def test_a_reference_outside_the_letters_fails(judge, reference):
    with pytest.raises(ValueError, match=r"task 't': the reference .* is none of the letters"):
        judge(ChoiceVerifier(), "B", reference)


def test_letters_and_validity(judge):
    assert judge(ChoiceVerifier(letters="ABCDE"), "the answer is E", "E").value == 1
    assert judge(ChoiceVerifier(), "no idea", "B").parts == {"invalid": 1.0}
    assert judge(ChoiceVerifier(), "C", "B").parts == {"invalid": 0.0}
    with pytest.raises(ValueError, match="pattern"):
        ChoiceVerifier(letters="abc")


@pytest.mark.parametrize("reference", ["A", "D", 2])
def test_example(judge, reference):
    example = ChoiceVerifier().example(Task("t", [], reference))
    assert judge(ChoiceVerifier(), example, reference).value == 1
