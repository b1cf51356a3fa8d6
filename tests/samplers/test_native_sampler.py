import asyncio
import random
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM

from hone import collate
from hone.samplers.draw import uniform
from hone.samplers.native import NativeSampler
from hone.samplers.slots import GROW
from hone.seats import SamplingParams
from hone.types import Group, Segment, Task, Trajectory

ATTENTION = [
    "llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "opt", "granite", "cohere", "mixtral", "gpt_oss",
    "deepseek_v3",
]  # fmt: skip
END = 256


def ban(*tokens):
    def processor(rows, logits):
        logits[:, list(tokens)] = -torch.inf
        return logits

    return processor


def script(text_or_tokens):
    """A processor that leaves no choice but a given text."""
    tokens = list(text_or_tokens)

    def processor(rows, logits):
        forced = torch.full_like(logits, -torch.inf)
        for row, request in enumerate(rows):
            forced[row, tokens[len(request.tokens) % len(tokens)]] = 0
        return forced

    return processor


@pytest.fixture
def sampler(tiny_policy):
    """``sampler(kind="llama", dtype="float32", **settings)``: bound to a policy that is loaded once."""
    policies = {}

    def make(kind="llama", dtype="float32", **settings):
        if (kind, dtype) not in policies:
            policies[kind, dtype] = tiny_policy(dtype, kind=kind)
        made = NativeSampler(**settings)
        made.sync(policies[kind, dtype])
        return made

    return make


def context(n, seed=0):
    draw = random.Random(seed)
    return Segment("prompt", "given", tuple(draw.randrange(250) for _ in range(n)))


async def gather(sampler, requests, **options):
    tasks = [sampler.sample([prompt], params) for prompt, params in requests]
    return await asyncio.wait_for(asyncio.gather(*tasks, **options), timeout=60)


def run(sampler, *requests, **options):
    return asyncio.run(gather(sampler, requests, **options))


def tokens(completion):
    return completion.segments[0].actions


def by_hand(model, prompt, params, stop=(END,), banned=()):
    """Sampling in the plainest way: the whole sequence anew for each token, and one cumulative sum."""
    ids = list(prompt.actions)
    drawn = []
    while len(drawn) < params.max_tokens and not (drawn and drawn[-1] in stop):
        with torch.no_grad():
            logits = model(torch.tensor([ids + drawn])).logits[0, -1].double()
        logits[list(banned)] = -torch.inf
        cumulative = (logits / params.temperature).softmax(-1).cumsum(-1)
        u = uniform(torch.tensor([params.seed]), torch.tensor([len(drawn)]))
        drawn.append(int(torch.searchsorted(cumulative, u * cumulative[-1], right=True)))
    return tuple(drawn)


def as_groups(requests, completions):
    task = Task("t", [])
    return [
        Group(task, [Trajectory(task, [prompt, *completion.segments], reward=0.0)])
        for (prompt, _), completion in zip(requests, completions, strict=True)
    ]


