"""vLLM in this process, for real: tokens, log-probabilities, stops, seeds, weights."""

import asyncio
from dataclasses import replace

import pytest
import torch
from engine_parts import END, context, run, tokens, worst_gap

from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams

pytestmark = pytest.mark.vllm


def test_samples_as_the_policy_has_it(vllm_policy, vllm_sampler, score_groups):
    policy = vllm_policy()
    sampler = vllm_sampler(policy)
    for temperature in (1.0, 0.7):
        requests = [
            (context(3 + i % 5, seed=i % 5), SamplingParams(temperature=temperature, seed=i, max_tokens=8 + 2 * i))
            for i in range(12)
        ]
        completions = run(sampler, *requests)
        assert worst_gap(policy, score_groups, requests, completions, temperature) < 1e-4
        for (_, params), completion in zip(requests, completions, strict=True):
            [segment] = completion.segments
            ended = segment.actions[-1] == END
            assert completion.stop == ("eos" if ended else "length")
            assert len(segment) == params.max_tokens or ended
            assert END not in segment.actions[:-1]
            assert segment.text == policy.renderer.decode(segment.actions)
            assert segment.train
            assert completion.version == policy.version


def test_greedy_is_that_of_the_native_sampler(vllm_policy, vllm_sampler):
    policy, native = vllm_policy(), NativeSampler()
    native.sync(policy)
    requests = [(context(n, seed=n), SamplingParams(temperature=0, max_tokens=24)) for n in (1, 4, 13, 30)]
    for ours, theirs in zip(run(vllm_sampler(policy), *requests), run(native, *requests), strict=True):
        assert tokens(ours) == tokens(theirs)
        assert ours.segments[0].logprobs == pytest.approx(theirs.segments[0].logprobs, abs=1e-4)
        assert ours.stop == theirs.stop


def test_a_sample_depends_on_its_key_alone(vllm_sampler):
    sampler = vllm_sampler(max_sequences=3)
    requests = [
        (context(5, seed=i // 4), SamplingParams(max_tokens=12).keyed(f"task {i // 4}", i % 4)) for i in range(8)
    ]
    together = list(map(tokens, run(sampler, *requests)))
    assert len(set(together)) == 8
    assert list(map(tokens, run(sampler, *reversed(requests))))[::-1] == together
    assert [tokens(run(sampler, request)[0]) for request in requests] == together
    assert tokens(run(sampler, (context(5), replace(requests[0][1], seed=2**63 - 1)))[0])  # the largest key there is


def test_stop_strings_are_kept_and_nothing_behind_them(vllm_policy, vllm_sampler):
    policy, native = vllm_policy(), NativeSampler()
    native.sync(policy)
    sampler = vllm_sampler(policy)
    greedy = SamplingParams(temperature=0, max_tokens=24)
    plains = run(native, *((context(4, seed=i), greedy) for i in range(12)))
    tried = 0
    for i, plain in enumerate(plains):
        string = next((c for c in plain.text[3:] if c.isascii() and c not in plain.text[:3]), None)
        if string is None:
            continue
        request = (context(4, seed=i), replace(greedy, stop=["never", string]))
        [ours], [theirs] = run(sampler, request), run(native, request)
        assert tokens(ours) == tokens(theirs) == tokens(plain)[: len(tokens(ours))]
        assert ours.stop == theirs.stop == "stop"
        assert ours.text == theirs.text == plain.text[: plain.text.index(string) + 1]
        tried += 1
    assert tried > 3


def test_siblings_share_their_prefix(vllm_sampler):
    sampler = vllm_sampler()
    cached, finish = [], sampler._stepper._finish
    sampler._stepper._finish = lambda request, answer: cached.append(answer.cached) or finish(request, answer)
    run(sampler, *((context(300), SamplingParams(seed=i, max_tokens=2)) for i in range(4)))
    assert sorted(cached)[0] == 0
    assert min(sorted(cached)[1:]) >= 256


def test_more_context_than_one_pass_takes(vllm_policy, vllm_sampler, score_groups):
    policy = vllm_policy()
    requests = [(context(480, seed=i), SamplingParams(seed=i, max_tokens=8)) for i in range(9)]
    completions = run(vllm_sampler(policy), *requests)
    assert worst_gap(policy, score_groups, requests, completions) < 1e-4


def test_updated_weights_arrive_and_what_was_cached_is_dropped(vllm_policy, vllm_sampler, score_groups):
    policy = vllm_policy()
    sampler = vllm_sampler(policy, check_every=1)
    requests = [(context(200, seed=1), SamplingParams(seed=i, max_tokens=16)) for i in range(3)]
    before = run(sampler, *requests)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    policy.advance()
    assert sampler.fingerprint() != policy.fingerprint()
    sampler.sync(policy)
    assert sampler.fingerprint() == policy.fingerprint()
    after = run(sampler, *requests)
    assert worst_gap(policy, score_groups, requests, before) > 0.1
    assert worst_gap(policy, score_groups, requests, after) < 1e-4
    assert {made.version for made in after} == {policy.version} == {before[0].version + 1}


def test_adapters_arrive_merged(vllm_policy, vllm_sampler, score_groups):
    policy = vllm_policy(lora={"rank": 4})
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    policy.advance()
    requests = [(context(6, seed=i), SamplingParams(seed=i, max_tokens=16)) for i in range(4)]
    assert worst_gap(policy, score_groups, requests, run(vllm_sampler(policy), *requests)) < 1e-3


def test_weights_that_were_lost_on_the_way_are_noticed(vllm_policy, vllm_sampler):
    policy = vllm_policy()
    sampler = vllm_sampler(policy)
    load = sampler._engine.load
    sampler._engine.load = lambda weights: load((name, w + 1 if "norm" in name else w) for name, w in weights)
    sampler._syncs = sampler.check_every
    with pytest.raises(RuntimeError, match=r"5 of \d+ weights in vLLM are not those it was sent"):
        sampler.sync(policy)


def test_what_vllm_refuses_harms_no_other(vllm_sampler):
    sampler = vllm_sampler(context=64)
    requests = [(context(4), SamplingParams(seed=i, max_tokens=8, temperature=t)) for i, t in enumerate((1.0, 2.5))]
    fine, refused = run(sampler, *requests, return_exceptions=True)
    assert len(fine.segments[0]) == 8
    assert "temperature must be in [0, 2]" in str(refused)
    [refused] = run(sampler, (context(60), SamplingParams(max_tokens=5)), return_exceptions=True)
    assert str(refused).endswith("need 65 positions; the engine has 64; set sampling.max_tokens to at most 4")


def test_a_cancelled_sample_leaves_the_others_alone(vllm_sampler):
    sampler = vllm_sampler()
    requests = [(context(4, seed=i), SamplingParams(seed=i, max_tokens=40)) for i in range(3)]
    expected = list(map(tokens, run(sampler, *requests)))

    async def cancel():
        tasks = [asyncio.ensure_future(sampler.sample([prompt], params)) for prompt, params in requests]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found.pop(1), asyncio.CancelledError)
        return list(map(tokens, found))

    assert asyncio.run(cancel()) == [expected[0], expected[2]]
    assert list(map(tokens, run(sampler, *requests))) == expected


def test_closing_ends_what_is_under_way_and_it_starts_again(vllm_policy, vllm_sampler):
    policy = vllm_policy()
    sampler = vllm_sampler(policy)
    request = (context(4), SamplingParams(seed=3, max_tokens=400))

    async def close():
        task = asyncio.ensure_future(sampler.sample([request[0]], request[1]))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="under way"):
            sampler.sync(policy)
        await asyncio.to_thread(sampler.close)
        with pytest.raises(RuntimeError, match="closed while"):
            await task

    asyncio.run(close())
    with pytest.raises(RuntimeError, match="call sync"):
        run(sampler, request)
    sampler.sync(policy)
    assert run(sampler, request)


