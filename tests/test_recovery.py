"""Bad updates: skipped, undone by a way back, or the end; and what hangs."""

import asyncio
import copy

import loop_parts as parts
import pytest
import torch
from loop_parts import Spy, Still

import hone
from hone import checkpoint
from hone.envs.single_turn import SingleTurn
from hone.hangs import HangError
from hone.samplers.native import NativeSampler

PLAIN_LOG = {"log": {"tensorboard": False}}


@pytest.fixture
def make(tiny_model_path, tmp_path):
    """``make(**settings) -> Trainer`` of the tiny Llama that saves every second step."""

    def make(**changes):
        changes = {"gate": "everything", "checkpoint": {"every": 2, "keep": 9}} | changes
        return hone.Trainer(hone.Config(**parts.settings(tiny_model_path, tmp_path / "run", **changes)))

    return make


class Breaks:
    """An advantage that, on given updates, makes a gradient that is no number, or a huge one."""

    def __init__(self, at, value=float("nan")):
        self.at, self.value, self.calls = at, value, 0

    def __call__(self, groups):
        self.calls += 1
        for group in groups:
            for trajectory in group:
                trajectory.advantage = self.value if self.calls in self.at else trajectory.reward - 0.4


def weights(state):
    return {name: weight.clone() for name, weight in state.policy.state_dict().items()}


def equal(one, other):
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def watched(steps):
    """A hook that keeps the weights after each step, and its record."""
    kept = {}
    return Spy(at={step: lambda state: kept.update({state.step: weights(state)}) for step in range(1, steps + 1)}), kept


def test_a_bad_step_is_skipped(make):
    spy, kept = watched(4)
    run = make(steps=4, advantage=Breaks({3}), hooks=[spy, PLAIN_LOG]).fit()
    assert run.series("update/skipped")[1].tolist() == [0, 0, 1, 0]
    assert equal(kept[2], kept[3])
    assert not equal(kept[3], kept[4])
    assert "update/rolled_back" not in run.metrics[2]


def test_a_bad_step_stops_the_run(make):
    run = make(steps=9, advantage=Breaks({3}), update={"on_bad": "stop"}).fit()
    assert run.steps == 3
    assert checkpoint.load(checkpoint.latest(run.folder))["step"] == 3


def test_a_damaged_checkpoint_is_not_gone_back_to(make, caplog):
    class Damages(Still):
        def before_update(self, state):
            if state.step == 4:  # that of step 4 is the newest
                newest = checkpoint.latest(state.folder) / checkpoint.STATE
                newest.write_bytes(newest.read_bytes()[:-1])

    run = make(
        steps=6,
        advantage=Breaks({5}),
        update={"on_bad": "rollback"},
        checkpoint={"every": 1},
        hooks=[PLAIN_LOG, Damages()],
    ).fit()
    assert run.series("update/rolled_back")[1].tolist() == [3]
    assert "now called step-4.damaged; taking step-3" in caplog.text


def test_a_bad_step_goes_back(make, caplog):
    """To the last checkpoint; the tasks go on, and so does the schedule."""
    spy, kept = watched(5)
    slowly = {"lr": 1e-2, "warmup_steps": 8}
    trainer = make(
        steps=5, advantage=Breaks({3, 5}), update={"on_bad": "rollback"}, hooks=[spy, PLAIN_LOG], optimizer=slowly
    )
    run = trainer.fit()
    assert equal(kept[3], kept[2])
    assert run.metrics[2]["update/rolled_back"] == 2
    assert run.metrics[4]["update/rolled_back"] == 4
    assert equal(kept[5], kept[4])
    assert not equal(kept[4], kept[3])
    assert run.series("lr")[1].tolist() == pytest.approx([i / 8 * 1e-2 for i in range(5)])
    assert next(row["task"] for row in run.rollouts.at(4)) == "letter-6"
    assert "step 3: an optimiser step was bad: went back to the weights of" in caplog.text
    versions = [min(row["version"] for row in run.rollouts.at(step)) for step in range(1, 6)]
    assert versions == sorted(set(versions))  # no version is given twice: the sampler is told


def test_before_the_first_checkpoint_there_is_no_way_back(make, caplog):
    run = make(steps=2, advantage=Breaks({1}), update={"on_bad": "rollback"}).fit()
    assert "there is no checkpoint to go back to yet" in caplog.text
    assert run.series("update/skipped")[1].tolist() == [1, 0]


def test_nobody_goes_back_for_ever(make, caplog):
    caplog.set_level("INFO", "hone")
    run = make(
        steps=30, advantage=Breaks(set(range(3, 99))), update={"on_bad": "rollback"}, checkpoint={"every": 2}
    ).fit()
    assert run.steps == 6
    assert "after the run went back 3 times, last to step-4, and got nowhere" in caplog.text


