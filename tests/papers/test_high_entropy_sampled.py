"""The choice by entropies that the sampler recorded: no pass of its own, and no matter how a mini-batch is cut."""

import asyncio
from dataclasses import replace

import pytest
import torch

import hone
from hone import collate
from hone.guards.guard import Guard
from hone.learner import Learner
from hone.objectives.policy_gradient import PolicyGradient
from hone.papers.high_entropy import HighEntropy
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams
from hone.sections import OptimizerConfig, UpdateConfig
from hone.types import Group, Segment, Task, Trajectory

TEMPERATURE = 0.8


@pytest.fixture
def policy(tiny_policy):
    return tiny_policy(config={"initializer_range": 0.2})


def sampled(policy, *, processors=(), **settings):
    """Three groups of two trajectories, sampled with their entropies."""
    sampler = NativeSampler(processors=list(processors))
    sampler.sync(policy)
    params = SamplingParams(temperature=TEMPERATURE, max_tokens=12, **{"entropies": True, **settings})
    contexts = [Segment("prompt", "given", tuple(range(n, n + 6))) for n in (3, 50, 90)]

    async def all_of_them():
        waiting = [sampler.sample([c], params.keyed(i, k)) for i, c in enumerate(contexts) for k in range(2)]
        return await asyncio.gather(*waiting)

    made = iter(asyncio.run(all_of_them()))
    groups = []
    for i, prompt in enumerate(contexts):
        task = Task(str(i), [])
        pair = [
            Trajectory(task, [prompt, *done.segments], reward=r, advantage=2 * r - 1, version=done.version)
            for r, done in zip((0.0, 1.0), made, strict=False)
        ]
        groups.append(Group(task, pair))
    return groups


def update(policy, groups, *, tokens, **settings):
    """Passes with and without a gradient, the choice of every step in the order of trajectories, and the metrics."""
    field, passes, chosen, score = HighEntropy(), [], {}, policy.score
    learner = Learner(
        policy,
        PolicyGradient(weights=[field]),
        OptimizerConfig(lr=1e-12),
        UpdateConfig(tokens=tokens, **settings),
        steps=9,
        temperature=TEMPERATURE,
    )
    over, version = field.over, policy.version

    def watched(scores, batches):
        found = over(scores, batches)
        for weights, batch in zip(found, batches, strict=True):
            chosen.update(collate.spread(weights, batch))
        return found

    field.over = watched
    policy.score = lambda batch: passes.append(torch.is_grad_enabled()) or score(batch)
    try:
        metrics = learner.update(groups, 0)
    finally:
        policy.score, policy.version = score, version  # nothing to speak of has changed
    return passes.count(True), passes.count(False), [chosen[i] for i in sorted(chosen)], metrics


