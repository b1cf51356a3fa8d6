import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import gradcheck

from hone.math.divergence import entropy_bonus, kl_penalty
from hone.math.mismatch import masked_importance, truncated_importance
from hone.math.reduce import constant, sequence_mean, token_mean
from hone.math.surrogate import cispo, gspo, ppo_clip, reinforce
from hone.objectives.policy_gradient import PolicyGradient
from hone.types import Batch, Scores

# Two trajectories in one row behind a step of context, a third in the next; the last step is padding.
OWNERS = torch.tensor([[-1, 0, 0, 1], [-1, 2, 2, -1]])
MASK = OWNERS >= 0
ADVANTAGES = torch.tensor([[0.0, 1.0, 1.0, -2.0], [0.0, 0.5, 0.5, 0.0]])
LOGPROBS = torch.tensor([[0.0, -1.0, -2.0, -0.5], [0.0, -1.5, -0.25, 0.0]])
ENTROPY = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 4.0, 5.0, 0.0]])


def fake(logprobs=LOGPROBS, entropy=ENTROPY):
    """A policy that says what it is told."""
    return SimpleNamespace(score=lambda batch: Scores(logprobs, entropy))


def made(dtype=torch.float32, **fields):
    given = {"sampled_logprobs": LOGPROBS.to(dtype), "advantages": ADVANTAGES.to(dtype), **fields}
    return Batch(inputs={}, mask=MASK, trajectory=OWNERS, group=OWNERS, **given)


def means(loss):
    return {name: total if name.endswith("/max") else total / count for name, (total, count) in loss.metrics.items()}


def test_on_policy_by_hand():
    loss = PolicyGradient()(fake(), made(sampled_logprobs=LOGPROBS + torch.tensor([0.0, 0.1, -0.3, 0.0])))
    assert loss.weight == 5
    assert float(loss.total) == pytest.approx(-(1 + 1 - 2 + 0.5 + 0.5))
    assert means(loss) == pytest.approx(
        {
            "entropy/mean": 3.0,
            "ratio/mean": 1.0,
            "ratio/max": 1.0,
            "clip/fraction": 0.0,
            "kl/mean": 0.0,
            "importance/mean": (2 * math.exp(-0.1) + 2 * math.exp(0.3) + 1) / 5,
            "importance/max": math.exp(0.3),
            "importance/square": (2 * math.exp(-0.2) + 2 * math.exp(0.6) + 1) / 5,
            "mismatch/mean": (0.1 - 0.3 + 0.1 - 0.3) / 5,
            "mismatch/abs": 0.8 / 5,
            "mismatch/max": 0.3,
        }
    )


def test_the_effective_sample_size_follows_from_the_means():
    # Weights of 1, 1, 4: 6 squared over 3 times 18.
    assert PolicyGradient.follow({"importance/mean": 2.0, "importance/square": 6.0}) == {
        "importance/ess": pytest.approx(36 / 54)
    }
    assert PolicyGradient.follow({"importance/mean": math.inf, "importance/square": math.inf}) == {
        "importance/ess": 0.0
    }
    assert PolicyGradient.follow({}) == {}


def test_the_ratio_on_policy_is_exactly_one():
    metrics = means(PolicyGradient()(fake(LOGPROBS * math.pi), made()))
    assert (metrics["ratio/mean"], metrics["ratio/max"], metrics["kl/mean"]) == (1.0, 1.0, 0.0)


def test_off_policy_by_hand():
    # Ratios 2, 1/2, 1; 1, 1. PPO cuts the first at 1.2, and the second not: its advantage is positive.
    shift = torch.tensor([[0.0, 2.0, 0.5, 1.0], [0.0, 1.0, 1.0, 0.0]]).clamp(min=1e-9).log() * MASK
    loss = PolicyGradient()(fake(), made(old_logprobs=LOGPROBS - shift))
    assert float(loss.total) == pytest.approx(-(1.2 + 0.5 - 2 + 0.5 + 0.5))
    metrics = means(loss)
    assert metrics["ratio/mean"] == pytest.approx(5.5 / 5)
    assert metrics["ratio/max"] == pytest.approx(2.0)
    assert metrics["clip/fraction"] == pytest.approx(1 / 5)
    # The gap of sampler and trainer is at the old weights: here the sampler's numbers equal the current ones.
    assert metrics["mismatch/max"] == pytest.approx(math.log(2))
    assert metrics["mismatch/mean"] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("reduction", "total", "weight"),
    [
        (token_mean, -1.0, 5),
        (sequence_mean, -(1 - 2 + 0.5), 3),
        (partial(constant, length=4), -1.0 / 4, 3),
    ],
)
def test_reductions(reduction, total, weight):
    loss = PolicyGradient(reduction=reduction)(fake(), made())
    assert (float(loss.total), loss.weight) == (pytest.approx(total), weight)


