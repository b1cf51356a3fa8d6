"""Every fault, put into a real run of a tiny model, is found by the first check that can see it, and named."""

import copy
import logging
from dataclasses import replace

import loop_parts as parts
import pytest
import torch
from loop_parts import Spy

import hone
from hone import collate
from hone.envs.single_turn import SingleTurn
from hone.seats import Refusal

PLAIN_LOG = {"log": {"tensorboard": False}}


@pytest.fixture
def fit(tiny_folder, tmp_path):
    """``fit(kind="llama", guard={}, hooks=(), **settings)``: trains a tiny model under a guard that looks each step."""

    def fit(*, kind="llama", guard=None, hooks=(), **changes):
        changes["hooks"] = [*hooks, {"guard": {"every": 1, **(guard or {})}}, PLAIN_LOG]
        changes.setdefault("sampling", {"max_tokens": 8, "temperature": 0.7})
        changes.setdefault("gate", "everything")
        trainer = hone.Trainer(hone.Config(**parts.settings(tiny_folder(kind), tmp_path / "run", **changes)))
        fit.trainer = trainer
        return trainer.fit()

    return fit


def refused(fit, match, *, step=1, **changes):
    """The run ends before the update of that step, for that reason."""
    with pytest.raises(Refusal, match=rf"(?s)^step {step}: guard: {match}"):
        fit(**changes)


def quiet(caplog):
    return [r.getMessage() for r in caplog.records if "guard" in r.getMessage()] == []


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_sound_run_is_silent(fit, caplog, kind):
    run = fit(kind=kind, steps=3)
    assert run.series("guard/findings")[1].tolist() == [0.0] * 3
    assert quiet(caplog)


# Sampler and policy.


def drawing(monkeypatch, change):
    """Have the sampler draw by ``change(draw, logits, rules, position)``."""
    from hone.samplers import native

    plain = native.draw
    monkeypatch.setattr(native, "draw", lambda *given: change(plain, *given))


def test_a_softmax_taken_twice(fit, monkeypatch):
    drawing(monkeypatch, lambda draw, logits, rules, at: draw(logits.float().softmax(-1), rules, at))
    refused(fit, r"agreement: .*softmax twice")


def test_a_temperature_applied_twice(fit, monkeypatch):
    drawing(monkeypatch, lambda draw, logits, rules, at: draw(logits.float() / 0.7, rules, at))
    refused(fit, r"agreement: .*sampler applies the temperature twice")


def test_a_temperature_left_out(fit, monkeypatch):
    def untempered(draw, logits, rules, at):
        drawn = draw(logits, rules, at)
        plain = logits.float().log_softmax(-1).gather(-1, drawn.tokens[:, None])[:, 0]
        return drawn._replace(logprobs=plain)

    drawing(monkeypatch, untempered)
    refused(fit, r"agreement: .*leaves the temperature out")


@pytest.mark.parametrize(("by", "word"), [(1, "before"), (-1, "behind")])
def test_log_probabilities_shifted_by_the_sampler(fit, monkeypatch, by, word):
    from hone.samplers.native import NativeSampler

    plain = NativeSampler._completion

    def shifted(self, request, stop):
        request.logprobs = request.logprobs[-by:] + request.logprobs[:-by]
        return plain(self, request, stop)

    monkeypatch.setattr(NativeSampler, "_completion", shifted)
    refused(fit, rf"agreement: .*are shifted: each is that of the token {word} its own")


@pytest.mark.parametrize(("by", "match"), [(1, "already sees that step"), (-1, "does not see the step before")])
def test_a_policy_that_is_shifted(fit, monkeypatch, by, match):
    from hone.policies import layout

    plain = layout.encode

    def shifted(rows, device):
        inputs = plain(rows, device)
        inputs["previous"] = (inputs["previous"] + by).clamp(0, inputs["input_ids"].shape[1] - 1)
        return inputs

    class AfterLoading(Spy):  # before, the policy's own look at the model would refuse it
        def on_start(self, state):
            monkeypatch.setattr(layout, "encode", shifted)

    refused(fit, rf"agreement: .*{match}", hooks=[AfterLoading()])


def test_weights_that_do_not_reach_the_sampler(fit, monkeypatch):
    from hone.samplers.native import NativeSampler

    plain = NativeSampler.sync
    once = []

    def sync(self, policy):
        """Bind a copy, and never look at the policy again."""
        if not once:
            once.append(copy.deepcopy(policy))
            plain(self, once[0])

    monkeypatch.setattr(NativeSampler, "sync", sync)
    refused(fit, r"weights: .*sampled by the weights of update 0, and were to be by those of update 1.*stale", step=2)


def test_weights_that_do_not_reach_the_sampler_though_it_says_so(fit, monkeypatch):
    """The engine reports the newest version, and holds the old weights: their checksums tell."""
    from hone.samplers.native import NativeSampler

    plain = NativeSampler.sync
    held = []

    def sync(self, policy):
        if not held:
            held.append(copy.deepcopy(policy))
            plain(self, held[0])
        held[0].version = policy.version

    monkeypatch.setattr(NativeSampler, "sync", sync)
    refused(fit, r"weights: \d+ of \d+ trained weights differ between policy and sampler.*stale", step=2)


