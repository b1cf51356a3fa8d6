"""The same text, whatever stands around it."""

import pytest

from hone.types import Task
from hone.verifiers.exact import ExactVerifier

LINE = "regex:(?i:answer is):?[ *]*([^\n]+)"


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("<answer>Yes</answer>", "yes", True),
        ("<answer> **yes.** </answer>", "Yes", True),
        ("<answer>no</answer> or <answer>yes</answer>", "yes", True),  # the last counts
        ("<answer>yes</answer> or <answer>no</answer>", "yes", False),
        ("<answer>yes or no</answer>", "yes", False),
        ("<answer>True</answer>", True, True),
        ("<answer>new   york</answer>", "New York", True),
        ("<answer>newyork</answer>", "New York", False),
    ],
)
def test_verdicts(judge, response, answer, right):
    assert judge(ExactVerifier(), response, answer).value == right


def test_settings(judge):
    assert judge(ExactVerifier(case=True), "<answer>Yes</answer>", "yes").value == 0
    assert judge(ExactVerifier(spaces="ignore", extract=LINE), "The answer is: )]>", ") ] >").value == 1
    assert judge(ExactVerifier(spaces="keep"), "<answer>a  b</answer>", "a b").value == 0
    assert judge(ExactVerifier(extract=LINE), "answer is no\nThe answer is **Yes**.", "Yes").value == 1


@pytest.mark.parametrize("response", ["", "<answer></answer>", "<answer>...</answer>"])
def test_no_answer_is_invalid(judge, response):
    score = judge(ExactVerifier(), response, "yes")
    assert (score.value, score.parts, score.answer) == (0.0, {"invalid": 1.0}, None)


def test_equal_answers_vote_together(judge):
    said = {judge(ExactVerifier(), text, "no").answer for text in ("<answer>YES.</answer>", "<answer>yes</answer>")}
    assert said == {"yes"}


@pytest.mark.parametrize("answer", [None, float("nan"), " ."])
def test_a_bad_reference_is_an_error(judge, answer):
    with pytest.raises(ValueError, match="task 't'"):
        judge(ExactVerifier(), "yes", answer)


def test_the_example_is_right(judge):
    task = Task("t", [], "(B)")
    assert judge(ExactVerifier(), ExactVerifier().example(task), task.answer).value == 1