@pytest.mark.parametrize("kind", ATTENTION)
def test_greedy_is_that_of_transformers(kind, sampler, tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    prompts = [context(n, seed=n) for n in (1, 4, 13, 30)]  # some longer than the windows
    found = run(sampler(kind), *((p, SamplingParams(temperature=0, max_tokens=24)) for p in prompts))
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt.actions])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert tokens(completion) == tuple(expected[0, len(prompt) :].tolist())
        assert completion.stop == ("eos" if tokens(completion)[-1] == END else "length")


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_samples_are_those_of_a_plain_loop(kind, sampler, tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    requests = [
        (context(n, seed=n), SamplingParams(temperature=t, max_tokens=m, seed=s))
        for n, t, m, s in [(3, 1.0, 20, 1), (3, 1.0, 12, 2), (12, 0.5, 20, 3), (20, 2.0, 7, 4), (1, 1.0, 16, 5)]
    ]
    for request, completion in zip(requests, run(sampler(kind, max_sequences=3), *requests), strict=True):
        assert tokens(completion) == by_hand(model, *request)


@pytest.mark.parametrize("kind", ATTENTION)
def test_log_probabilities_are_those_of_the_policy(kind, sampler, score_groups):
    engine = sampler(kind)
    for temperature in (1.0, 0.7):
        requests = [
            (
                context(3 + 3 * (i % 5), seed=i % 5),
                SamplingParams(temperature=temperature, seed=i, max_tokens=8 + 2 * i),
            )
            for i in range(12)
        ]
        completions = run(engine, *requests)
        with torch.no_grad():
            scores = score_groups(engine._policy, as_groups(requests, completions), temperature=temperature)
        for completion, ours in zip(completions, scores, strict=True):
            assert completion.segments[0].logprobs == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_log_probabilities_in_bfloat16(kind, sampler, score_groups):
    engine = sampler(kind, "bfloat16")
    requests = [(context(4 + i % 8, seed=i % 8), SamplingParams(seed=i, max_tokens=32)) for i in range(64)]
    completions = run(engine, *requests)
    with torch.no_grad():
        scores = score_groups(engine._policy, as_groups(requests, completions))
    sampled = torch.tensor([value for c in completions for value in c.segments[0].logprobs])
    gaps = sampled - torch.tensor([value for values in scores for value in values])
    assert gaps.mean().abs() < 1e-2
    assert gaps.abs().mean() < 5e-2


def many_requests():
    """64 requests: 8 prompts of 8 siblings, of different lengths and temperatures."""
    return [
        (
            context(2 + 3 * (i // 8), seed=i // 8),
            SamplingParams(seed=i, max_tokens=1 + (7 * i) % 19, temperature=0.5 + i % 3),
        )
        for i in range(64)
    ]


@pytest.mark.parametrize("most", [1, 3, 64])
def test_a_sample_does_not_depend_on_its_neighbours(most, sampler):
    requests = many_requests()
    alone = {i: run(sampler(), requests[i])[0] for i in range(0, 64, 7)}
    order = random.Random(most).sample(range(64), 64)
    together = dict(zip(order, run(sampler(max_sequences=most), *(requests[i] for i in order)), strict=True))
    for i, completion in alone.items():
        assert tokens(together[i]) == tokens(completion)
        assert together[i].stop == completion.stop
        assert together[i].segments[0].logprobs == pytest.approx(completion.segments[0].logprobs, abs=1e-4)
    in_order = run(sampler(), *requests)
    assert [tokens(together[i]) for i in range(64)] == [tokens(c) for c in in_order]


def test_a_sample_does_not_depend_on_the_time_of_its_arrival(sampler):
    requests = many_requests()

    async def late(engine, i):
        for _ in range((11 * i) % 30):
            await asyncio.sleep(0)
        return await engine.sample([requests[i][0]], requests[i][1])

    async def staggered():
        engine = sampler(max_sequences=7)
        return await asyncio.wait_for(asyncio.gather(*(late(engine, i) for i in range(64))), timeout=60)

    assert [tokens(c) for c in asyncio.run(staggered())] == [tokens(c) for c in run(sampler(), *requests)]


def test_siblings_and_seeds_differ(sampler):
    prompt, params = context(5), SamplingParams(max_tokens=12, seed=3)
    siblings = [(prompt, params.keyed("task", sibling)) for sibling in range(16)]
    others = [(prompt, SamplingParams(max_tokens=12, seed=4).keyed("task", sibling)) for sibling in range(16)]
    found = [tokens(c) for c in run(sampler(), *siblings, *others)]
    assert len(set(found)) == 32
    assert [tokens(c) for c in run(sampler(), *siblings)] == found[:16]


def test_first_tokens_are_drawn_as_often_as_they_should(sampler):
    engine, prompt, n = sampler(max_sequences=512), context(6), 4000
    with torch.no_grad():
        expected = engine._policy.model(torch.tensor([prompt.actions])).logits[0, -1].softmax(-1) * n
    completions = run(engine, *((prompt, SamplingParams(seed=seed, max_tokens=1)) for seed in range(n)))
    counts = torch.bincount(torch.tensor([tokens(c)[0] for c in completions]), minlength=261)
    common = expected > 5
    chi_square = ((counts - expected) ** 2 / expected)[common].sum()
    assert chi_square < common.sum() + 5 * (2 * common.sum()) ** 0.5


def test_a_completion_by_hand(sampler):
    (found,) = run(sampler(processors=[script([*b"ab", END])]), (context(3), SamplingParams(max_tokens=9)))
    segment = Segment("response", "policy", (*b"ab", END), (0.0, 0.0, 0.0), text="ab", train=True)
    assert (found.segments, found.stop, found.version) == ((segment,), "eos", 0)


def test_the_cache_is_freed_when_nobody_samples(sampler):
    engine = sampler()
    run(engine, (context(3), SamplingParams(max_tokens=4)))
    assert (engine._slots, engine._prefixes, engine._running) == (None, {}, [])


@pytest.mark.parametrize(("most", "stop"), [(1, "length"), (2, "length"), (3, "eos"), (9, "eos")])
def test_an_end_at_the_last_allowed_token_is_an_end(most, stop, sampler):
    (found,) = run(sampler(processors=[script([*b"ab", END])]), (context(3), SamplingParams(max_tokens=most)))
    assert (tokens(found), found.stop) == ((*b"ab", END)[:most], stop)


def test_an_end_at_the_first_token(sampler):
    engine = sampler(processors=[script([END, *b"never"])])
    for found in run(engine, *((context(n), SamplingParams(max_tokens=9)) for n in (1, 2, 2, 3))):
        assert (tokens(found), found.stop, found.segments[0].text) == ((END,), "eos", "")


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("one STOP two", ["STOP"], "one STOP"),
        ("one STOP two", ["xyz", "P"], "one STOP"),
        ("S T O P STO P STOP", ["STOP"], "S T O P STO P STOP"),
        ("\n\n answer", ["\n\n"], "\n\n"),
        ("naïve é!", ["é"], "naïve é"),
        ("日本語です", ["本語"], "日本語"),
        ("aaab", ["aab"], "aaab"),
        ("x", ["x"], "x"),
    ],
)
def test_stop_strings(text, stop, kept, sampler):
    engine = sampler(processors=[script(text.encode())])  # one token a byte: every string spans several
    (found,) = run(engine, (context(3), SamplingParams(max_tokens=60, stop=stop)))
    assert (found.text, found.stop) == (kept, "stop")
    assert bytes(tokens(found)).decode() == kept


def test_a_stop_string_ends_only_its_own_request(sampler):
    engine = sampler(processors=[script(b"abcdef")])
    prompt = context(3)
    params = [SamplingParams(max_tokens=6, stop=stop) for stop in (["c"], [], ["e", "b"], ["zz"])]
    assert [c.text for c in run(engine, *((prompt, p) for p in params))] == ["abc", "abcdef", "ab", "abcdef"]


def test_long_growth(sampler, score_groups):
    engine = sampler(processors=[ban(END)])
    requests = [
        (context(n, seed=n), SamplingParams(seed=n, max_tokens=m))
        for n, m in [(3, 2 * GROW + 40), (GROW + 5, 90), (20, 5), (20, GROW), (GROW - 1, 2)]
    ]
    completions = run(engine, *requests)
    assert [len(tokens(c)) for c in completions] == [params.max_tokens for _, params in requests]
    with torch.no_grad():
        for group, completion in zip(as_groups(requests, completions), completions, strict=True):
            # The policy knows of no ban; it changes the normaliser by what the banned token would have had.
            (ours,) = score_groups(engine._policy, [group])
            gap = torch.tensor(completion.segments[0].logprobs) - torch.tensor(ours)
            assert gap.min() > -1e-4
    plain = sampler()
    model = plain._policy.model
    (grown,) = run(engine, (context(3, seed=3), SamplingParams(seed=9, max_tokens=GROW + 30)))
    assert tokens(grown) == by_hand(
        model, context(3, seed=3), SamplingParams(seed=9, max_tokens=GROW + 30), banned=[END]
    )


def test_a_long_context_after_a_short_one(sampler):
    requests = [(context(n, seed=n), SamplingParams(seed=n, max_tokens=6)) for n in (2, 3, 2 * GROW, 4, 3 * GROW)]
    one_by_one = run(sampler(max_sequences=1), *requests)
    assert [tokens(c) for c in run(sampler(max_sequences=2), *requests)] == [tokens(c) for c in one_by_one]


def test_rules_differ_within_a_batch(sampler):
    prompt = context(6)
    params = [
        SamplingParams(max_tokens=8, seed=1),
        SamplingParams(max_tokens=8, temperature=0),
        SamplingParams(max_tokens=8, seed=1, top_k=1),
        SamplingParams(max_tokens=8, seed=1, min_p=0.3),
        SamplingParams(max_tokens=8, seed=1, top_p=0.5, temperature=2),
    ]
    together = run(sampler(), *((prompt, p) for p in params))
    assert [tokens(c) for c in together] == [tokens(run(sampler(), (prompt, p))[0]) for p in params]
    assert tokens(together[1]) == tokens(together[2])  # the likeliest token, by two names
    assert together[2].segments[0].logprobs == (0.0,) * len(tokens(together[2]))


def cancelling(engine, requests, victims, after):
    """Cancel some requests after a while; the results of the others, and what one more gives afterwards."""

    async def main():
        tasks = [asyncio.create_task(engine.sample([prompt], params)) for prompt, params in requests]
        for _ in range(after):
            await asyncio.sleep(0)
        for victim in victims:
            tasks[victim].cancel()
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=60)
        return found, await engine.sample([requests[0][0]], requests[0][1])

    return asyncio.run(main())


