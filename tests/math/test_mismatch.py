import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_builders import batch

from hone.math.mismatch import masked_importance, truncated_importance
from hone.types import Scores

OWNERS = [[-1, 0, 0, 1, 1]]
OLD = torch.tensor([[1.0, 0.9, 0.6, 0.2, 0.1]]).log()
SAMPLED = torch.tensor([[1.0, 0.3, 0.4, 0.8, 0.1]]).log()  # ratios 1, 3, 1.5, 0.25, 1; products 4.5 and 0.25
SCORES = Scores(logprobs=torch.full((1, 5), -9.0), entropy=torch.zeros(1, 5))
BATCH = batch(OWNERS, sampled_logprobs=SAMPLED, old_logprobs=OLD)


def check(weights, *expected):
    torch.testing.assert_close(weights, torch.tensor([expected]))


def test_truncated_importance_by_hand():
    check(truncated_importance(SCORES, BATCH), 1.0, 2.0, 1.5, 0.25, 1.0)
    check(truncated_importance(SCORES, BATCH, cap=1.2), 1.0, 1.2, 1.2, 0.25, 1.0)


def test_truncated_importance_of_sequences_by_hand():
    check(truncated_importance(SCORES, BATCH, level="sequence"), 1.0, 2.0, 2.0, 0.25, 0.25)
    check(truncated_importance(SCORES, BATCH, cap=9.0, level="sequence"), 1.0, 4.5, 4.5, 0.25, 0.25)


def test_masked_importance_by_hand():
    check(masked_importance(SCORES, BATCH), 1.0, 3.0, 1.5, 0.0, 1.0)
    check(masked_importance(SCORES, BATCH, high=2.0), 1.0, 0.0, 1.5, 0.0, 1.0)
    check(masked_importance(SCORES, BATCH, low=0.2, high=2.0), 1.0, 0.0, 1.5, 0.25, 1.0)


def test_masked_importance_of_sequences_by_hand():
    check(masked_importance(SCORES, BATCH, level="sequence"), 1.0, 4.5, 4.5, 0.0, 0.0)
    check(masked_importance(SCORES, BATCH, high=4.0, level="sequence"), 1.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("weigh", [truncated_importance, masked_importance])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_current_scores_take_the_place_of_old_ones_without_a_gradient(weigh, level):
    scores = Scores(logprobs=OLD.clone().requires_grad_(), entropy=torch.zeros(1, 5))
    on_policy = batch(OWNERS, sampled_logprobs=SAMPLED)
    weights = weigh(scores, on_policy, level=level)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, weigh(SCORES, BATCH, level=level))


@pytest.mark.parametrize("weigh", [truncated_importance, masked_importance])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_stay_finite(weigh, level):
    old = torch.tensor([[float("nan"), -0.1, -0.1, -500.0, -500.0]])
    sampled = torch.tensor([[0.0, -500.0, -500.0, -0.1, -0.1]])
    weights = weigh(SCORES, batch(OWNERS, sampled_logprobs=sampled, old_logprobs=old), level=level)
    assert weights.isfinite().all()
    assert weights[0, 0] == 1


@given(st.lists(st.floats(-9, 0), min_size=4, max_size=4), st.lists(st.floats(-9, 0), min_size=4, max_size=4))
def test_weights_lie_within_their_bounds(old, sampled):
    b = batch([[0, 0, 1, 2]], sampled_logprobs=torch.tensor([sampled]), old_logprobs=torch.tensor([old]))
    for level in ("token", "sequence"):
        truncated, masked = truncated_importance(SCORES, b, level=level), masked_importance(SCORES, b, level=level)
        assert ((truncated >= 0) & (truncated <= 2)).all()
        assert ((masked == 0) | ((masked >= 0.5) & (masked <= 5))).all()
