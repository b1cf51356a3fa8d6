"""Decode steps of few shapes: what a GPU captures and replays, here computed anew each time."""

import asyncio
import random

import pytest
import torch

from hone.samplers.decode import NARROW, WIDER, Decoder
from hone.samplers.native import NativeSampler
from hone.samplers.slots import Slots
from hone.seats import SamplingParams
from hone.types import Segment


def context(n, seed=0):
    draw = random.Random(seed)
    return [Segment("prompt", "given", tuple(draw.randrange(250) for _ in range(n)))]


async def many(sampler, requests):
    return await asyncio.gather(*(sampler.sample(c, p) for c, p in requests))


def requests(count):
    return [
        (context(3 + 7 * (i % 5), seed=i % 5), SamplingParams(max_tokens=2 + 5 * (i % 7), seed=i)) for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "opt", "deepseek_v3"])
def test_shapes_to_spare_change_nothing(kind, tiny_policy):
    policy, found = tiny_policy(kind=kind), []
    for fixed in (False, True):
        sampler = NativeSampler(max_sequences=6)
        sampler.sync(policy)
        sampler._keeps_slots = fixed
        found.append([c for count in (9, 4) for c in asyncio.run(many(sampler, requests(count)))])
    for plain, spared in zip(*found, strict=True):
        [one], [other] = plain.segments, spared.segments
        assert (one.actions, plain.stop) == (other.actions, spared.stop)
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-5)


def test_steps_are_made_once_and_outlive_rounds(tiny_policy):
    sampler = NativeSampler(max_sequences=4)
    sampler.sync(tiny_policy())
    sampler._keeps_slots = True
    asyncio.run(many(sampler, requests(6)))
    steps = dict(sampler._decoder._steps)
    assert steps.keys() <= {(rows, NARROW) for rows in (1, 2, 4)}
    asyncio.run(many(sampler, requests(6)))
    assert all(sampler._decoder._steps[shape] is step for shape, step in steps.items())
    sampler.sync(tiny_policy())
    assert sampler._decoder is None  # other weights
    asyncio.run(many(sampler, requests(2)))
    sampler.close()
    assert sampler._slots is None


def test_the_shapes_are_few():
    decoder = Decoder.__new__(Decoder)
    decoder.slots = type("Slots", (), {"count": 48})
    shapes = {decoder._shape(rows, width) for rows in range(1, 49) for width in range(1, 2049)}
    assert {rows for rows, _ in shapes} == {1, 2, 4, 8, 16, 32, 48}
    assert {width for _, width in shapes} == {NARROW, WIDER, 2 * WIDER, 3 * WIDER, 4 * WIDER}
    assert all(decoder._shape(rows, width)[0] >= rows for rows in range(1, 49) for width in (1, 2048))


def test_steps_do_not_outlive_a_cache_that_has_moved(tiny_policy):
    policy = tiny_policy()
    text = policy.text_config
    like = [(torch.zeros(text.num_key_value_heads, 1, text.head_dim),) * 2] * text.num_hidden_layers
    slots = Slots(2, NARROW, like)
    decoder = Decoder(policy, slots, fixed=True)
    with torch.inference_mode():
        decoder([5, 6], [0, 0])
        [step] = decoder._steps.values()
        decoder([5], [1])
        assert decoder._steps[2, NARROW] is step
        decoder([5, 6], [NARROW, 3])  # beyond what the slots had room for
    assert list(decoder._steps) == [(2, WIDER)]
