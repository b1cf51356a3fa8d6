"""Sampling ahead of the updates: the schedule, what corrects it, and that no task is lost or played twice."""

import asyncio
import json
import threading
from dataclasses import replace

import loop_parts as parts
import pytest
from loop_parts import Letters, Spy, same

import hone
import hone.judging
from hone import checkpoint
from hone.envs.single_turn import SingleTurn
from hone.hangs import HangError
from hone.registry import ConfigError
from hone.samplers.native import NativeSampler
from hone.seats import Refusal
from hone.types import Task

PLAIN_LOG = {"log": {"tensorboard": False}}
LAGS = [0, 1, 2]


@pytest.fixture
def make(tiny_model_path, tmp_path):
    """``make(lag, name="run", **settings) -> Trainer``; every group is kept, so every step updates."""

    def make(lag, name="run", **changes):
        changes = {"gate": "everything", "hooks": [PLAIN_LOG], **changes}
        made = parts.settings(tiny_model_path, tmp_path / name, max_staleness=lag, **changes)
        return hone.Trainer(hone.Config(**made))

    return make


def timeless(run):
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in run.metrics]


def versions(run):
    """The versions that sampled each step's trajectories."""
    found = {}
    for row in run.rollouts:
        found.setdefault(row["step"], set()).add(row["version"])
    return found


def tasks(run):
    """The tasks of each step, in the order of play."""
    found = {}
    for row in run.rollouts:
        found.setdefault(row["step"], {})[row["task"]] = None
    return {step: list(names) for step, names in found.items()}


# The schedule.


@pytest.mark.parametrize("lag", LAGS)
def test_each_step_is_sampled_by_the_weights_that_the_schedule_says(make, lag):
    run = make(lag, steps=6).fit()
    assert versions(run) == {step: {max(0, step - 1 - lag)} for step in range(1, 7)}
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(12)]
    if lag:
        assert [row["staleness/updates"] for row in run.metrics] == [min(step, lag) for step in range(6)]
        assert all(0 <= row["time/wait"] <= row["time/step"] for row in run.metrics)
        assert not any("staleness/dropped" in row for row in run.metrics)
    else:
        assert not any("staleness/updates" in row or "time/wait" in row for row in run.metrics)


def test_the_weights_of_the_schedule_are_those_that_sample(make):
    """The third step's answers are what the first update's weights draw: a run of one step draws them again."""
    ahead = make(1).fit()
    drawn = []

    def draw(state):
        config = other.config
        params = replace(config.sampling, seed=config.seed).keyed("train", 2, 0)
        asked = [Task(f"letter-{i}", [{"role": "user", "content": "abcdef"[i]}], "abcdef"[i]) for i in (4, 5)]
        drawn.extend(state.play(asked, config.siblings, params))

    other = make(0, "other", steps=1, hooks=[Spy(at={1: draw}), PLAIN_LOG])
    other.fit()
    texts = [trajectory.segments[1].text for group in drawn for trajectory in group]
    assert texts == [row["segments"][1]["text"] for row in ahead.rollouts.at(3)]


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_a_run_ahead_can_be_repeated_bit_for_bit(make, tiny_model_path, lora):
    model = {"path": tiny_model_path, "dtype": "float32", "lora": lora}
    runs = [make(2, name, steps=5, model=dict(model)).fit() for name in ("one", "two")]
    assert timeless(runs[0]) == timeless(runs[1])
    assert versions(runs[0]) == {step: {max(0, step - 3)} for step in range(1, 6)}
    assert same(*(checkpoint.load(checkpoint.latest(run.folder)) for run in runs))


def test_no_thread_is_added_to_a_run_that_waits_its_turn(make):
    names = []
    make(0, steps=2, hooks=[Spy(at={1: lambda s: names.extend(t.name for t in threading.enumerate())})]).fit()
    assert "hone-collect" in names
    assert not any(name.startswith("hone-ahead") for name in names)