def test_dropout_while_scoring(fit):
    class Careless(Spy):
        def before_update(self, state):
            state.policy.model.train()

    refused(fit, r"repeatable: .*dropout", kind="opt", hooks=[Careless()])


# Groups and batches.


class SameSeeds(SingleTurn):
    """Every sibling draws the same noise."""

    async def play(self, task, context, sampler, verify, params):
        return await super().play(task, context, sampler, verify, replace(params, seed=7))


def test_siblings_with_the_same_seeds(fit):
    refused(fit, r"siblings: 4 answers repeat another .*same seed", environment=SameSeeds())


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_padding_or_given_steps_in_the_mask(fit, monkeypatch, kind):
    plain = collate.batch

    def padded(laid, encode, *, temperature):
        made = plain(laid, encode, temperature=temperature)
        made.mask[:, 1:] = True
        return made

    monkeypatch.setattr(collate, "batch", padded)
    refused(fit, r"layout: .*belong to no trajectory.*padding or given steps in the mask", kind=kind)


def test_a_loss_that_is_divided_within_the_micro_batch(fit):
    def mean(losses, batch):
        """A mean of means: wrong as soon as there are two micro-batches."""
        return losses.sum() / batch.mask.sum(), 1.0

    refused(fit, r"split: .*divided within the micro-batch", objective={"policy_gradient": {"reduction": mean}})


# Rewards.


class Swapping(SingleTurn):
    """The rewards of a group's first and last answer change places."""

    async def play_group(self, task, n, **rest):
        group = await super().play_group(task, n, **rest)
        first, *_, last = sorted(group, key=lambda t: t.reward)
        first.reward, last.reward = last.reward, first.reward
        return group


def test_swapped_rewards(fit):
    refused(fit, r"swapped: .*another's reward.*wrong answers", environment=Swapping())


def test_negated_rewards(fit, caplog):
    def worst(groups):
        for group in groups:
            for trajectory in group:
                trajectory.advantage = -trajectory.reward

    run = fit(steps=1, advantage=worst)
    assert "credit: " in caplog.text
    assert "swapped or negated rewards" in caplog.text
    assert run.metrics[0]["guard/credit"] == 1.0
    refused(fit, "credit: ", advantage=worst, guard={"follow": {"credit": "stop"}}, folder=str(run.folder) + "2")


def test_rewards_that_are_no_numbers(fit):
    class Careless(SingleTurn):
        async def play_group(self, task, n, **rest):
            group = await super().play_group(task, n, **rest)
            group.trajectories[1].reward = float("nan")
            return group

    with pytest.raises(Refusal, match=r"^step 1: rewards: 2 rewards are not finite, such as nan"):
        fit(environment=Careless())


def test_rewards_that_never_differ_or_never_come(fit, caplog):
    run = fit(steps=4, verifier=parts.nothing, guard={"patience": 3})
    assert "constant: every reward of the last 3 steps is 0" in caplog.text
    assert run.series("guard/findings")[1].tolist() == [0, 0, 1, 1]


def test_verdicts_that_go_missing(fit, caplog):
    guard = {"patience": 2, "missing": 0.2}
    fit(steps=3, verifier=parts.fails_on_odd, guard=guard, sampling={"max_tokens": 5}, siblings=6)
    assert "have no verdict. Likely cause: a verifier that fails or is too slow" in caplog.text


# Weights, metrics and memory.


def test_weights_that_are_no_numbers(fit, caplog):
    def poison(state):
        with torch.no_grad():
            state.policy.parameters()[-1].fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="logits are NaN"):
        fit(hooks=[Spy(at={1: poison})])
    caplog.clear()


def test_a_metric_that_leaves_its_band(fit, caplog):
    run = fit(steps=9, guard={"bands": {"length/mean": {"high": 3.0}}, "follow": {"bands": "stop"}})
    assert run.steps == 1
    assert "bands: length/mean is " in caplog.text
    assert ", over 3. Likely cause: answers run away" in caplog.text


def test_a_leak(fit, caplog):
    kept = []

    class Leaks(Spy):
        def on_step(self, state):
            kept.append(torch.ones(2**20))  # 4 MiB

    run = fit(steps=30, hooks=[Leaks()], guard={"memory_window": 20, "memory_mb": 40, "follow": {"memory": "stop"}})
    assert "memory: host memory grew by" in caplog.text
    assert "something is kept from every step" in caplog.text
    assert run.steps < 30


def test_what_is_ignored_is_not_told(fit, caplog):
    caplog.set_level(logging.WARNING, "hone")
    run = fit(steps=2, verifier=parts.nothing, guard={"patience": 1, "follow": {"constant": "ignore"}})
    assert quiet(caplog)
    assert run.series("guard/findings")[1].tolist() == [0.0, 0.0]


def test_the_steps_before_are_saved(fit, tmp_path):
    from hone import checkpoint

    class Late(SingleTurn):
        async def play(self, task, context, sampler, verify, params):
            late = task.id in {"letter-4", "letter-5"}
            return await super().play(task, context, sampler, verify, replace(params, seed=7) if late else params)

    with pytest.raises(Refusal, match=r"The steps before: saved in .*step-2$"):
        fit(steps=4, environment=Late())
    state = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    assert (state["step"], state["tasks"]) == (2, {"cursor": 4})