@pytest.mark.parametrize("after", [0, 1, 2, 3, 6, 12])
@pytest.mark.parametrize("most", [2, 64])
def test_cancelling_one_leaves_the_others_alone(after, most, sampler):
    requests = [(context(3 + i % 3, seed=i % 3), SamplingParams(seed=i, max_tokens=16)) for i in range(9)]
    expected = run(sampler(processors=[ban(END)]), *requests)
    found, again = cancelling(sampler(processors=[ban(END)], max_sequences=most), requests, [1, 4, 8], after)
    for i, completion in enumerate(found):
        if i in (1, 4, 8):
            assert isinstance(completion, asyncio.CancelledError)
        else:
            assert tokens(completion) == tokens(expected[i])
    assert tokens(again) == tokens(expected[0])


@pytest.mark.parametrize("after", [0, 1, 2, 3, 6])
def test_cancelling_all_leaves_the_sampler_usable(after, sampler):
    requests = [(context(3), SamplingParams(seed=i, max_tokens=400)) for i in range(5)]
    engine = sampler(max_sequences=2, processors=[ban(END)])
    found, again = cancelling(engine, requests, range(5), after)
    assert all(isinstance(completion, asyncio.CancelledError) for completion in found)
    assert len(tokens(again)) == 400
    assert not engine._waiting
    assert not engine._running


