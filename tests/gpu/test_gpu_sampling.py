"""Decode steps that are captured and replayed give what the same steps give one by one, and what a CPU gives."""

import asyncio
import random

import pytest
import torch

from hone.compiling import works
from hone.samplers.draw import Rules, draw, fetched
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams
from hone.types import Segment


def context(n, seed=0):
    draws = random.Random(seed)
    return [Segment("prompt", "given", tuple(draws.randrange(250) for _ in range(n)))]


def requests(count, temperature=1.0, tokens=40):
    return [
        (
            context(3 + 37 * (i % 5), seed=i % 5),
            SamplingParams(max_tokens=2 + tokens * (i % 7), seed=i, temperature=temperature),
        )
        for i in range(count)
    ]


def sampled(policy, asked, rounds=1, **settings):
    sampler = NativeSampler(max_sequences=8, **settings)
    sampler.sync(policy)

    async def many():
        return await asyncio.gather(*(sampler.sample(c, p) for c, p in asked))

    made = [asyncio.run(many()) for _ in range(rounds)]
    return [[(segment.actions, segment.logprobs) for c in found for segment in c.segments] for found in made], sampler


def alike(some, others, tolerance):
    """Sequences part where two tokens are about as likely by rounding; up to there they agree."""
    parted = 0
    for (tokens, logprobs), (wanted, expected) in zip(some, others, strict=True):
        same = next((i for i, (a, b) in enumerate(zip(tokens, wanted, strict=False)) if a != b), len(tokens))
        parted += same < len(tokens)
        assert logprobs[:same] == pytest.approx(expected[:same], abs=tolerance)
    return parted


def test_there_is_a_compiler():
    assert works("cuda")


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
def test_graphs_give_what_a_cpu_gives(kind, on):
    [wanted], _ = sampled(on("cpu", kind), requests(20))
    [graphs], sampler = sampled(on("cuda", kind), requests(20))
    [plain], _ = sampled(on("cuda", kind), requests(20), graphs=False)
    made = sampler._decoder.graphs.made
    assert made
    assert all(graph is not None for graph in made.values())
    assert alike(graphs, wanted, 1e-3) <= 1
    assert alike(plain, wanted, 1e-3) <= 1


def test_greedy_tokens_are_a_cpus(on):
    [wanted], _ = sampled(on("cpu"), requests(10, temperature=0.0))
    [found], _ = sampled(on("cuda"), requests(10, temperature=0.0))
    assert alike(found, wanted, 1e-3) <= 1


def test_rounds_repeat_themselves_and_see_new_weights(on):
    policy = on("cuda", dtype="bfloat16")
    (first, second), sampler = sampled(policy, requests(20), rounds=2)
    assert first == second
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.5)
    policy.version += 1

    async def again():
        return await asyncio.gather(*(sampler.sample(c, p) for c, p in requests(20)))

    third = [(s.actions, s.logprobs) for c in asyncio.run(again()) for s in c.segments]
    assert third != first
    [fresh], _ = sampled(policy, requests(20))
    assert third == fresh


def test_slots_that_grow(on):
    asked = [(context(10, seed=i), SamplingParams(max_tokens=1500, seed=i)) for i in range(3)]
    policy = on("cuda")
    policy.renderer.stop_tokens = frozenset()
    [found], sampler = sampled(policy, asked)
    [wanted], _ = sampled(policy, asked, graphs=False)
    assert sampler._slots.moves >= 1
    assert alike(found, wanted, 1e-3) <= 1


@pytest.mark.parametrize("size", [261, 1000, 49_152])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.6}, {"temperature": 0.0}, {"top_p": 0.9, "top_k": 50}])
def test_draws_are_a_cpus(size, params, on):
    torch.manual_seed(size)
    logits, position = 4 * torch.randn(96, size), torch.arange(96)
    made = []
    for device in ("cpu", "cuda"):
        asked = [SamplingParams(seed=i, entropies=True, **params) for i in range(96)]
        rules = Rules.stack(asked, torch.device(device))
        made.append(fetched(draw(logits.to(device), rules, position.to(device))))
    (tokens, logprobs, entropies), (there, their, theirs) = made
    assert sum(a != b for a, b in zip(tokens, there, strict=True)) <= 1
    assert their == pytest.approx(logprobs, abs=1e-4) or tokens != there
    assert theirs == pytest.approx(entropies, abs=1e-4)
