import asyncio
import math
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from hone.learner import Learner
from hone.math.divergence import entropy_bonus, kl_penalty
from hone.math.mismatch import truncated_importance
from hone.math.reduce import constant, sequence_mean, token_mean
from hone.math.shaping import kl_reward, mask_truncated
from hone.math.surrogate import gspo, ppo_clip, reinforce
from hone.meter import Meter
from hone.objectives.policy_gradient import PolicyGradient
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams
from hone.sections import OptimizerConfig, UpdateConfig
from hone.types import Group, Loss, Task, Trajectory

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler")  # the spies below, and steps that train nothing
FREE = 1e9
"""A gradient norm that nothing reaches."""


@pytest.fixture
def learner(tiny_policy):
    """``learner(policy=None, objective=None, lr=.., minibatches=.., tokens=.., ...)``"""

    def make(policy=None, objective=None, *, steps=10, temperature=1.0, seed=0, **settings):
        sections = [
            cls(**{name: value for name, value in settings.items() if name in cls.__dataclass_fields__})
            for cls in (OptimizerConfig, UpdateConfig)
        ]
        assert len(settings) == sum(name in type(s).__dataclass_fields__ for s in sections for name in settings)
        made = policy if policy is not None else tiny_policy()
        return Learner(made, objective or PolicyGradient(), *sections, steps=steps, temperature=temperature, seed=seed)

    return make


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).clone()


def gradients(made):
    """Each optimiser step's gradient, as it is applied, in a list that fills as the learner learns."""
    found = []
    step = made.optimizer.step

    def spy(*args, **kwargs):
        found.append(torch.cat([p.grad.flatten() for p in made.policy.parameters()]).clone())
        return step(*args, **kwargs)

    made.optimizer.step = spy
    return found


def distance(one, other):
    return float((one - other).norm() / other.norm())


def some_groups(make_group):
    return [
        make_group(9, (3, 12, (2, 4, 5), 1), seed=1),
        make_group(3, (7,), seed=2),
        make_group(14, (5, 5, (1, 2, 3, 2)), seed=3),
        make_group(1, (9, 2), seed=4),
    ]


def shuffled(groups):
    return [Group(g.task, g.trajectories[::-1]) for g in groups[::-1]]


REDUCTIONS = [token_mean, sequence_mean, partial(constant, length=16)]


def worst_distance(policies, objective, groups, learner):
    """Of the gradients of one step, laid out in every way."""
    found = []
    for policy, tokens, order in product(policies, (1, 25, 60, 10**6), (list, shuffled)):
        made = learner(policy, objective, tokens=tokens, max_grad_norm=FREE)
        made.optimizer.step = lambda p=policy: found.append(
            torch.cat([w.grad.flatten() for w in p.parameters()]).clone()
        )
        made.update(order(groups), 0)
    assert len(found) == 8 * len(policies)
    return max(distance(gradient, found[0]) for gradient in found)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("surrogate", [ppo_clip, gspo])
def test_the_gradient_depends_on_nothing_but_the_groups(reduction, surrogate, learner, make_group, tiny_policy):
    """Micro-batches, their order, the order of groups and siblings, contexts shared or not: all the same step."""
    objective = PolicyGradient(
        surrogate=surrogate, reduction=reduction, penalties=[partial(entropy_bonus, coefficient=0.01)]
    )
    # With weights as models begin with; larger ones blow up the rounding of float32, which no layout can help.
    policies = [tiny_policy(share_context=share, config={"initializer_range": 0.05}) for share in (True, False)]
    assert worst_distance(policies, objective, some_groups(make_group), learner) < 1e-6


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_is_left_of_it_is_rounding(reduction, learner, make_group, tiny_policy):
    """In float64, on a model that computes in nothing less, the same gradients agree to 12 digits."""
    policies = [tiny_policy(kind="gpt2", share_context=share) for share in (True, False)]
    for policy in policies:
        every = list(policy.model.double().parameters())
        policy.masters = SimpleNamespace(parameters=lambda every=every: every, publish=lambda: None)
    objective = PolicyGradient(reduction=reduction, penalties=[partial(entropy_bonus, coefficient=0.01)])
    assert worst_distance(policies, objective, some_groups(make_group), learner) < 1e-12