def test_they_are_those_of_the_policy(policy, score_groups):
    groups = sampled(policy)
    recorded = [t.segments[-1].entropies for group in groups for t in group]
    with torch.no_grad():
        scored = score_groups(policy, groups, temperature=TEMPERATURE, read="entropy")
    for found, expected in zip(recorded, scored, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
        assert max(found) - min(found) > 0.1  # they tell something


def test_they_spare_the_pass_and_no_cut_changes_the_choice(policy):
    groups = sampled(policy)
    parts, extra, whole, metrics = update(policy, groups, tokens=10**6)
    assert (parts, extra) == (1, 0)
    kept = sum(weight > 0 for one in whole for weight in one)
    steps = sum(map(len, whole))
    assert kept == -(-steps // 5)
    entropies = [value for group in groups for t in group for value in t.segments[-1].entropies]
    flat = [weight for one in whole for weight in one]
    least = min(h for h, w in zip(entropies, flat, strict=True) if w)
    assert least > max(h for h, w in zip(entropies, flat, strict=True) if not w)
    for tokens in (20, 1):
        parts, extra, several, found = update(policy, groups, tokens=tokens)
        assert parts > 1
        assert extra == 0
        assert several == whole  # to the bit
        assert found["entropy/share"] == metrics["entropy/share"]
        assert found["entropy/kept"] == pytest.approx(metrics["entropy/kept"], abs=1e-5)


def test_old_weights_or_several_optimiser_steps_take_the_policys_own(policy):
    groups = sampled(policy)
    parts, extra, *_ = update(policy, groups, tokens=20, epochs=2)
    assert extra == 3 * parts // 2  # log-probabilities at the start of the update, and a survey before both steps
    policy.version += 1
    parts, extra, *_ = update(policy, groups, tokens=20)
    assert extra == parts > 1


def test_what_is_not_wholly_recorded_is_not_used(policy):
    groups = sampled(policy)
    last = groups[-1].trajectories[-1]
    last.segments[-1] = replace(last.segments[-1], entropies=())
    parts, extra, *_ = update(policy, groups, tokens=20)
    assert extra == parts > 1


@pytest.mark.parametrize(
    "settings", [{"entropies": False}, {"top_p": 0.9}, {"processors": [lambda rows, logits: logits]}], ids=str
)
def test_there_are_none_where_nobody_asks_or_the_distribution_is_not_the_policys(settings, policy):
    groups = sampled(policy, **settings)
    assert {t.segments[-1].entropies for group in groups for t in group} == {()}
    assert all(len(t.segments[-1].logprobs) for group in groups for t in group)


def test_who_does_not_ask_gets_none_beside_those_who_do(policy):
    sampler = NativeSampler()
    sampler.sync(policy)
    prompt = Segment("prompt", "given", (1, 2, 3))

    async def both():
        asked = (SamplingParams(max_tokens=n, entropies=e) for n, e in ((3, False), (8, True), (8, False)))
        return await asyncio.gather(*(sampler.sample([prompt], params) for params in asked))

    lengths = [(len(done.segments[0]), len(done.segments[0].entropies)) for done in asyncio.run(both())]
    assert lengths[1][0] == lengths[1][1]
    assert lengths[0][1] == lengths[2][1] == 0


def test_an_objective_asks_for_them_where_it_pools():
    assert PolicyGradient(weights=[HighEntropy()]).reads_entropies
    assert not PolicyGradient(weights=[HighEntropy(pool="response")]).reads_entropies
    assert not PolicyGradient(weights=[HighEntropy(keep=1.0)]).reads_entropies
    assert not PolicyGradient().reads_entropies


@pytest.mark.parametrize(("pool", "recorded"), [("batch", True), ("micro_batch", False)])
def test_a_run_asks_for_them_and_makes_no_further_pass(pool, recorded, tmp_path, tiny_model_path):
    trainer = hone.Trainer(
        hone.Config(
            model={"path": tiny_model_path, "dtype": "float32"},
            tasks={"loop_parts:Letters": {}},
            verifier="loop_parts:low",
            objective={"policy_gradient": {"weights": [{"high_entropy": {"pool": pool}}]}},
            sampling={"max_tokens": 6},
            steps=2,
            prompts=2,
            siblings=4,
            gate="everything",
            update={"tokens": 16},
            hooks=["log"],
            verification={"workers": 1},
            device="cpu",
            folder=str(tmp_path / "run"),
        )
    )
    passes, score = [], trainer.policy.score
    trainer.policy.score = lambda batch: passes.append(torch.is_grad_enabled()) or score(batch)
    guarded = next(hook for hook in trainer.hooks if isinstance(hook, Guard))
    before = guarded.before_update
    guarded.before_update = lambda state: (before(state), passes.clear())  # it makes passes of its own
    run = trainer.fit()
    assert passes.count(True) > 1
    assert passes.count(False) == 0
    found = [s for group in trainer.state.groups for t in group for s in t.segments if s.train]
    assert {len(s.entropies) == len(s) for s in found} == {recorded}
    assert all(row["entropy/share"] > 0.19 for row in run.metrics)
