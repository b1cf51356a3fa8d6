"""Decode steps of few shapes: what a GPU captures and replays, here computed anew each time."""

import asyncio
import random

import pytest
import torch

from hone.samplers.burst import STEPS
from hone.samplers.decode import Decoder
from hone.samplers.graphs import KEYS, Graphs, shape
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
    graphs, burst = sampler._decoder.graphs, sampler._burst
    made = set(graphs.made)
    assert {(rows, width) for _, rows, width, *_ in made} <= {(rows, KEYS) for rows in (1, 2, 4)}
    asyncio.run(many(sampler, requests(6)))
    assert (sampler._decoder.graphs, sampler._burst) == (graphs, burst)
    assert set(graphs.made) == made
    sampler.sync(tiny_policy())
    assert sampler._decoder is sampler._burst is None  # other weights
    asyncio.run(many(sampler, requests(2)))
    sampler.close()
    assert sampler._slots is None


def test_the_shapes_are_few():
    slots = Slots(48, 4096, [(torch.zeros(1, 1, 1),) * 2])
    shapes = {shape(rows, width, slots) for rows in range(1, 49) for width in range(1, 2049)}
    assert {rows for rows, _ in shapes} == {1, 2, 4, 8, 16, 32, 48}
    assert {width for _, width in shapes} == set(range(KEYS, 2049, KEYS))
    assert all(shape(rows, width, slots)[0] >= rows for rows in range(1, 49) for width in (1, 2048))
    assert slots.moves == 0
    assert shape(1, 4097, slots) == (1, 4096 + KEYS)
    assert slots.moves == 1


def test_steps_do_not_outlive_a_cache_that_has_moved(tiny_policy):
    policy = tiny_policy()
    text = policy.text_config
    like = [(torch.zeros(text.num_key_value_heads, 1, text.head_dim),) * 2] * text.num_hidden_layers
    slots = Slots(2, KEYS, like)
    decoder = Decoder(policy, slots, Graphs(slots, policy.device))
    with torch.inference_mode():
        decoder([5, 6], [0, 0])
        assert list(decoder.graphs.made) == [("logits", 2, KEYS)]
        decoder([5], [1])
        assert list(decoder.graphs.made) == [("logits", 2, KEYS), ("logits", 1, KEYS)]
        decoder([5, 6], [KEYS, 3])  # beyond what the slots had room for
    assert list(decoder.graphs.made) == [("logits", 2, 2 * KEYS)]


def burst_of(policy, count=6, **settings):
    sampler = NativeSampler(max_sequences=count, **settings)
    sampler.sync(policy)
    sampler._keeps_slots = True
    return sampler


def test_sequences_of_many_steps_are_collected_in_parts(tiny_policy, monkeypatch):
    policy = tiny_policy()
    policy.renderer.stop_tokens = frozenset()
    asked = [
        (context(5, seed=i), SamplingParams(max_tokens=2 * STEPS + 3 + i, seed=i, entropies=True)) for i in range(4)
    ]
    sampler, plain = burst_of(policy), NativeSampler()
    plain.sync(policy)
    collected, collect = [], sampler._collect

    def counted():
        collected.append(sampler._burst.steps if sampler._burst else 0)
        collect()

    monkeypatch.setattr(sampler, "_collect", counted)
    found, wanted = (asyncio.run(many(each, asked)) for each in (sampler, plain))
    for one, other in zip(found, wanted, strict=True):
        assert [s.actions for s in one.segments] == [s.actions for s in other.segments]
        assert one.segments[0].entropies == pytest.approx(other.segments[0].entropies, abs=1e-5)
    assert max(collected) == STEPS
    assert len([steps for steps in collected if steps]) <= 3 + 4


def test_stop_strings_and_processors(tiny_policy):
    """Strings are looked for after each step; whoever changes logits sees each step's."""
    policy = tiny_policy()
    asked = [(c, SamplingParams(max_tokens=30, seed=p.seed, stop=("e", "a"))) for c, p in requests(8)]

    class Bans:
        def __call__(self, rows, logits):
            return logits.index_fill(1, torch.tensor([ord("e")]), -torch.inf)

    fixed, plain = burst_of(policy), NativeSampler(max_sequences=6)
    plain.sync(policy)
    for processors in ([], [Bans()], []):
        fixed.processors = plain.processors = processors
        found, wanted = (asyncio.run(many(each, asked)) for each in (fixed, plain))
        assert [(c.segments[0].actions, c.stop) for c in found] == [(c.segments[0].actions, c.stop) for c in wanted]


def test_those_who_give_up_leave_and_others_go_on(tiny_policy):
    policy = tiny_policy()
    policy.renderer.stop_tokens = frozenset()

    async def some_give_up(sampler):
        tasks = [
            asyncio.create_task(sampler.sample(context(4, seed=i), SamplingParams(max_tokens=90, seed=i)))
            for i in range(5)
        ]
        while not sampler._running:
            await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[3].cancel()
        late = sampler.sample(context(9), SamplingParams(max_tokens=7, seed=9))
        made = [*await asyncio.gather(*tasks, return_exceptions=True), await late]
        return [m if isinstance(m, BaseException) else m.segments[0].actions for m in made]

    plain = NativeSampler(max_sequences=5)
    plain.sync(policy)
    found, wanted = (asyncio.run(some_give_up(each)) for each in (burst_of(policy, 5), plain))
    assert [type(f) for f in found] == [type(w) for w in wanted]
    assert [f for f in found if isinstance(f, tuple)] == [w for w in wanted if isinstance(w, tuple)]
    assert len(found[0]) == 90


def test_an_error_in_a_burst_reaches_all_and_the_next_round_is_well(tiny_policy):
    policy = tiny_policy()
    sampler = burst_of(policy)
    [wanted] = asyncio.run(many(sampler, requests(1)))
    weight = policy.backbone.layers[0].self_attn.v_proj.weight
    with torch.no_grad():
        saved = weight.clone()
        weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        asyncio.run(many(sampler, requests(6)))
    with torch.no_grad():
        weight.copy_(saved)
    policy.version += 1
    [found] = asyncio.run(many(sampler, requests(1)))
    assert found.segments == wanted.segments