def test_a_spike_is_measured_against_what_is_usual(make):
    run = make(steps=23, advantage=Breaks({10, 22}, 1e6), update={"spike": 50.0}).fit()
    assert run.series("update/skipped")[1].tolist() == [float(step == 22) for step in range(1, 24)]  # 10 is too early
    assert len(checkpoint.load(checkpoint.latest(run.folder))["learner"]["norms"]) == 20


def poison(state):
    with torch.no_grad():
        for parameter in state.policy.parameters():
            parameter.fill_(float("nan"))
    state.policy.advance()


def test_weights_that_are_no_numbers_go_back_when_they_cannot_be_sampled_from(make):
    run = make(steps=4, update={"on_bad": "rollback"}, hooks=[Spy(at={3: poison}), PLAIN_LOG]).fit()
    assert run.steps == 4
    assert run.metrics[3]["update/rolled_back"] == 2
    assert {row["task"] for row in run.rollouts.at(4)} == {"letter-6", "letter-7"}
    state = checkpoint.load(checkpoint.latest(run.folder))
    assert all(weight.isfinite().all() for weight in state["policy"].values())


class Copying(NativeSampler):
    """A sampler with weights of its own, as an engine beside the policy has."""

    def sync(self, policy):
        own = copy.copy(policy)
        own.model = copy.deepcopy(policy.model)
        super().sync(own)


def test_a_sampler_with_weights_of_its_own_is_given_those_that_the_run_went_back_to(make):
    spy = Spy(at={3: poison})
    run = make(steps=4, sampler=Copying(), update={"on_bad": "rollback"}, hooks=[spy, PLAIN_LOG]).fit()
    assert run.steps == 4
    assert run.metrics[3]["update/rolled_back"] == 2


class Poisoned:
    """An objective of one's own that writes into the weights."""

    reads_reference = False

    def __init__(self, inner, at):
        self.inner, self.at, self.calls = inner, at, 0

    def __call__(self, policy, batch):
        self.calls += 1
        loss = self.inner(policy, batch)
        if self.calls == self.at:
            policy.parameters()[0].data.view(-1)[0] = float("inf")
        return loss


@pytest.mark.parametrize("on_bad", ["skip", "rollback"])
def test_weights_that_are_no_numbers_are_never_saved(make, tmp_path, on_bad):
    from hone.objectives.policy_gradient import PolicyGradient

    trainer = make(
        steps=4,
        objective=Poisoned(PolicyGradient(), at=4),
        update={"on_bad": on_bad},
        hooks=[{"guard": {"every": 0, "follow": {"split": "ignore"}}}, PLAIN_LOG],
    )
    trainer.config.objective.at += 3  # the guard asks for two gradients in its preflight, one of them in two parts
    if on_bad == "skip":
        with pytest.raises(FloatingPointError, match=r"step 4: .*not finite"):
            trainer.fit()
    else:
        assert trainer.fit().metrics[3]["update/rolled_back"] == 2
    state = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    assert state["step"] == (2 if on_bad == "skip" else 4)
    assert all(weight.isfinite().all() for weight in state["policy"].values())


# What hangs.


class Waits(SingleTurn):
    """One task is never answered."""

    async def play_group(self, task, n, **rest):
        if task.id == "letter-4":
            await asyncio.sleep(1e6)
        return await super().play_group(task, n, **rest)


def test_sampling_that_hangs_ends_the_run(make, caplog):
    told = r"^step 3: sampling: 1 of 2 tasks are not done \(letter-4\), no verdict is "
    with pytest.raises(HangError, match=told + r".*The steps before: saved in .*step-2$"):
        make(steps=4, environment=Waits(), limits={"sampling": 15.0}).fit()
    assert "thread hone-collect:" in caplog.text


@pytest.mark.slow
def test_a_verdict_that_hangs_is_named(make):
    slow = {"workers": 1, "timeout": 600.0}
    with pytest.raises(HangError, match=r"verdicts are awaited; it did not end within 15 s \(limits\.sampling\)"):
        make(steps=1, verifier=parts.slow, verification=slow, limits={"sampling": 15.0}).fit()


@pytest.mark.slow
def test_an_update_that_hangs_ends_the_run_and_saves_nothing(make, tmp_path, caplog):
    class Stuck(Poisoned):
        def __call__(self, policy, batch):
            if policy.version == 2:
                import time

                time.sleep(600)
            return super().__call__(policy, batch)

    from hone.objectives.policy_gradient import PolicyGradient

    with pytest.raises(HangError, match=r"^the update of step 3 did not end within 20 s \(limits\.update\)"):
        make(steps=4, objective=Stuck(PolicyGradient(), at=0), limits={"update": 20.0}, checkpoint={"every": 2}).fit()
    assert "time.sleep(600)" in caplog.text
    assert checkpoint.load(checkpoint.latest(tmp_path / "run"))["step"] == 2
