"""The reference policy: what it is at first, and what it becomes when it takes over other weights."""

from contextlib import contextmanager

import pytest
import torch

from hone import collate
from hone.math.divergence import ESTIMATORS, kl_penalty
from hone.policies.reference import FrozenLM
from hone.seats import Reference

BOTH = pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def shift(policy, seed=3, scale=0.05):
    """Change every trainable weight, as an optimiser would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += scale * torch.randn_like(weight)
    policy.advance()


@pytest.fixture
def batched(make_group):
    """``batched(policy)``: two groups as one batch, contexts shared where the policy can."""

    def batched(policy):
        groups = [make_group(lengths=(4, 5)), make_group(context=3, lengths=(6, 2), seed=1)]
        [made] = collate.batches(groups, policy, tokens=1000, temperature=1.2)
        return made

    return batched


def per_token(policy, reference, batch, estimator="k3"):
    batch.reference_logprobs = reference.score(batch).logprobs
    scores = policy.score(batch)
    return kl_penalty(scores, batch, coefficient=1.0, estimator=estimator)[batch.mask]


def test_it_is_a_reference(tiny_policy):
    assert isinstance(tiny_policy().frozen_copy(), Reference)


@BOTH
@DTYPES
def test_the_divergence_is_zero_right_after_it_took_over(lora, dtype, tiny_policy, batched):
    policy = tiny_policy(dtype, lora=lora)
    reference, batch = policy.frozen_copy(), batched(policy)
    assert per_token(policy, reference, batch).abs().max() == 0
    for seed in (1, 2):  # the second time, what it took over is replaced
        shift(policy, seed)
        assert per_token(policy, reference, batch).max() > 1e-3
        reference.load_state_dict(policy.state_dict())
        for estimator in ESTIMATORS:
            assert per_token(policy, reference, batch, estimator).abs().max() == 0  # exactly, rounding included
        for estimator in ("k2", "k3"):
            per_token(policy, reference, batch, estimator).sum().backward()
            assert all(weight.grad.abs().max() == 0 for weight in policy.parameters())


@BOTH
@DTYPES
def test_values_are_copied(lora, dtype, tiny_policy, batched):
    policy = tiny_policy(dtype, lora=lora)
    reference, batch = policy.frozen_copy(), batched(policy)
    shift(policy, 1)
    reference.load_state_dict(policy.state_dict())
    before = reference.score(batch).logprobs
    shift(policy, 2)  # writes into the very tensors whose values were taken over
    assert torch.equal(reference.score(batch).logprobs, before)
    assert (policy.score(batch).logprobs - before).abs().max() > 0.01
    policy.score(batch).logprobs.sum().backward()  # and the policy still learns
    assert all(weight.grad.abs().max() > 0 for weight in policy.parameters())


@BOTH
@DTYPES
def test_scoring_leaves_the_policy_as_it_was(lora, dtype, tiny_policy, batched):
    policy = tiny_policy(dtype, lora=lora)
    reference, batch = policy.frozen_copy(), batched(policy)
    shift(policy, 1)
    reference.load_state_dict(policy.state_dict())
    shift(policy, 2)
    weights = [(weight, weight.data_ptr(), weight.detach().clone()) for weight in policy.model.parameters()]
    scores = policy.score(batch)
    scores.logprobs.sum().backward()
    gradients = [weight.grad.clone() for weight in policy.parameters()]
    for weight in policy.parameters():
        weight.grad = None
    reference.score(batch)
    assert all(w.data_ptr() == place and torch.equal(w, value) for w, place, value in weights)
    again = policy.score(batch)
    again.logprobs.sum().backward()
    assert torch.equal(again.logprobs, scores.logprobs)
    assert all(torch.equal(w.grad, g) for w, g in zip(policy.parameters(), gradients, strict=True))


def test_a_failure_while_scoring_gives_the_live_adapters_back(tiny_policy, batched, monkeypatch):
    policy = tiny_policy(lora={"rank": 2})
    reference, batch = policy.frozen_copy(), batched(policy)
    shift(policy)
    reference.load_state_dict(policy.state_dict())
    places = [weight.data_ptr() for weight in policy.model.parameters()]
    monkeypatch.setattr(policy.model.get_base_model().get_decoder(), "forward", None)
    with pytest.raises(TypeError):
        reference.score(batch)
    assert [weight.data_ptr() for weight in policy.model.parameters()] == places


def test_disabled_adapters_are_the_reference_only_until_it_took_over(tiny_policy, batched, monkeypatch):
    policy = tiny_policy(lora={"rank": 2})
    reference, batch = policy.frozen_copy(), batched(policy)
    base = tiny_policy().score(batch).logprobs
    disabled, disable = [], policy.model.disable_adapter

    @contextmanager
    def watched():
        disabled.append(True)
        with disable():
            yield

    monkeypatch.setattr(policy.model, "disable_adapter", watched)
    shift(policy)
    torch.testing.assert_close(reference.score(batch).logprobs, base)
    assert disabled == [True]
    reference.load_state_dict(policy.state_dict())
    shift(policy, 4)
    assert (reference.score(batch).logprobs - base).abs().max() > 0.01
    assert disabled == [True]


@BOTH
@DTYPES
def test_its_state_makes_an_equal_one(lora, dtype, tiny_policy, batched, tmp_path):
    policy = tiny_policy(dtype, lora=lora)
    reference, batch = policy.frozen_copy(), batched(policy)
    assert dict(reference.state_dict()) == {}  # the initial policy is made anew from its files
    shift(policy)
    assert dict(reference.state_dict()) == {}
    reference.load_state_dict(policy.state_dict())
    shift(policy, 5)
    assert reference.state_dict().keys() == policy.state_dict().keys()
    torch.save(reference.state_dict(), tmp_path / "reference.pt")
    fresh = tiny_policy(dtype, lora=lora).frozen_copy()
    fresh.load_state_dict({})
    assert not torch.equal(fresh.score(batch).logprobs, reference.score(batch).logprobs)
    fresh.load_state_dict(torch.load(tmp_path / "reference.pt", weights_only=True))
    assert torch.equal(fresh.score(batch).logprobs, reference.score(batch).logprobs)
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, reference.state_dict()[name])


@DTYPES
def test_an_adapter_costs_its_own_size_and_a_full_model_nothing_more(dtype, tiny_policy):
    policy = tiny_policy(dtype, lora={"rank": 2})
    reference = policy.frozen_copy()
    reference.load_state_dict(policy.state_dict())
    assert reference.policy is policy
    assert sum(w.numel() for w in reference.state_dict().values()) == sum(w.numel() for w in policy.parameters())
    policy = tiny_policy(dtype)
    reference = policy.frozen_copy()
    held = [weight.data_ptr() for weight in reference.policy.model.parameters()]
    reference.load_state_dict(policy.state_dict())
    assert [weight.data_ptr() for weight in reference.policy.model.parameters()] == held
    assert not set(held) & {weight.data_ptr() for weight in policy.model.parameters()}
    assert {w.dtype for w in reference.state_dict().values()} == {getattr(torch, dtype)}


def test_tied_weights_stay_tied(tiny_policy, batched):
    policy = tiny_policy(kind="tied")
    reference, batch = policy.frozen_copy(), batched(policy)
    shift(policy)
    reference.load_state_dict(policy.state_dict())
    assert per_token(policy, reference, batch).abs().max() == 0


@BOTH
def test_the_weights_of_another_model_are_refused(lora, tiny_policy):
    reference: FrozenLM = tiny_policy(lora=lora).frozen_copy()
    other = tiny_policy(lora=None if lora else {"rank": 2}).state_dict()
    with pytest.raises(ValueError, match="cannot take over"):
        reference.load_state_dict(other)
    own = tiny_policy(lora=lora).state_dict()
    reference.load_state_dict(own)
    with pytest.raises(ValueError, match="cannot take over"):
        reference.load_state_dict({})  # it is the initial policy no more