def test_nothing_is_computed_for_who_left_while_waiting(sampler):
    engine, seen = sampler(), []
    hook = engine._policy.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    requests = [(context(4, seed=i), SamplingParams(seed=i, max_tokens=1)) for i in range(3)]
    cancelling(engine, requests, [1, 2], after=1)
    hook.remove()
    assert [ids.tolist() for ids in seen] == [[list(requests[0][0].actions)]] * 2  # and once more, for itself


@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_error_reaches_everybody_and_leaves_the_sampler_usable(at, sampler):
    def fail(rows, logits):
        if max(len(row.tokens) for row in rows) >= at:
            raise ZeroDivisionError("a processor's own fault")
        return logits

    engine = sampler(max_sequences=2, processors=[ban(END), fail])
    requests = [(context(3 + i), SamplingParams(seed=i, max_tokens=8)) for i in range(5)]
    found = run(engine, *requests, return_exceptions=True)
    assert [str(error) for error in found] == ["a processor's own fault"] * 5
    engine.processors = [ban(END)]
    assert [tokens(c) for c in run(engine, *requests)] == [
        tokens(c) for c in run(sampler(processors=[ban(END)]), *requests)
    ]


def test_an_error_in_the_model_reaches_everybody(sampler):
    engine = sampler("gpt2", processors=[ban(END)])
    with_words_it_lacks = Segment("prompt", "given", (1, 2, 261))
    requests = [(prompt, SamplingParams(max_tokens=20)) for prompt in (context(9), with_words_it_lacks, context(3))]
    found = run(engine, *requests, return_exceptions=True)
    assert all(isinstance(error, IndexError) for error in found)
    assert len(tokens(run(engine, requests[0])[0])) == 20