def test_metrics_by_hand(learner, make_group, rescored, tiny_policy):
    policy = tiny_policy()
    groups = rescored(policy, some_groups(make_group))
    shift = 0.125  # the sampler thought every step this much likelier
    for group in groups:
        for t in group:
            t.segments = [replace(s, logprobs=tuple(x + shift for x in s.logprobs)) for s in t.segments]
    trained = [t for g in groups for t in g]
    steps = sum(t.trained for t in trained)
    made = learner(policy, tokens=30, lr=1e-3, max_grad_norm=FREE)
    found = gradients(made)
    metrics = made.update(groups, 0)
    assert metrics["loss"] == pytest.approx(-sum(t.advantage * t.trained for t in trained) / steps, rel=1e-5)
    assert (metrics["ratio/mean"], metrics["ratio/max"], metrics["clip/fraction"]) == (1.0, 1.0, 0.0)
    assert (metrics["kl/mean"], metrics["update/skipped"], metrics["lr"]) == (0.0, 0.0, 1e-3)
    assert metrics["mismatch/mean"] == pytest.approx(shift, abs=1e-5)
    assert metrics["mismatch/max"] == pytest.approx(shift, abs=1e-4)
    assert metrics["grad_norm"] == pytest.approx(float(found[0].norm()), rel=1e-5)
    assert 0 < metrics["entropy/mean"] < math.log(261)


def test_one_pass_over_one_minibatch_is_on_policy_whatever_was_sampled(learner, make_group):
    made = learner(lr=1e-3)
    seen = []
    objective = made.objective
    made.objective = lambda policy, batch: seen.append(batch) or objective(policy, batch)
    metrics = made.update([make_group(seed=1)], 0)  # its sampled log-probabilities are made up
    assert [batch.old_logprobs for batch in seen] == [None]
    assert metrics["ratio/max"] == 1.0
    assert metrics["mismatch/max"] > 0.1
    assert made.policy.version == 1


def test_several_passes_compare_with_the_weights_at_the_start(learner, make_group, score_groups):
    made = learner(lr=1e-2, minibatches=2, epochs=2, tokens=40)
    groups = some_groups(make_group)
    with torch.no_grad():
        before = score_groups(made.policy, groups)
    seen = []
    objective = made.objective

    def spy(policy, batch):
        loss = objective(policy, batch)
        seen.append((policy.version, batch, dict(loss.metrics)))
        return loss

    made.objective = spy
    metrics = made.update(groups, 0)
    assert made.policy.version == 4
    assert metrics["ratio/max"] > 1.001
    assert metrics["ratio/mean"] != 1.0
    first = [loss for version, _, loss in seen if version == 0]
    assert all(loss["ratio/max"][0] == pytest.approx(1.0, abs=1e-5) for loss in first)
    later = [loss for version, _, loss in seen if version > 0]
    assert all(abs(loss["ratio/mean"][0] / loss["ratio/mean"][1] - 1) > 1e-4 for loss in later)
    expected = sorted(x for values in before for x in values)
    for epoch in (0, 1):  # every step once per pass, always against the same old numbers
        batches = [batch for version, batch, _ in seen if version // 2 == epoch]
        old = sorted(x for b in batches for x in b.old_logprobs[b.mask].tolist())
        assert old == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("n", "parts", "expected"), [(5, 4, [1, 1, 1, 2]), (4, 2, [2, 2]), (3, 8, [1, 1, 1])])
def test_groups_are_split_evenly(n, parts, expected, learner, make_group):
    made = learner(minibatches=parts)
    groups = [make_group(seed=i) for i in range(n)]
    sizes = [len({int(g) for b in mini for g in b.group.unique() if g >= 0}) for mini in made._minibatches(groups)]
    assert sizes == expected
    made.update(groups, 0)
    assert made.policy.version == len(expected)


