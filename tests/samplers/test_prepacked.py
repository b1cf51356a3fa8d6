"""Prepacked weights multiply as the weights do, and are never those of before."""

import asyncio

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hone.samplers import prepacked
from hone.samplers.native import NativeSampler
from hone.samplers.prepacked import Prepacked
from hone.seats import SamplingParams
from hone.types import Segment

pytestmark = pytest.mark.skipif(
    not prepacked.gains(torch.float32, "cpu"), reason="no prepacked products on this processor"
)
HALF = torch.bfloat16


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    bias=st.booleans(),
    turned=st.booleans(),
    half=st.booleans(),
)
def test_products_are_those_of_the_layer(sizes, shape, bias, turned, half):
    if half and not prepacked.gains(HALF, "cpu"):
        return
    torch.manual_seed(0)
    layer = nn.Linear(*sizes, bias=bias, dtype=HALF if half else torch.float32)
    rows = torch.randn(*shape, sizes[0], dtype=layer.weight.dtype)
    if turned:  # as a transposed view lies in memory
        rows = rows.transpose(0, -1).contiguous().transpose(0, -1)
    with torch.inference_mode():
        plain = layer(rows)
        with Prepacked(layer, 0).used():
            packed = layer(rows)
    assert packed.shape == plain.shape
    assert packed.dtype == plain.dtype
    torch.testing.assert_close(packed, plain, rtol=1e-2 if half else 1e-5, atol=2e-2 if half else 1e-5)


def test_layers_are_themselves_again_even_after_an_error():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    rows = torch.randn(2, 8)
    packed = Prepacked(model, 0)
    with torch.inference_mode(), packed.used():
        assert model[0].forward.func is prepacked._product
    with pytest.raises(RuntimeError, match="inner product"), torch.inference_mode(), packed.used():
        model(rows[:, :5])
    model(rows).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert all("forward" not in layer.__dict__ for layer in model)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict({"weight": torch.ones(8, 8), "bias": torch.ones(8)}),
        lambda layer: setattr(layer.weight, "data", torch.ones(8, 8)),
        lambda layer: torch.optim.SGD(layer.parameters(), lr=0.1).step(),
    ],
    ids=["in place", "loaded", "replaced", "stepped"],
)
def test_a_weight_that_was_written_to_is_noticed(change):
    layer = nn.Linear(8, 8)
    packed = Prepacked(layer, 0)
    layer(torch.randn(2, 8)).sum().backward()
    assert packed.fresh(0)
    assert not packed.fresh(1)
    with torch.no_grad():
        change(layer)
    assert not packed.fresh(0)


def test_what_is_no_plain_layer_is_left_alone():
    class Own(nn.Linear):
        def forward(self, rows):
            return rows

    hooked = nn.Linear(8, 8)
    hooked.forward = lambda rows: rows
    whole = nn.Linear(8, 8).to(torch.float64)
    for layer in (Own(8, 8), hooked, whole):
        before = layer.forward
        with Prepacked(layer, 0).used():
            assert layer.forward == before


def greedy(sampler, prompt=tuple(range(5, 25)), most=12):
    params = SamplingParams(max_tokens=most, temperature=1e-6, seed=1)
    made = asyncio.run(sampler.sample([Segment("prompt", "given", prompt)], params)).segments[0]
    return made.actions, made.logprobs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_sampler_uses_the_weights_of_now(dtype, lora, tiny_policy):
    policy = tiny_policy(dtype, lora=lora)
    sampler = NativeSampler()
    sampler.sync(policy)
    first = greedy(sampler)
    if prepacked.gains(getattr(torch, dtype), "cpu"):  # of bfloat16 only some processors have these products
        assert sampler._prepacked._forwards
    kept = sampler._prepacked
    assert greedy(sampler) == first
    assert sampler._prepacked is kept  # and is not made anew for the same weights

    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, fused=True)
    for weight in policy.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    policy.advance()
    for told in (False, True):  # by sync, which need not be called for weights that are read where they are
        if told:
            sampler.sync(policy)
        fresh = NativeSampler()
        fresh.sync(policy)
        assert greedy(sampler) == greedy(fresh) != first

    sampler.rest()
    assert sampler._prepacked is None
    assert all("forward" not in layer.__dict__ for layer in policy.model.modules() if type(layer) is nn.Linear)


def test_the_sampler_has_the_probabilities_of_plain_layers(tiny_policy, monkeypatch):
    found = []
    for can in (True, False):
        monkeypatch.setattr(prepacked, "gains", lambda *_, can=can: can)
        sampler = NativeSampler()
        sampler.sync(tiny_policy("float32"))
        found.append(greedy(sampler))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)