class Overlapping:
    """An environment in which the third step's first group is not played to its end before the second is trained on."""

    def __init__(self):
        self.begun, self.trained, self.inner = threading.Event(), threading.Event(), SingleTurn()

    async def play_group(self, task, n, **rest):
        if task.id == "letter-4":
            self.begun.set()
            assert await asyncio.to_thread(self.trained.wait, 60)
        return await self.inner.play_group(task, n, **rest)


def test_sampling_goes_on_while_a_step_is_trained_on(make):
    environment = Overlapping()

    class Update(Spy):
        def before_update(self, state):
            if state.step == 1:
                assert environment.begun.wait(60)

        def on_step(self, state):
            if state.step == 2:
                environment.trained.set()

    run = make(1, environment=environment, hooks=[Update(), PLAIN_LOG]).fit()
    assert versions(run)[3] == {1}


def test_rounds_and_stages_are_those_of_the_step_that_is_played(make):
    """A second round draws behind the first of its own step, and a stage ahead has its own tasks."""
    kept = {"gate": "informative", "verifier": parts.low, "max_rounds": 2, "steps": 5}
    changed = {2: {"siblings": 2, "sampling.max_tokens": 3}, 3: {"tasks": Letters(kinds=3)}}
    runs = [make(lag, f"lag-{lag}", **kept, stages=dict(changed), tasks=Letters()).fit() for lag in (0, 1)]
    assert [len(run.rollouts.at(4)) for run in runs] == [4, 4]
    assert all(tasks(run)[4][0] == "letter-0" for run in runs)
    names = [n for step, found in tasks(runs[1]).items() if step < 4 for n in found]
    assert names == [f"letter-{i}" for i in range(len(names))]


def test_a_source_that_ends_ends_the_run_at_its_own_step(make):
    run = make(2, tasks=Letters(limit=5), steps=9).fit()
    assert tasks(run) == {1: ["letter-0", "letter-1"], 2: ["letter-2", "letter-3"], 3: ["letter-4"]}


# What corrects it.


def test_a_stale_step_is_weighted_by_what_the_policy_makes_of_it_now(make, monkeypatch):
    """The gradient of the second update is that of ``-w A log p`` with ``w = min(p / p_sampled, 2)``."""
    import torch

    from hone import collate
    from hone.learner import Learner

    by_hand, weights, seen = [], [], {}

    def before_update(state):
        if state.step == 1:
            groups = [group for group, keep in zip(state.groups, state.kept, strict=True) if keep]
            [batch] = collate.batches(groups, state.policy, tokens=10**6, temperature=1.0)
            scores = state.policy.score(batch).logprobs[batch.mask]
            weight = (scores.detach() - batch.sampled_logprobs[batch.mask]).exp()
            weights.extend(weight.tolist())
            loss = -(weight.clamp(max=2.0) * batch.advantages[batch.mask] * scores).mean()
            by_hand.extend(torch.autograd.grad(loss, state.policy.parameters()))

    backward = Learner._backward

    def watched(self, batches, meter, seed):
        total, weight = backward(self, batches, meter, seed)
        seen[self.policy.version] = [p.grad / weight for p in self.policy.parameters()]
        return total, weight

    monkeypatch.setattr(Learner, "_backward", watched)
    spy = Spy()
    spy.before_update = before_update
    run = make(1, hooks=[spy, PLAIN_LOG]).fit()
    assert max(abs(weight - 1) for weight in weights) > 0.1  # the policy has moved on
    for expected, found in zip(by_hand, seen[1], strict=True):
        assert torch.allclose(expected, found, atol=1e-6, rtol=1e-4)
    assert run.metrics[1]["ratio/mean"] == 1.0
    assert run.metrics[1]["importance/max"] == pytest.approx(max(weights), rel=1e-4)


def test_an_objective_without_a_weight_gets_one_and_keeps_its_own(make):
    assert "truncated_importance" not in make(0).config.dump()
    assert "truncated_importance" in make(1).config.dump()
    own = {"policy_gradient": {"weights": ["masked_importance"]}}
    assert "truncated_importance" not in make(1, objective=own).config.dump()