def test_the_order_of_minibatches_is_that_of_the_seed(learner, make_group):
    def order(seed, step):
        made = learner(minibatches=6, seed=seed, lr=1e-9)
        seen = []
        objective = made.objective
        made.objective = lambda policy, batch: seen.append(batch.mask.shape) or objective(policy, batch)
        made.update([make_group(3 + i, (2,), seed=i) for i in range(6)], step)
        return seen

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == sorted(order(0, 1)) == sorted(order(1, 0))
    assert len({str(order(seed, step)) for seed in (0, 1) for step in (0, 1)}) > 1


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_the_reference_is_annotated_and_the_divergence_grows(lora, learner, make_group, tiny_policy, score_groups):
    policy = tiny_policy(lora=lora)
    made = learner(policy, PolicyGradient(penalties=[partial(kl_penalty, coefficient=0.1)]), lr=1e-2)
    frozen = policy.frozen_copy()
    groups = some_groups(make_group)
    groups[1].trajectories[0].reward = None  # not judged
    with torch.no_grad():
        truth = score_groups(policy, groups)
    made.annotate(groups, frozen)
    written = []
    for group in groups:
        for t in group:
            for s in t.segments:
                assert len(s.reference_logprobs) == (len(s) if s.train and t.reward is not None else 0)
            if t.reward is not None:
                written.append([x for s in t.segments for x in s.reference_logprobs])
    assert len(written) == len(truth)
    for one, other in zip(written, truth, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert made.update(groups, 0)["kl/mean"] == pytest.approx(0.0, abs=1e-9)
    made.annotate(groups, frozen)  # again: the reference has not moved
    again = [[x for s in t.segments for x in s.reference_logprobs] for g in groups for t in g if t.reward is not None]
    for one, other in zip(again, written, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert made.update(groups, 1)["kl/mean"] > 1e-4


def test_the_divergence_in_the_reward(learner, make_group, tiny_policy, rescored):
    policy = tiny_policy()
    made = learner(policy, lr=1e-2)
    frozen = policy.frozen_copy()
    groups = rescored(policy, some_groups(make_group))
    rewards = [t.reward for g in groups for t in g]
    made.annotate(groups, frozen)
    kl_reward(groups, coefficient=0.5)
    assert [t.reward for g in groups for t in g] == pytest.approx(rewards, abs=1e-4)
    made.update(groups, 0)
    groups = rescored(policy, some_groups(make_group))
    made.annotate(groups, frozen)
    kl_reward(groups, coefficient=0.5)
    for t, before in zip((t for g in groups for t in g), rewards, strict=True):
        kl = sum(a - b for s in t.segments for a, b in zip(s.logprobs, s.reference_logprobs, strict=True))
        assert t.reward == pytest.approx(before - 0.5 * kl, abs=1e-5)
        assert abs(kl) > 1e-3


def test_importance_weights_reach_the_gradient(learner, make_group, rescored, tiny_policy):
    def gradient(gap, **parts):
        policy = tiny_policy()
        groups = rescored(policy, [make_group(5, (6,), seed=1)])
        (t,) = groups[0].trajectories
        t.segments = [replace(s, logprobs=tuple(x - gap for x in s.logprobs)) for s in t.segments]
        made = learner(policy, PolicyGradient(surrogate=reinforce, **parts), max_grad_norm=FREE)
        found = gradients(made)
        made.update(groups, 0)
        return found[0]

    plain = gradient(math.log(1.5))
    assert distance(gradient(0.0), plain) < 1e-6
    assert distance(gradient(math.log(1.5), weights=[truncated_importance]), 1.5 * plain) < 1e-4
    assert distance(gradient(math.log(8), weights=[truncated_importance]), 2 * plain) < 1e-4
    assert distance(gradient(math.log(0.25), weights=[truncated_importance]), 0.25 * plain) < 1e-4


def test_the_gradient_by_finite_differences(learner, make_group, tiny_policy):
    policy = tiny_policy()
    objective = PolicyGradient(surrogate=reinforce, penalties=[partial(entropy_bonus, coefficient=0.5)])
    made = learner(policy, objective, max_grad_norm=FREE, lr=1e-12)
    groups = [make_group(5, (4, 3), seed=2)]
    found = gradients(made)
    made.update(groups, 0)
    (batch,) = made._batches(groups)
    batch.old_logprobs = made._score(batch)

    def loss():
        with torch.no_grad():
            found = objective(policy, batch)
        return float(found.total) / found.weight

    direction = found[0] / found[0].norm()
    start, step = weights(policy), 3e-3
    ends = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(start + sign * step * direction, policy.parameters())
        ends.append(loss())
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(found[0].norm()), rel=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_skips_the_update_and_is_told(bad, learner, make_group):
    made = learner(lr=1e-2)
    groups = [make_group(seed=1)]
    objective = made.objective

    def spoiled(policy, batch):
        loss = objective(policy, batch)
        return replace(loss, total=loss.total * bad)

    made.objective = spoiled
    before = weights(made.policy)
    metrics = made.update(groups, 0)
    assert metrics["update/skipped"] == 1.0
    assert torch.equal(weights(made.policy), before)
    assert made.policy.version == 0
    assert all(p.grad is None for p in made.policy.parameters())
    made.objective = objective
    assert made.update(groups, 1)["update/skipped"] == 0.0
    after = weights(made.policy)
    assert after.isfinite().all()
    assert not torch.equal(after, before)


def test_one_bad_minibatch_of_two(learner, make_group):
    made = learner(lr=1e-3, minibatches=2)
    groups = [make_group(seed=1), make_group(seed=2)]
    groups[1].trajectories[0].advantage = math.nan
    metrics = made.update(groups, 0)
    assert metrics["update/skipped"] == 0.5
    assert made.policy.version == 1
    assert weights(made.policy).isfinite().all()


def test_no_weight_no_step(learner, make_group):
    made = learner(lr=1e-2)
    objective = made.objective
    made.objective = lambda policy, batch: replace(objective(policy, batch), weight=0.0)
    before = weights(made.policy)
    metrics = made.update([make_group(seed=1)], 0)
    assert torch.equal(weights(made.policy), before)
    assert made.policy.version == 0
    assert "loss" not in metrics
    assert all(p.grad is None for p in made.policy.parameters())


def test_nothing_to_learn(learner, make_group):
    made = learner(lr=1e-2, minibatches=3, epochs=2)
    before = weights(made.policy)
    group = make_group(seed=1)
    for t in group:
        t.withdraw()
    assert made.update([group], 0) == {"lr": 1e-2}
    assert made.update([], 1) == {"lr": 1e-2}
    assert torch.equal(weights(made.policy), before)


def test_prompts_that_are_computed_again_and_again_are_told_once(learner, make_group, caplog):
    made, groups = learner(tokens=60), [make_group(50, (5, 6, 7, 8), advantages=[1.0, -1.0, 1.0, -1.0])]
    for step in range(2):
        made.update(groups, step)
    assert [record.message for record in caplog.records] == [
        "update.tokens = 60: groups do not fit, so their prompts are computed anew for parts of them: 3.0 tokens for "
        "each that there is; with 76 each is computed once, for more memory"
    ]
    caplog.clear()
    learner(tokens=76).update(groups, 0)
    assert not caplog.records


def test_withdrawn_and_unjudged_trajectories_give_no_gradient(learner, make_group, tiny_policy):
    def gradient(*groups):
        made = learner(tiny_policy(), max_grad_norm=FREE)
        found = gradients(made)
        made.update(groups, 0)
        return found[0]

    whole = make_group(6, (4, 5, 3, 6), seed=1)
    whole.trajectories[1].reward = None
    whole.trajectories[2].stop = "length"
    mask_truncated([whole])
    only = Group(whole.task, [whole.trajectories[0], whole.trajectories[3]])
    assert distance(gradient(whole), gradient(only)) < 1e-6


def test_large_gradients_are_scaled_down(learner, make_group):
    made = learner(max_grad_norm=0.01)
    found = gradients(made)
    metrics = made.update([make_group(seed=1)], 0)
    assert metrics["grad_norm"] > 0.1
    assert float(found[0].norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_course_of_the_learning_rate(learner, make_group):
    def course(**settings):
        made = learner(lr=1.0e-3, steps=4, **settings)
        return [made.update([], step)["lr"] for step in range(4)]

    assert course() == [1e-3] * 4
    assert course(warmup_steps=2) == pytest.approx([0, 5e-4, 1e-3, 1e-3])
    assert course(schedule="linear") == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert course(schedule="cosine") == pytest.approx([1e-3 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)])


def test_a_resumed_learner_goes_on_as_if_nothing_had_happened(learner, make_group, tiny_policy, tmp_path):
    def fresh():
        return learner(tiny_policy("bfloat16"), lr=1e-3, warmup_steps=3, weight_decay=0.1)

    groups = [make_group(seed=i) for i in range(4)]
    whole, first, second = fresh(), fresh(), fresh()
    for step in range(4):
        whole.update(groups[step : step + 1], step)
    for step in range(2):
        first.update(groups[step : step + 1], step)
    torch.save([first.state_dict(), first.policy.state_dict()], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(states[0])
    second.policy.load_state_dict(states[1])
    for step in range(2, 4):
        second.update(groups[step : step + 1], step)
    assert torch.equal(weights(second.policy), weights(whole.policy))


def test_temperature_reaches_the_policy(learner, make_group, tiny_policy):
    policy = tiny_policy()
    group = make_group(seed=1)
    cold, warm = (learner(policy, temperature=t)._batches([group])[0] for t in (0.5, 2.0))
    assert (cold.temperature, warm.temperature) == (0.5, 2.0)
    assert policy.score(cold).entropy.sum() < policy.score(warm).entropy.sum()


@pytest.mark.parametrize(
    "settings", [{}, {"lora": {"rank": 4}}, {"dtype": "bfloat16"}, {"gradient_checkpointing": True}]
)
def test_rewarded_tokens_become_likelier(settings, learner, tiny_policy):
    """The whole way on a tiny model: sample, judge, credit, update."""
    policy = tiny_policy(**settings)
    sampler = NativeSampler()
    sampler.sync(policy)
    made = learner(policy, PolicyGradient(surrogate=reinforce), lr=1e-2)
    task = Task("low", [{"role": "user", "content": "?"}])
    prompt = policy.renderer.prompt(task.prompt)
    shares = []
    for step in range(15):
        params = SamplingParams(max_tokens=3).keyed(step)

        async def play(params=params):
            return await asyncio.gather(*(sampler.sample([prompt], params.keyed(i)) for i in range(24)))

        group = Group(task, [])
        for completion in asyncio.run(play()):
            reply = completion.segments[0]
            share = sum(token < 64 for token in reply.actions) / len(reply)
            group.trajectories.append(Trajectory(task, [prompt, reply], reward=share, version=completion.version))
        mean = sum(group.rewards) / len(group)
        for t in group:
            t.advantage = t.reward - mean
            assert t.version == step
        shares.append(mean)
        metrics = made.update([group], step)
        assert abs(metrics["mismatch/mean"]) < 1e-2
    assert shares[0] < 0.5
    assert sum(shares[-3:]) / 3 > 0.8


def test_meter():
    meter = Meter()
    meter.add("x", 3.0, 2)
    meter.add("x", 1.0, 2)
    meter.add("x/max", -5.0, 1)
    meter.add("x/max", -7.0, 1)
    meter.add("never", 0.0, 0)
    assert meter.means() == {"x": 1.0, "x/max": -5.0}


def test_a_plain_loss_is_enough(learner, make_group):
    """An objective needs no more than a sum and a weight."""

    def likelihood(policy, batch):
        return Loss(-policy.score(batch).logprobs.sum(), float(batch.mask.sum()))

    made = learner(objective=likelihood, lr=1e-2)
    groups = [make_group(seed=1)]
    losses = [made.update(groups, step)["loss"] for step in range(5)]
    assert losses == sorted(losses, reverse=True)


# Beginning anew.


def test_a_restart_forgets_the_moments_and_leaves_the_weights(learner, make_group):
    made = learner(lr=1e-2)
    for step in range(3):
        made.update([make_group(seed=step)], step)
    before = weights(made.policy)
    made.restart(optimizer=False)
    assert {float(state["step"]) for state in made.optimizer.state.values()} == {3.0}
    made.restart()
    assert torch.equal(weights(made.policy), before)
    assert made.optimizer.state == {}
    # The first step of AdamW has the size of the learning rate, whatever the gradient's, as on a fresh one.
    made.update([make_group(seed=9)], 3)
    moved = (weights(made.policy) - before).abs()
    assert moved.max() == pytest.approx(1e-2, rel=1e-3)


def rates(made, steps, make_group):
    return [made.update([make_group(seed=step)], step)["lr"] for step in range(steps)]


def test_the_schedule_goes_on_or_starts_again_over_the_steps_that_remain(learner, make_group):
    def course():
        return learner(lr=8e-3, schedule="linear", warmup_steps=2, steps=10)

    plain = course()
    assert rates(plain, 10, make_group) == pytest.approx([0, 4e-3, 8e-3, 7e-3, 6e-3, 5e-3, 4e-3, 3e-3, 2e-3, 1e-3])
    kept = course()
    first = rates(kept, 4, make_group)
    kept.restart(optimizer=True, schedule=False)
    assert first + rates(kept, 6, make_group) == pytest.approx(
        [0, 4e-3, 8e-3, 7e-3, 6e-3, 5e-3, 4e-3, 3e-3, 2e-3, 1e-3]
    )
    anew = course()
    rates(anew, 4, make_group)
    anew.restart(schedule=True)
    assert rates(anew, 6, make_group) == pytest.approx([0, 4e-3, 8e-3, 6e-3, 4e-3, 2e-3])


def test_a_learner_that_takes_over_one_that_began_anew_has_the_same_rates(learner, make_group, tiny_policy):
    def course():
        return learner(lr=8e-3, schedule="linear", warmup_steps=2, steps=10)

    one = course()
    rates(one, 4, make_group)
    one.restart(schedule=True)
    rates(one, 1, make_group)
    other = course()
    other.load_state_dict(one.state_dict())
    assert rates(other, 5, make_group) == rates(one, 5, make_group) == pytest.approx([4e-3, 8e-3, 6e-3, 4e-3, 2e-3])


# Fields that see the whole mini-batch.


class Share:
    """A pooled weight: each step's share of the entropy of its mini-batch, times the number of its steps."""

    pooled = True

    def __init__(self):
        self.surveys = []

    def __call__(self, scores, batch):
        return self.over([scores], [batch])[0]

    def over(self, scores, batches):
        self.surveys.append([batch.seed for batch in batches])
        whole = sum(s.entropy.sum() for s in scores)
        steps = sum(batch.mask.sum() for batch in batches)
        return [s.entropy.detach() / whole.detach() * steps for s in scores]

    def measure(self, values, scores, batch):
        return {"share/mean": (float(values[batch.mask].sum()), float(batch.mask.sum()))}


def test_a_pooled_field_gives_the_same_gradient_however_the_mini_batch_is_cut(learner, make_group, tiny_policy):
    found = []
    for tokens in (1, 40, 10**6):
        share = Share()
        policy = tiny_policy(config={"initializer_range": 0.05})
        made = learner(policy, PolicyGradient(weights=[share]), tokens=tokens, max_grad_norm=FREE)
        seen = gradients(made)
        metrics = made.update(some_groups(make_group), 0)
        assert metrics["share/mean"] == pytest.approx(1.0)
        assert len(share.surveys) == 1  # once an optimiser step, never once a micro-batch
        assert len(set(share.surveys[0])) == 1  # and all micro-batches draw by one key
        found += seen
    assert distance(found[1], found[0]) < 1e-6
    assert distance(found[2], found[0]) < 1e-6


def test_every_optimiser_step_is_surveyed_anew_and_draws_by_a_key_of_its_own(learner, make_group):
    share = Share()
    made = learner(None, PolicyGradient(weights=[share]), minibatches=2, epochs=2, tokens=1, lr=1e-2)
    made.update(some_groups(make_group), 0)
    assert len(share.surveys) == 4
    assert len({seeds[0] for seeds in share.surveys}) == 4