def test_weights_multiply_and_penalties_add():
    def half(scores, batch):
        return torch.full_like(scores.logprobs, 0.5)

    def third(scores, batch):
        return torch.full_like(scores.logprobs, 1 / 3)

    loss = PolicyGradient(weights=[half, third], penalties=[partial(entropy_bonus, coefficient=0.1), half])(
        fake(), made()
    )
    assert float(loss.total) == pytest.approx(-1.0 / 6 - 0.1 * 15 + 0.5 * 5)


def test_the_reference_by_hand():
    reference = LOGPROBS + torch.tensor([0.0, math.log(2), 0.0, 0.0]) * MASK
    loss = PolicyGradient(penalties=[partial(kl_penalty, coefficient=0.1)])(fake(), made(reference_logprobs=reference))
    k3 = 2 - 1 - math.log(2)
    assert float(loss.total) == pytest.approx(-1.0 + 0.1 * 2 * k3)
    assert means(loss)["kl/mean"] == pytest.approx(2 * k3 / 5)


def test_it_says_whether_it_reads_a_reference():
    assert not PolicyGradient().reads_reference
    assert not PolicyGradient(penalties=[partial(entropy_bonus, coefficient=1.0)]).reads_reference
    assert PolicyGradient(penalties=[kl_penalty]).reads_reference
    assert PolicyGradient(penalties=[partial(kl_penalty, coefficient=0.1)]).reads_reference


def test_importance_weights_scale_the_gradient_of_each_step():
    # w = p_old / p_sampled: 3 is cut to 2, 1/4 and 1 stay; the masked kind drops both 1/4 and nothing else.
    w = torch.tensor([[1.0, 3.0, 0.25, 1.0], [1.0, 1.0, 1.0, 1.0]])
    batch = made(sampled_logprobs=LOGPROBS - w.log() * MASK)

    def gradient(**parts):
        logprobs = LOGPROBS.clone().requires_grad_()
        PolicyGradient(surrogate=reinforce, **parts)(fake(logprobs), batch).total.backward()
        return logprobs.grad

    torch.testing.assert_close(gradient(), -ADVANTAGES)
    torch.testing.assert_close(gradient(weights=[truncated_importance]), -ADVANTAGES * w.clamp(max=2))
    torch.testing.assert_close(gradient(weights=[masked_importance]), -ADVANTAGES * torch.where(w < 0.5, 0.0, w))


@pytest.mark.parametrize("surrogate", [ppo_clip, gspo, cispo, reinforce])
@pytest.mark.parametrize("reduction", [token_mean, sequence_mean, partial(constant, length=7)])
@pytest.mark.parametrize("on_policy", [True, False])
def test_gradients_by_finite_differences(surrogate, reduction, on_policy):
    """Logits in, loss out: everything between, in float64. CISPO's weight is no function of the logits, so its
    finite difference is taken with the weight held: at a ratio of exactly 1."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 6, dtype=torch.float64)
    actions = torch.randint(0, 6, (2, 4))

    def scores(logits):
        log_probs = logits.log_softmax(-1)
        chosen = log_probs.gather(-1, actions[..., None])[..., 0]
        return torch.where(MASK, chosen, 0.0), torch.where(MASK, -(log_probs.exp() * log_probs).sum(-1), 0.0)

    start = scores(logits)[0]
    far = 0.0 if surrogate is cispo else 0.1  # within the clip, where the loss has no corner
    far = 1e-4 if surrogate is gspo else far
    batch = made(
        torch.float64,
        old_logprobs=start - far * torch.randn(2, 4).double() * MASK,
        reference_logprobs=start - torch.randn(2, 4).double() * MASK,
    )
    objective = PolicyGradient(
        surrogate=surrogate,
        reduction=reduction,
        penalties=[partial(kl_penalty, coefficient=0.3), partial(entropy_bonus, coefficient=0.2)],
    )

    def loss(logits):
        return objective(fake(*scores(logits)), batch).total

    if surrogate is cispo:
        assert torch.autograd.grad(loss(logits.requires_grad_()), logits)[0].isfinite().all()
        return
    if not on_policy:
        assert gradcheck(loss, logits.requires_grad_())
        return
    # On-policy the old numbers follow the new ones: the gradient is that at the point where both are the same.
    fixed = made(torch.float64, old_logprobs=start, reference_logprobs=batch.reference_logprobs)
    free = made(torch.float64, reference_logprobs=batch.reference_logprobs)
    logits.requires_grad_()
    one, other = (torch.autograd.grad(objective(fake(*scores(logits)), b).total, logits)[0] for b in (fixed, free))
    torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_an_empty_mask_gives_no_metrics_and_no_weight():
    batch = made()
    batch.mask = torch.zeros_like(MASK)
    loss = PolicyGradient()(fake(LOGPROBS * 0, ENTROPY * 0), batch)
    assert (float(loss.total), loss.weight, loss.metrics) == (0.0, 0.0, {})


def test_numbers_outside_the_mask_are_never_read():
    wild = torch.where(MASK, LOGPROBS, torch.nan)
    loss = PolicyGradient()(fake(LOGPROBS, ENTROPY), made(sampled_logprobs=wild))
    assert all(math.isfinite(total) for total, _ in loss.metrics.values())
    assert math.isfinite(float(loss.total))
