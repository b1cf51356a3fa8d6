from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_builders import batch, central_difference, gradient

from hone.math.divergence import ESTIMATORS, entropy_bonus, k1, k2, k3, kl_penalty
from hone.types import Scores

LN2 = 0.6931471805599453
logprobs = st.floats(-12, 0)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_estimators_by_hand():
    policy, reference = row(0.5, 0.25, 0.5).log(), row(0.25, 0.5, 0.5).log()
    torch.testing.assert_close(k1(policy, reference), row(LN2, -LN2, 0.0))
    torch.testing.assert_close(k2(policy, reference), row(0.2402265, 0.2402265, 0.0))  # ln(2)^2 / 2
    torch.testing.assert_close(k3(policy, reference), row(0.1931472, 0.3068528, 0.0))  # 1/2 - 1 + ln 2, 2 - 1 - ln 2


def test_expected_k1_and_k3_are_the_divergence_and_k2_is_not():
    policy, reference = row(0.7, 0.2, 0.1), row(0.2, 0.3, 0.5)
    divergence = 0.6348973  # 0.7 ln 3.5 + 0.2 ln(2/3) + 0.1 ln 0.2 = 0.8769341 - 0.0810930 - 0.1609438
    expected = {n: (policy * f(policy.log(), reference.log())).sum().item() for n, f in ESTIMATORS.items()}
    assert expected["k1"] == pytest.approx(divergence, abs=1e-6)
    assert expected["k3"] == pytest.approx(divergence, abs=1e-6)
    assert abs(expected["k2"] - divergence) > 0.01


def test_expected_gradients_as_losses():
    """k1 has none, k2 has that of the divergence: the claims of kl_penalty's docstring, over a whole distribution."""
    logits, reference = row(0.3, -0.2, 1.1), row(0.2, 0.3, 0.5).log()
    weights = logits.softmax(-1)

    def loss(estimator, x):
        return (weights * estimator(x.log_softmax(-1), reference)).sum()

    divergence = gradient(lambda x: (x.softmax(-1) * k1(x.log_softmax(-1), reference)).sum(), logits)
    torch.testing.assert_close(gradient(partial(loss, k1), logits), row(0, 0, 0))
    torch.testing.assert_close(gradient(partial(loss, k2), logits), divergence)
    assert (gradient(partial(loss, k3), logits) - divergence).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_gradients_by_finite_differences(name):
    policy, reference = row(-0.1, -2.0, -5.0), row(-1.0, -2.0, -0.3)

    def function(x):
        return ESTIMATORS[name](x, reference).sum()

    expected = central_difference(function, policy)
    torch.testing.assert_close(gradient(function, policy), expected, atol=1e-6, rtol=1e-6)


def test_gradients_by_hand():
    policy, reference = row(0.5, 0.25).log(), row(0.25, 0.5).log()
    torch.testing.assert_close(gradient(lambda x: k1(x, reference).sum(), policy), row(1.0, 1.0))
    torch.testing.assert_close(gradient(lambda x: k2(x, reference).sum(), policy), row(LN2, -LN2))
    torch.testing.assert_close(gradient(lambda x: k3(x, reference).sum(), policy), row(0.5, -1.0))  # 1 - p_ref / p


@given(logprobs, logprobs)
def test_k2_and_k3_are_never_negative(policy, reference):
    assert k2(row(policy), row(reference)).item() >= 0
    assert k3(row(policy), row(reference)).item() >= 0


def test_k3_is_accurate_near_zero_and_finite_far_off():
    near = k3(torch.tensor([-1.0]), torch.tensor([-1.0 + 2**-10]))  # x^2 / 2 + ..., x = 2^-10
    assert near.item() == pytest.approx(4.7699e-7, rel=0.01)
    far = torch.tensor([-200.0, -1.0], requires_grad=True)
    value = k3(far, torch.tensor([-1.0, -200.0])).sum()
    value.backward()
    assert value.isfinite()
    assert far.grad.tolist() == [0.0, 1.0]


def test_kl_penalty_by_hand():
    b = batch([[-1, 0]], reference_logprobs=row(0.0, -1.3862944))
    scores = Scores(logprobs=row(0.0, -0.6931472), entropy=row(0, 0))
    torch.testing.assert_close(kl_penalty(scores, b), row(0.0, 0.0001931472))
    torch.testing.assert_close(kl_penalty(scores, b, coefficient=0.5, estimator="k1"), row(0.0, 0.3465736))
    torch.testing.assert_close(kl_penalty(scores, b, coefficient=1.0, estimator="k2"), row(0.0, 0.2402265))


def test_kl_penalty_needs_a_reference():
    with pytest.raises(ValueError, match="reference_logprobs"):
        kl_penalty(Scores(logprobs=row(0.0), entropy=row(0.0)), batch([[0]]))


def test_entropy_bonus_by_hand():
    entropy = row(0.0, 2.0).requires_grad_()
    penalty = entropy_bonus(Scores(logprobs=row(0, 0), entropy=entropy), batch([[-1, 0]]), coefficient=0.25)
    penalty.sum().backward()
    assert penalty[0, 1].item() == -0.5
    assert entropy.grad.tolist() == [[-0.25, -0.25]]


def test_fields_say_what_they_read():
    assert partial(kl_penalty, coefficient=1.0).func.reads_reference
    assert partial(entropy_bonus, coefficient=1.0).func.reads_entropy
    assert not hasattr(entropy_bonus, "reads_reference")
    assert not hasattr(kl_penalty, "reads_entropy")