@pytest.mark.parametrize(("kind", "limit"), [("gpt2", 64), ("llama", 512)])
def test_what_may_outgrow_the_positions_is_refused(kind, limit, sampler):
    engine = sampler(kind, processors=[ban(END)])
    fits = context(limit - 20), SamplingParams(max_tokens=20)
    too_much = context(limit - 20), SamplingParams(max_tokens=21)
    too_long = context(limit), SamplingParams(max_tokens=1)
    found = run(engine, too_much, fits, too_long, return_exceptions=True)  # its neighbours are not harmed
    assert isinstance(found[0], ValueError)
    assert str(found[0]) == (
        f"sampler: a context of {limit - 20} tokens and sampling.max_tokens: 21 need {limit + 1} positions; the model "
        f"has {limit} (max_position_embeddings in its config.json); set sampling.max_tokens to at most 20"
    )
    assert len(tokens(found[1])) == 20
    assert str(found[2]).endswith("; shorten the context")


def test_a_model_without_a_limit_of_positions_goes_on(sampler):
    engine = sampler(processors=[ban(END)])
    del engine._policy.text_config.max_position_embeddings
    assert len(tokens(run(engine, (context(500), SamplingParams(max_tokens=20)))[0])) == 20


def test_weights_gone_bad_are_told(sampler):
    def spoil(rows, logits):
        return logits * torch.nan

    with pytest.raises(FloatingPointError, match="logits are NaN"):
        run(sampler(processors=[spoil]), (context(3), SamplingParams()))


def test_processors_see_what_was_sampled_and_rule_what_is_drawn(sampler):
    histories = []

    def watch(rows, logits):
        assert len(rows) == len(logits)
        histories.extend(tuple(row.tokens) for row in rows)
        return logits

    odd = ban(*range(1, 261, 2))
    completions = run(
        sampler(processors=[watch, odd]), *((context(4), SamplingParams(seed=i, max_tokens=9)) for i in range(3))
    )
    assert all(token % 2 == 0 for c in completions for token in tokens(c))
    expected = Counter(tokens(c)[:n] for c in completions for n in range(len(tokens(c))))
    assert Counter(histories) == expected
    assert all(logprob > -torch.inf for c in completions for logprob in c.segments[0].logprobs)


@pytest.mark.parametrize("most", [5, 64])
@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_each_context_is_computed_once(most, budget, sampler):
    engine = sampler(max_sequences=most, prefill_tokens=budget, processors=[ban(END)])
    prompts = [context(2 + 3 * i, seed=i) for i in range(8)]
    prefilled, decoded = [], 0

    def count(module, args, kwargs):
        nonlocal decoded
        ids = kwargs["input_ids"]
        if ids.shape[1] > 1:
            prefilled.append(ids)
        else:
            decoded += len(ids)

    hook = engine._policy.backbone.register_forward_pre_hook(count, with_kwargs=True)
    requests = [(prompts[i % 8], SamplingParams(seed=i, max_tokens=6)) for i in random.Random(1).sample(range(64), 64)]
    completions = run(engine, *requests)
    hook.remove()
    computed = Counter(tuple(row) for ids in prefilled for row in ids.tolist())
    found = Counter(
        next(p.actions for p in prompts if row[: len(p)] == p.actions and not any(row[len(p) :]))
        for row in computed.elements()
    )
    assert found == Counter(p.actions for p in prompts)
    assert all(ids.numel() <= budget or len(ids) == 1 for ids in prefilled)
    assert decoded == sum(len(tokens(c)) - 1 for c in completions)  # nobody is decoded past its end


def test_slots_are_given_to_the_next(sampler):
    engine, widest = sampler(max_sequences=4, processors=[ban(END)]), []
    hook = engine._policy.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: widest.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    lengths = [9, 2, 5, 1, 7, 3, 3, 8, 1, 6]
    run(engine, *((context(4), SamplingParams(seed=i, max_tokens=n)) for i, n in enumerate(lengths)))
    hook.remove()
    assert max(widest) == 4
    assert len(widest) <= 1 + sum(lengths) / 4 + 9  # four at a time, but for the tail


def test_the_version_is_that_of_the_start(sampler, tiny_policy):
    engine = NativeSampler()
    policy = tiny_policy()
    engine.sync(policy)
    policy.advance()
    policy.advance()
    assert run(engine, (context(3), SamplingParams(max_tokens=2)))[0].version == 2