def test_what_stalls_is_named(vllm_policy, vllm_sampler):
    from time import sleep

    from hone.hangs import HangError

    policy = vllm_policy()
    sampler = vllm_sampler(policy)
    sampler.patience = 0.2
    sampler._engine.load = lambda weights: sleep(1)
    with pytest.raises(HangError, match=r"giving vLLM the weights did not end within 0.2 s \(sampler.vllm.patience\)"):
        sampler.sync(policy)


def test_alphaone_acts_inside_the_engine(vllm_policy, vllm_sampler):
    from hone.papers.alphaone import AlphaOne

    settings = {"n_think": 30, "wait": "Wa", "slow": ["W"], "end": "E", "delimiters": ["."], "alpha": 1.0}
    sampler = vllm_sampler(vllm_policy(), processors=[AlphaOne(**settings, schedule="constant", probability=1.0)])
    requests = [(context(5, seed=i), SamplingParams(seed=i, max_tokens=80, temperature=2.0)) for i in range(12)]
    made = run(sampler, *requests)
    forced = [segment for completion in made for segment in completion.segments if segment.source == "forced"]
    assert forced
    assert not any(segment.train or segment.logprobs for segment in forced)
    for completion in made:
        whole = tuple(action for segment in completion.segments for action in segment.actions)
        thought = whole[: whole.index(ord("E"))] if ord("E") in whole else whole
        for at, token in enumerate(thought[:-2]):
            if token == ord(".") and at < 29:
                assert thought[at + 1 : at + 3] == (ord("W"), ord("a"))
        assert ord("W") not in thought[32:]


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        ({"enforce_eagre": True}, "sampler.vllm.engine.enforce_eagre: .*has no such argument; enforce_eager?"),
        ({"max_num_seqs": 3}, "sampler.vllm.engine.max_num_seqs: is set by sampler's max_sequences"),
        ({"logprobs_mode": "raw_logits"}, "is what hone needs it to be"),
        ({"tensor_parallel_size": 2}, "an engine in this process has its one device.*beside servers of `hone serve`"),
    ],
)
def test_bad_settings_are_refused_before_the_engine_starts(vllm_sampler, engine, problem):
    with pytest.raises(ValueError, match=problem):
        vllm_sampler(engine=engine)


def test_more_memory_than_is_free_is_refused(vllm_policy, monkeypatch):
    from hone.samplers import vllm_compat
    from hone.samplers.vllm_engine import VLLMSampler

    monkeypatch.setattr(vllm_compat, "free_memory", lambda device: (3 << 30, 10 << 30))
    with pytest.raises(ValueError, match=r"memory = 0.4: of the 10.0 GiB of cpu, 3.0 GiB are free; set .* most 0.3$"):
        VLLMSampler().sync(vllm_policy())


@pytest.mark.smollm2
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-3), ("bfloat16", 1.0)])
def test_the_gap_on_a_trained_model(dtype, limit, vllm_sampler, score_groups):
    from hone.policies.causal_lm import CausalLM

    policy = CausalLM(path="smollm2-135m", dtype=dtype)
    policy.load(torch.device("cpu"))
    prompt = policy.renderer.prompt([{"role": "user", "content": "What is 12 + 7?"}])
    sampler = vllm_sampler(policy, context=256, engine={"kv_cache_memory_bytes": 256 << 20})
    requests = [(prompt, SamplingParams(seed=i, max_tokens=24)) for i in range(8)]
    gap = worst_gap(policy, score_groups, requests, run(sampler, *requests))
    print(f"SmolLM2-135M in {dtype}: {gap:.2g} nats at worst")
    assert gap < limit
