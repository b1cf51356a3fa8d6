"""Layers that are compiled: the same numbers, the same model, one compilation for all."""

import asyncio
import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from hone import collate, compiling
from hone.build import build
from hone.learner import Learner
from hone.policies import layers
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams
from hone.sections import OptimizerConfig, UpdateConfig
from hone.types import Segment


def gradient(policy, groups):
    learner = Learner(
        policy, build("objective", "policy_gradient"), OptimizerConfig(), UpdateConfig(), steps=1, temperature=1.0
    )
    return learner.gradient(groups, tokens=4096)


def scored(policy, groups):
    [batch] = collate.batches(groups, policy, tokens=4096, temperature=1.0)
    with torch.no_grad():
        return policy.score(batch).logprobs


def test_a_cpu_compiles_nothing():
    assert not compiling.works("cpu")
    assert compiling.compiled(torch.sin, torch.device("cpu")) is torch.sin


def test_what_is_compiled_keeps_its_name_and_goes_with_a_copy(tiny_policy, tmp_path):
    policy, plain = tiny_policy(compile=True), tiny_policy()
    kinds = [[type(m) for m in p.model.modules()] for p in (policy, plain)]
    replaced = {own for own, before in zip(*kinds, strict=True) if own is not before}
    assert {own.__name__ for own in replaced} == {"LlamaRMSNorm", "LlamaMLP", "LlamaDecoderLayer"}
    assert all(issubclass(own, before) for own, before in zip(*kinds, strict=True))
    assert [own.__name__ for own in kinds[0]] == [own.__name__ for own in kinds[1]]
    assert [type(m) for m in copy.deepcopy(policy.model).modules()] == kinds[0]
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [type(m) for m in loaded.modules()] == kinds[1]


def test_without_a_tree_a_layer_is_as_it_was(tiny_policy, monkeypatch):
    """Sampling has caches and masks of many kinds, for each of which a layer would be compiled anew."""
    asked = []

    def counted(forward):
        return lambda *a, **k: (asked.append(forward), forward(*a, **k))[1]

    monkeypatch.setattr(compiling, "anywhere", counted)
    layers._fused.cache_clear()
    try:
        policy = tiny_policy(compile=True)
        asked.clear()
        policy.backbone(input_ids=torch.arange(9)[None], use_cache=True)
        assert {forward.__qualname__ for forward in asked} == {"LlamaRMSNorm.forward", "LlamaMLP.forward"}
    finally:
        layers._fused.cache_clear()


@pytest.mark.slow
def test_a_compiled_policy_is_sampled_from(tiny_policy):
    found = []
    for compile in (False, True):
        sampler = NativeSampler()
        sampler.sync(tiny_policy(compile=compile))
        prompt = [Segment("prompt", "given", (1, 2, 3))]
        found.append(asyncio.run(sampler.sample(prompt, SamplingParams(max_tokens=6, seed=1))).segments[0])
    assert found[0].actions == found[1].actions
    assert found[0].logprobs == pytest.approx(found[1].logprobs, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}), ("llama", {"lora": {"rank": 2}}), ("llama", {"gradient_checkpointing": True}),
        ("gemma3", {}), ("mixtral", {}), ("gpt2", {}),
    ],
)  # fmt: skip
def test_compiled_layers_compute_the_same(kind, settings, tiny_policy, make_group):
    groups = [make_group(6, (4, 5, 9), seed=1), make_group(3, (8, 2), seed=2)]
    plain, fused = (tiny_policy(kind=kind, compile=compile, **settings) for compile in (False, True))
    torch.testing.assert_close(scored(fused, groups), scored(plain, groups), atol=1e-5, rtol=0)
    found, wanted = gradient(fused, groups), gradient(plain, groups)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_one_compilation_serves_all_layers_and_lengths(tiny_policy, make_group):
    from torch._dynamo.utils import counters

    made = []
    for count in (2, 7):
        torch._dynamo.reset()
        counters.clear()
        policy = tiny_policy(compile=True, config={"num_hidden_layers": count})
        for n in (4, 9, 23):
            gradient(policy, [make_group(n, (n + 1, 3), seed=n)])
        made.append(counters["stats"]["unique_graphs"])
    assert made[0] == made[1]