def test_entropies_of_older_weights_choose_no_steps(make):
    """A pooled field is shown the policy's own entropies, though the sampler was told to record some."""
    objective = {"policy_gradient": {"weights": ["high_entropy"]}}
    asked = {"max_tokens": 5, "entropies": True}
    seen = []

    def look(state):
        batches = state.learner._batches(state.groups)
        seen.append([batch.sampled_entropies is not None for batch in batches])

    spy = Spy()
    spy.before_update = look
    make(1, objective=objective, sampling=asked, hooks=[spy, PLAIN_LOG]).fit()
    assert seen[0] == [True]  # the first step is of the weights that it trains
    assert not any(map(any, seen[1:]))


# Evaluations, and what guards see.


def test_an_evaluation_is_by_the_weights_of_its_step(make):
    evaluations = {"letters": {"tasks": Letters(), "items": 2, "every": 1}}
    run = make(2, steps=4, eval=evaluations).fit()
    for path in sorted((run.folder / "evals" / "letters").iterdir()):
        step = int(path.stem.removeprefix("step-"))
        assert {json.loads(line)["version"] for line in path.read_text().splitlines()} == {step}
    without = make(2, "without", steps=4).fit()
    assert list(run.rollouts) == list(without.rollouts)


def test_the_guard_is_silent_on_a_sound_run_and_compares_what_can_be_compared(make, monkeypatch):
    from hone.guards import guard

    compared = []
    plain = guard.agreement
    monkeypatch.setattr(guard, "agreement", lambda *a, **b: compared.append(1) or plain(*a, **b))
    run = make(1, steps=4, hooks=[{"guard": {"every": 1}}, PLAIN_LOG]).fit()
    assert [row["guard/findings"] for row in run.metrics] == [0.0] * 4
    assert len(compared) == 1  # what the first weights sampled is trained on by the first weights


def test_answers_in_several_turns_are_of_one_version_and_other_papers_act_on_them(make):
    """Reflections, high-entropy steps, a KL penalty and its reference, all while the next steps are sampled."""
    run = make(
        2,
        steps=5,
        environment={"reflect_retry": {"reflection_tokens": 5, "truncated_retry": "judge"}},
        objective={
            "policy_gradient": {"weights": ["high_entropy"], "penalties": [{"kl_penalty": {"coefficient": 0.1}}]}
        },
        hooks=[{"guard": {"every": 1}}, PLAIN_LOG],
    ).fit()
    assert versions(run) == {step: {max(0, step - 3)} for step in range(1, 6)}
    assert [row["guard/findings"] for row in run.metrics] == [0.0] * 5
    assert all({"reflect/first_try", "entropy/threshold", "loss/kl_penalty"} <= row.keys() for row in run.metrics)


def test_the_guard_finds_a_sampler_that_missed_a_sync(make, monkeypatch):
    """It holds older weights than those that the schedule says."""
    sync = NativeSampler.sync
    given = []

    def deaf(self, policy):
        given.append(policy.version)
        if len(given) < 3:
            sync(self, policy)

    monkeypatch.setattr(NativeSampler, "sync", deaf)
    from hone.policies.causal_lm import CausalLM

    follow = CausalLM.follow
    monkeypatch.setattr(CausalLM, "follow", lambda self, p: self if given and p.version else follow(self, p))
    with pytest.raises(Refusal, match=r"(?s)^step 2: guard: weights: .*differ between policy and sampler"):
        make(1, hooks=[{"guard": {"every": 1}}, PLAIN_LOG]).fit()


# Nothing is lost, and nothing is played twice.


def crash(state):
    raise ZeroDivisionError("power cut")


FULL = {
    "steps": 7,
    "gate": "informative",
    "max_rounds": 2,
    "checkpoint": {"every": 2, "keep": 9},
    "stages": {4: {"siblings": 4}},
    "update": {"minibatches": 2},
}


def full(**changes):
    evaluations = {"letters": {"tasks": Letters(), "items": 2, "every": 3}}
    return {**FULL, "tasks": Letters(), "eval": evaluations, **changes}