def test_new_weights_are_used_at_once(tiny_policy):
    engine, policy = NativeSampler(), tiny_policy()
    engine.sync(policy)
    request = context(5), SamplingParams(max_tokens=20)
    before = run(engine, request)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.5)
    policy.advance()
    fresh = NativeSampler()
    fresh.sync(policy)
    after = run(engine, request)
    assert tokens(after[0]) == tokens(run(fresh, request)[0]) != tokens(before[0])


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "deepseek_v3"])
def test_the_policy_trains_after_sampling(kind, tiny_policy, score_groups):
    policy = tiny_policy(kind=kind, gradient_checkpointing=True)
    engine = NativeSampler()
    engine.sync(policy)
    request = context(5), SamplingParams(max_tokens=9)
    groups = as_groups([request], run(engine, request))
    groups[0].trajectories[0].advantage = 1.0
    batch = collate.batch(collate.rows(groups, shares_context=True, tokens=100), policy.encode, temperature=1.0)
    policy.score(batch).logprobs.sum().backward()
    assert all(weight.grad is not None and not weight.grad.is_inference() for weight in policy.parameters())


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_models_that_are_not_all_attention_are_refused(kind, tiny_policy):
    with pytest.raises(ValueError, match="all attention"):
        NativeSampler().sync(tiny_policy(kind=kind))


def test_it_needs_a_context_and_a_policy(sampler):
    with pytest.raises(ValueError, match="context is empty"):
        run(sampler(), (context(0), SamplingParams()))
    with pytest.raises(RuntimeError, match="call sync"):
        run(NativeSampler(), (context(3), SamplingParams()))


def test_closing_fails_what_is_under_way(sampler):
    engine = sampler(processors=[ban(END)])
    policy = engine._policy

    async def main():
        task = asyncio.create_task(engine.sample([context(3)], SamplingParams(max_tokens=400)))
        for _ in range(6):
            await asyncio.sleep(0)
        engine.close()
        with pytest.raises(RuntimeError, match="closed while this sequence was under way"):
            await asyncio.wait_for(task, timeout=10)

    asyncio.run(main())
    engine.sync(policy)
    assert len(tokens(run(engine, (context(3), SamplingParams(max_tokens=4)))[0])) == 4


def test_a_loop_that_was_stopped_midway_does_no_harm(sampler):
    engine = sampler(max_sequences=2, processors=[ban(END)])
    loop = asyncio.new_event_loop()
    requests = [engine.sample([context(3)], SamplingParams(seed=i, max_tokens=300)) for i in range(4)]
    tasks = [loop.create_task(request) for request in requests]
    for _ in range(20):
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    assert not any(task.done() for task in tasks)
    (found,) = run(engine, (context(3), SamplingParams(max_tokens=5)))
    assert len(tokens(found)) == 5


@pytest.mark.smollm2
@pytest.mark.parametrize(("dtype", "n", "length"), [("float32", 8, 16), ("bfloat16", 12, 8)])
def test_smollm2_samples_as_it_scores(dtype, n, length, score_groups):
    from hone.policies.causal_lm import CausalLM

    policy = CausalLM(path="smollm2-135m", dtype=dtype)
    policy.load(torch.device("cpu"))
    engine = NativeSampler()
    engine.sync(policy)
    questions = ["What is 7 + 5?", "Name a colour.", "Write one line about the sea."]
    prompts = [policy.renderer.prompt([{"role": "user", "content": text}]) for text in questions]
    requests = [(prompts[i % 3], SamplingParams(seed=i, max_tokens=length + i)) for i in range(n)]
    completions = run(engine, *requests)
    with torch.no_grad():
        scores = score_groups(policy, as_groups(requests, completions))
    sampled = torch.tensor([value for c in completions for value in c.segments[0].logprobs])
    gaps = sampled - torch.tensor([value for values in scores for value in values])
    if dtype == "float32":
        assert gaps.abs().max() < 1e-4
        ids = torch.tensor([prompts[0].actions])
        expected = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        (greedy,) = run(engine, (prompts[0], SamplingParams(temperature=0, max_tokens=12)))
        assert tokens(greedy) == tuple(expected[0, ids.shape[1] :].tolist())
    else:  # rounding moves a token by some hundredths, by others on another processor; the weights are 1 on average
        weights = (-gaps).exp()
        error = weights.std() / len(weights) ** 0.5
        assert error < 1e-2
        assert (weights.mean() - 1).abs() < 4 * error
