import math

import numpy
import pytest
import torch
from pydantic import ValidationError

from hone.types import Score, Task
from hone.verifiers.choice import ChoiceVerifier
from hone.verifiers.combine import Combine
from hone.verifiers.format import FormatVerifier
from hone.verifiers.verdict import to_score

THINKS = r"<think>.+</think>\s*<answer>.+</answer>"


def longer_than_ten(task, trajectory):
    return len(trajectory.response) > 10


def broken(task, trajectory):
    raise KeyError("solution")


@pytest.mark.parametrize(
    ("match", "response", "value"),
    [
        ("fullmatch", "<think>a\nb</think>\n<answer>B</answer>", 1),
        ("fullmatch", "<think>a</think> <answer>B</answer> more", 0),
        ("search", "<think>a</think> <answer>B</answer> more", 1),
        ("search", "<answer>B</answer>", 0),
        ("fullmatch", "", 0),
    ],
)
def test_format(judge, match, response, value):
    verifier = FormatVerifier(pattern=THINKS, match=match)
    assert judge(verifier, response) == Score(float(value))
    assert judge(FormatVerifier(pattern=THINKS, match=match, max_chars=10), response).value == 0


def test_format_refuses_what_does_not_compile():
    with pytest.raises(ValidationError, match="regular expression"):
        FormatVerifier(pattern="(")


def combination(**settings):
    parts = {"choice": ChoiceVerifier(), "form": FormatVerifier(pattern=THINKS), "long": longer_than_ten}
    return Combine(parts=parts, **settings)


RIGHT, BARE = "<think>easy</think><answer>B</answer>", "<answer>B</answer>"


def test_weighted_sum(judge):
    weights = {"choice": 0.8, "form": 0.2, "long": 0.5}
    assert judge(combination(weights=weights), RIGHT, "B").value == pytest.approx(1.5)
    score = judge(combination(weights=weights), BARE, "B")
    assert score.value == pytest.approx(1.3)
    assert score.parts == {"choice": 1.0, "choice/invalid": 0.0, "form": 0.0, "long": 1.0}


def test_equal_weights_sum_to_one(judge):
    assert judge(combination(), RIGHT, "B").value == pytest.approx(1)
    assert judge(combination(), "B", "B").value == pytest.approx(1 / 3)


def test_a_gate_at_zero_shuts_out_the_others(judge):
    assert judge(combination(gate="form"), BARE, "B").value == 0
    assert judge(combination(gate="form"), RIGHT, "A").value == pytest.approx(2 / 3)
    assert judge(combination(gate="choice"), RIGHT, "A").value == 0


def test_an_error_of_a_part_is_an_error_of_the_whole(judge):
    score = judge(Combine(parts={"form": FormatVerifier(pattern="x"), "judge": broken}), "x")
    assert score.value is None
    assert score.error == "judge: KeyError: 'solution'"
    nested = judge(Combine(parts={"inner": Combine(parts={"judge": broken})}), "x")
    assert nested.error.startswith("inner: judge: KeyError")


def test_names_must_match():
    with pytest.raises(ValidationError, match="weights name"):
        combination(weights={"choice": 1.0})
    with pytest.raises(ValidationError, match="gate"):
        combination(gate="tone")
    with pytest.raises(ValidationError):
        Combine(parts={})


def test_example_must_please_every_part():
    task = Task("t", [], "B")
    tagged = FormatVerifier(pattern=r".*\(B\).*")
    assert Combine(parts={"form": tagged, "choice": ChoiceVerifier()}).example(task) == "The answer is (B)."
    assert combination().example(task) is None


def test_prepare_reaches_the_parts():
    prepared = []

    class Slow:
        def prepare(self):
            prepared.append(1)

        def __call__(self, task, trajectory):
            return 1.0

    Combine(parts={"a": Slow(), "b": longer_than_ten}).prepare()
    assert prepared == [1]


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        (True, 1.0),
        (False, 0.0),
        (0.5, 0.5),
        (2, 2.0),
        (Score(0.25, {"a": 1}), 0.25),
        (numpy.bool_(True), 1.0),
        (numpy.array([1, 2]).mean() > 2, 0.0),
        (numpy.float32(0.5), 0.5),
        (numpy.int64(3), 3.0),
        (numpy.array(True), 1.0),
        (torch.tensor(0.25), 0.25),
        (Score(numpy.bool_(True), {"a": numpy.bool_(True)}), 1.0),
    ],
)
def test_what_a_verifier_may_return(returned, value):
    score = to_score(returned)
    assert (score.value, score.error) == (value, None)
    assert {type(number) for number in (score.value, *score.parts.values())} == {float}


@pytest.mark.parametrize(
    "returned",
    [
        None,
        "1.0",
        math.nan,
        math.inf,
        Score(math.nan),
        Score(None),
        [1.0],
        1j,
        Score(1.0, error="but"),
        numpy.array([True]),
        numpy.str_("1"),
    ],
)
def test_what_it_may_not(returned):
    score = to_score(returned)
    assert score.value is None
    assert score.error