@pytest.mark.parametrize("lag", [1, 2])
def test_a_killed_run_resumes_to_the_same_bits(make, lag):
    """What waited when the checkpoint was made is in it."""
    whole = make(lag, "whole", **full(hooks=[Spy(), PLAIN_LOG])).fit()
    with pytest.raises(ZeroDivisionError):
        make(lag, "part", **full(hooks=[Spy(at={5: crash}), PLAIN_LOG])).fit()
    resumed = make(lag, "part", **full(hooks=[Spy(), PLAIN_LOG])).fit(resume=True, allow=("settings",))
    assert resumed.steps == 7
    assert timeless(resumed) == timeless(whole)
    assert list(resumed.rollouts) == list(whole.rollouts)
    for step in (6, 7):
        one, other = (checkpoint.load(run.folder / "checkpoints" / f"step-{step}") for run in (whole, resumed))
        assert same(one, other)
    waiting = checkpoint.load(whole.folder / "checkpoints" / "step-4")["ahead"]["waiting"]
    assert [(held["step"], held["updates"]) for held in waiting] == [(4 + i, 4 + i - lag) for i in range(lag)]
    assert checkpoint.load(whole.folder / "checkpoints" / "step-7")["ahead"]["waiting"] == []


@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("when", [1, 3])
def test_ctrl_c_loses_no_task_and_plays_none_twice(make, lag, when):
    """What it cuts short is played again: by the weights of the checkpoint, which are newer."""
    spy = Spy(at={when: parts.interrupt})
    part = make(lag, steps=6, hooks=[spy, PLAIN_LOG]).fit()
    assert part.steps == when
    run = make(lag, steps=6).fit(resume=True, allow=("hooks",))
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(12)]
    assert all(step - 1 - lag <= version < step for step, found in versions(run).items() for version in found)
    assert max(row["staleness/updates"] for row in run.metrics) == lag


def test_ctrl_c_while_the_next_step_is_being_sampled(make):
    environment = parts.Interrupting("letter-4", SingleTurn())
    part = make(1, steps=5, environment=environment).fit()
    assert part.steps in (1, 2)  # the second is trained on when Ctrl-C comes, or is just taken
    run = make(1, steps=5).fit(resume=True, allow=("environment",))
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(10)]


def test_what_is_refused_is_played_again(make, tmp_path):
    def refuse(state):
        if state.step == 2:
            raise Refusal("not this one")

    spy = Spy()
    spy.before_update = refuse
    with pytest.raises(Refusal, match=r"^step 3: not this one. The steps before: saved in .*step-2$"):
        make(2, steps=5, hooks=[spy, PLAIN_LOG]).fit()
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-2")
    assert saved["tasks"] == {"cursor": 4}
    assert saved["ahead"]["waiting"] == []
    run = make(2, steps=5).fit(resume=True, allow=("hooks",))
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(10)]


def test_what_fails_ahead_fails_at_its_own_step(make):
    """And what would come behind it, of the wrong tasks, is not begun."""

    class Fails:
        inner = SingleTurn()

        async def play_group(self, task, n, **rest):
            if task.id == "letter-4":
                raise hone.judging.VerificationError("there is none")
            return await self.inner.play_group(task, n, **rest)

    with pytest.raises(hone.judging.VerificationError, match=r"^step 3: there is none. The steps before: saved in"):
        make(2, steps=6, environment=Fails()).fit()
    run = make(2, steps=6).fit(resume=True, allow=("environment",))
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(12)]


@pytest.mark.slow
def test_what_hangs_ahead_ends_the_run_at_its_own_step(make):
    class Waits:
        inner = SingleTurn()

        async def play_group(self, task, n, **rest):
            if task.id == "letter-4":
                await asyncio.sleep(1e6)
            return await self.inner.play_group(task, n, **rest)

    told = r"^step 3: sampling: 1 of 2 tasks are not done \(letter-4\).*The steps before: saved in .*step-2$"
    with pytest.raises(HangError, match=told):
        make(2, steps=6, environment=Waits(), limits={"sampling": 15.0}).fit()


def test_a_lag_that_is_taken_back_on_resume_is_not_exceeded(make):
    with pytest.raises(ZeroDivisionError):
        make(2, steps=6, checkpoint={"every": 2}, hooks=[Spy(at={3: crash}), PLAIN_LOG]).fit()
    run = make(0, steps=6).fit(resume=True, allow=("settings",))
    assert versions(run) == {1: {0}, 2: {0}} | {step: {step - 1} for step in range(3, 7)}
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(12)]


# Weights that the run leaves.


def poison(state):
    """The norm of the coming gradient is bad."""
    learner = state.learner

    def bad(norm):
        del learner._bad
        return "it is said to be bad"

    learner._bad = bad


def test_what_weights_have_sampled_that_the_run_left_is_played_again(make):
    saving = {"checkpoint": {"every": 1, "keep": 9}, "update": {"on_bad": "rollback"}}
    run = make(2, steps=6, hooks=[Spy(at={3: poison}), PLAIN_LOG], **saving).fit()
    row = run.metrics[3]
    assert row["update/rolled_back"] == 3
    assert row["staleness/dropped"] == 4  # two groups each of two steps
    assert row["tokens/aside"] == pytest.approx(4 * 3 * 5, abs=30)
    assert versions(run) == {1: {0}, 2: {0}, 3: {0}, 4: {1}, 5: {4}, 6: {4}}
    assert [row["staleness/updates"] for row in run.metrics] == [0, 1, 2, 2, 0, 1]
    assert [n for names in tasks(run).values() for n in names] == [f"letter-{i}" for i in range(12)]


def test_a_hook_that_goes_back_drops_what_waits_before_it_is_saved(make):
    """The checkpoint holds nothing of the weights that were left; and the run resumes from it to the same bits."""

    def back(state):
        state.policy.load_state_dict({name: weight * 0.5 for name, weight in state.policy.state_dict().items()})
        state.policy.advance()

    common = {"steps": 5, "checkpoint": {"every": 1, "keep": 9}}
    whole = make(1, "whole", hooks=[Spy(at={2: back}), PLAIN_LOG], **common).fit()
    saved = checkpoint.load(whole.folder / "checkpoints" / "step-2")
    assert saved["ahead"]["waiting"] == []
    assert saved["ahead"]["lost"]["staleness/dropped"] == 2
    assert whole.metrics[2]["staleness/dropped"] == 2
    assert [n for names in tasks(whole).values() for n in names] == [f"letter-{i}" for i in range(10)]
    with pytest.raises(ZeroDivisionError):
        make(1, "part", hooks=[Spy(at={2: back, 3: crash}), PLAIN_LOG], **common).fit()
    resumed = make(1, "part", hooks=[Spy(), PLAIN_LOG], **common).fit(resume=True, allow=("settings",))
    assert timeless(resumed) == timeless(whole)


# What does not go together.


def test_what_cannot_be_sampled_from_meanwhile_is_refused(make):
    from hone.policies.causal_lm import CausalLM

    class Fixed:
        """A policy of one's own, without a twin."""

    for name in dir(CausalLM):
        if not name.startswith("__") and name not in ("twin", "follow"):
            setattr(Fixed, name, getattr(CausalLM, name))
    Fixed.version, Fixed.packs, Fixed.device, Fixed.renderer = 0, False, None, None
    with pytest.raises(ConfigError, match="max_staleness: a Fixed has no twin"):
        make(1, model=Fixed())


def test_a_source_that_follows_the_policy_is_refused(make, tmp_path):
    made = {"writer": "synthesis_parts:Twice", "store": str(tmp_path / "set"), "instruction": "{question}"}
    for refresh, match in ((2, "max_staleness: SynthRL makes its tasks by the policy as it is"), (0, None)):
        source = {"synthrl": {"source": "loop_parts:Letters", "refresh": refresh, **made}}
        if match is None:
            make(1, tasks={"mixture": {"sources": {"made": source}}})
            continue
        with pytest.raises(ConfigError, match=match):
            make(1, tasks={"mixture": {"sources": {"made": source}}})


def test_it_cannot_change_on_the_way(make):
    with pytest.raises(ConfigError, match=r"stages\.2\.max_staleness = 1: cannot change in stages"):
        make(1, stages={2: {"max_staleness": 1}})
