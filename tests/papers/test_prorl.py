"""Resets of the reference: when they come, what they change and what they leave, and that a resumed run agrees."""

import json
import math
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import loop_parts as parts
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Letters, Spy, same

import hone
from hone import checkpoint, collate
from hone.build import build
from hone.learner import Learner
from hone.math.advantages import zscore
from hone.math.divergence import k2, kl_penalty
from hone.math.gates import informative
from hone.math.triggers import at, every, plateau, spike
from hone.objectives.policy_gradient import PolicyGradient
from hone.papers.prorl import ProRL, Reset, replay
from hone.seats import Hook, State
from hone.sections import OptimizerConfig, UpdateConfig
from hone.types import Group, Segment, Task, Trajectory

ACCURACY = "eval/heldout/accuracy"
SLOW = partial(plateau, metric=ACCURACY, patience=2)


def odd_fifths(history):
    """A trigger of one's own, by its address."""
    return "it is a fifth" if history[-1]["step"] % 5 == 0 else None


class Policy:
    """One weight, which a step of the run overwrites in place, as an optimiser does."""

    def __init__(self):
        self.weight, self.version = torch.zeros(1), 0

    def state_dict(self):
        return {"w": self.weight}

    def load_state_dict(self, state):
        self.weight.copy_(state["w"])

    def advance(self):
        self.version += 1


class Steps:
    """A run whose metrics are given: it writes down what the hook makes of them."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.state = State(0, 10**6, folder, Policy(), reference=object(), anchor=self.anchor, restart=self.restart)
        self.anchors, self.restarts, self.log = [], [], []

    def anchor(self, weights=None):
        self.anchors.append(None if weights is None else weights["w"].item())

    def restart(self, **what):
        self.restarts.append(what)

    def go(self, hook, rows):
        """Steps with these metrics, from where the run is; a value alone is an accuracy, None is no evaluation."""
        if self.state.step == 0:
            self.state.metrics = {ACCURACY: 0.0}
        hook.on_start(self.state)
        self.log += [{"step": 0, **self.state.metrics}] if self.state.step == 0 else []
        for row in rows:
            self.state.step += 1
            self.state.policy.weight.fill_(self.state.step)
            row = row if isinstance(row, dict) else {ACCURACY: row} if row is not None else {}
            self.state.metrics = {"loss": 0.5, **row}
            hook.on_step(self.state)
            self.log.append({"step": self.state.step, **self.state.metrics})
        return self

    @property
    def resets(self):
        return [row["step"] for row in self.log if row.get("reset/happened")]

    @property
    def record(self):
        path = self.state.folder / "resets.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path / "run")


def test_it_is_a_hook_that_reads_evaluations():
    hook = build("hook", {"prorl": {"triggers": ["every"]}})
    assert isinstance(hook, Hook)
    assert hook.reads_evaluations
    assert (hook.target, hook.clear_optimizer, hook.restart_schedule) == ("current", True, False)  # as in the paper


# When.


def test_a_plateau_fires_once_and_then_counts_anew(steps):
    steps.go(ProRL(triggers=[SLOW]), [0.1, 0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3, 0.6])
    assert steps.resets == [4, 7]  # 0.4 opens the next stretch, and 0.3 twice is no better
    assert [row["reset/count"] for row in steps.log[1:]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [row.get("reset/target") for row in steps.log if row.get("reset/happened")] == [4, 7]


def test_a_plateau_of_rare_evaluations_that_sometimes_fail(steps):
    rare = [value for each in (0.5, math.nan, 0.4, None, 0.4) for value in (None, None, each)]
    steps.go(ProRL(triggers=[SLOW]), rare)
    assert steps.resets == [15]


def test_cooldown_is_the_fewest_steps_between_two(steps):
    worse = [0.5] + [0.1] * 11
    assert steps.go(ProRL(triggers=[SLOW], cooldown=5), worse).resets == [3, 8]
    again = Steps(steps.state.folder)
    assert again.go(ProRL(triggers=[SLOW]), worse).resets == [3, 6, 9, 12]
    once = Steps(steps.state.folder)
    assert once.go(ProRL(triggers=[partial(every, steps=4)], cooldown=4), [None] * 12).resets == [4, 8, 12]


def test_the_evaluation_before_training_counts(steps):
    steps.go(ProRL(triggers=[SLOW]), [0.0, 0.0])
    assert steps.resets == [2]
    assert "was 0 at step 0" in steps.record[0]["reason"]


def test_the_first_trigger_with_a_reason_is_named(steps):
    triggers = [partial(spike, limit=1.0), partial(every, steps=3), partial(at, steps=[3, 4])]
    steps.go(ProRL(triggers=triggers), [{"kl/mean": 0.5}, {"kl/mean": 2.0}, {}, {"kl/mean": 2.0}, {}, {}, {}])
    assert [(row["step"], row["trigger"]) for row in steps.record] == [
        (2, "spike"),
        (3, "at"),
        (4, "spike"),
        (7, "every"),
    ]


def test_a_trigger_of_ones_own(steps):
    hook = build("hook", {"prorl": {"triggers": [f"{__name__}:odd_fifths"]}})
    assert steps.go(hook, [None] * 11).resets == [5, 10]
    assert steps.record[0]["reason"] == "it is a fifth"


def test_a_trigger_that_can_never_act_is_refused_before_the_first_step(steps):
    with pytest.raises(ValueError, match="without a limit or a factor"):
        ProRL(triggers=[spike]).on_start(steps.state)


@pytest.mark.parametrize(
    "settings", [{"triggers": [SLOW]}, {"triggers": [every], "target": "best", "metric": "eval/heldout/accuracy"}]
)
def test_a_metric_that_no_evaluation_gives_is_named_at_the_start(steps, settings):
    steps.state.metrics = {"eval/heldout/acuracy": 0.5, "eval/heldout/length": 3.0}
    with pytest.raises(
        ValueError, match=r"'eval/heldout/accuracy'; there are: eval/heldout/acuracy, eval/heldout/length"
    ):
        ProRL(**settings).on_start(steps.state)
    steps.state.metrics = {"eval/heldout/errors": 4.0}  # none could be judged this time
    ProRL(**settings).on_start(steps.state)


def test_without_a_reference_there_is_nothing_to_reset(steps):
    steps.state.reference = None
    with pytest.raises(ValueError, match=r"there is no reference to reset.*kl_penalty"):
        ProRL(triggers=[every]).on_start(steps.state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"triggers": []}, "at least 1"),
        ({"triggers": [every], "target": "best"}, "needs a metric"),
        ({"triggers": [every], "rollback": True, "metric": ACCURACY}, "target must be"),
        ({"triggers": [every], "cooldown": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ProRL(**given)


# What.


@pytest.mark.parametrize(
    ("given", "restarts"),
    [
        ({}, [{"optimizer": True, "schedule": False}]),
        ({"clear_optimizer": False}, []),
        ({"clear_optimizer": False, "restart_schedule": True}, [{"optimizer": False, "schedule": True}]),
        ({"restart_schedule": True}, [{"optimizer": True, "schedule": True}]),
    ],
)
def test_what_starts_anew(steps, given, restarts):
    steps.go(ProRL(triggers=[partial(at, steps=[2])], **given), [None] * 3)
    assert (steps.anchors, steps.restarts) == ([None], restarts)
    done = {"rollback": False, "optimizer": given.get("clear_optimizer", True), "schedule": "restart_schedule" in given}
    reason = "step 2 is one of those that were set"
    assert steps.record == [{"step": 2, "trigger": "at", "reason": reason, "target": 2, **done}]


BEST = {"triggers": [partial(every, steps=4)], "target": "best", "metric": ACCURACY}


def test_the_best_policy_of_the_run_becomes_the_reference(steps):
    steps.go(ProRL(**BEST), [0.1, 0.5, 0.5, 0.2, None, 0.4, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1])
    assert steps.anchors == [3.0, 3.0, 9.0]  # the latest of equals; still that one; a better one
    assert [row["target"] for row in steps.record] == [3, 3, 9]
    assert steps.state.policy.weight.item() == 12.0


def test_the_initial_policy_may_be_the_best(steps):
    steps.go(ProRL(**BEST, mode="min"), [0.1, 0.5, 0.5, 0.2])
    assert steps.anchors == [0.0]


def test_nothing_is_reset_to_a_best_that_is_not_known(steps):
    hook = ProRL(**BEST | {"metric": "reward/mean"})
    steps.go(hook, [None, None, None, None, None, {"reward/mean": 1.0}, None])
    assert (steps.resets, steps.anchors) == ([6], [6.0])


def test_rollback_takes_the_policy_along(steps):
    steps.go(ProRL(**BEST, rollback=True), [0.1, 0.5, 0.2, 0.2])
    assert (steps.anchors, steps.state.policy.weight.item(), steps.state.policy.version) == ([2.0], 2.0, 1)
    steps.go(ProRL(**BEST, rollback=True), [0.1, 0.1, 0.1, 0.9])
    assert (steps.anchors, steps.state.policy.weight.item(), steps.state.policy.version) == ([2.0, 8.0], 8.0, 1)


def test_a_second_run_with_the_same_hook_begins_anew(steps, tmp_path):
    hook = ProRL(**BEST)
    first = steps.go(hook, [0.1, 0.5, 0.2, 0.2, 0.1])
    second = Steps(tmp_path / "second").go(hook, [0.1, 0.5, 0.2, 0.2, 0.1])
    assert second.log == first.log
    assert second.record == first.record


# Again: resumed, and replayed.

EVERYTHING = {
    "triggers": [SLOW, partial(spike, factor=2.0, window=2), odd_fifths],
    "target": "best",
    "metric": ACCURACY,
    "rollback": True,
    "cooldown": 2,
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {}, optional={ACCURACY: st.sampled_from([0.1, 0.2, math.nan]), "kl/mean": st.sampled_from([0.1, 1.0, math.inf])}
    ),
    max_size=24,
)


@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS, cut=st.integers(0, 24), past=st.integers(0, 3), given=st.sampled_from([EVERYTHING, {"triggers": [SLOW]}])
)
def test_a_resumed_run_decides_as_if_it_had_never_stopped(tmp_path_factory, rows, cut, past, given):
    """It is saved after ``cut`` steps and killed ``past`` steps later, perhaps with resets in between."""
    folder = tmp_path_factory.mktemp("resumed")
    whole = Steps(folder / "whole").go(ProRL(**given), rows)
    part, hook = Steps(folder / "part"), ProRL(**given)
    part.go(hook, rows[:cut])
    torch.save(hook.state_dict(), folder / "hook.pt")
    saved = deepcopy(part.state.policy), part.state.step, len(part.log), len(part.anchors), len(part.restarts)
    for row in rows[cut : cut + past]:
        part.go(hook, [row])
    part.state.policy, part.state.step, log, anchors, restarts = saved
    del part.log[log:], part.anchors[anchors:], part.restarts[restarts:]
    part.state.metrics = {}  # another process
    hook = ProRL(**given)
    hook.load_state_dict(torch.load(folder / "hook.pt", weights_only=False))
    part.go(hook, rows[cut:])
    for name in ("resets", "anchors", "restarts", "record"):
        assert getattr(part, name) == getattr(whole, name)
    assert torch.equal(part.state.policy.weight, whole.state.policy.weight)


def test_an_evaluation_that_was_made_up_for_is_seen(steps):
    """Ctrl-C cut the evaluation of the last step short; the resumed run makes it before this hook starts."""
    hook = ProRL(triggers=[SLOW])
    steps.go(hook, [0.5, None])
    steps.state.metrics = {ACCURACY: 0.9}
    hook.on_start(steps.state)
    assert hook._history[-1][ACCURACY] == 0.9


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, given=st.sampled_from([EVERYTHING, {"triggers": [SLOW]}]))
def test_decisions_are_replayed_from_the_metrics_alone(tmp_path_factory, rows, given):
    from hone.hooks import jsonl

    folder = tmp_path_factory.mktemp("replayed")
    run = Steps(folder / "run").go(ProRL(**given), rows)
    jsonl.append(folder / "metrics.jsonl", run.log)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = replay(metrics, ProRL(**given))
    assert [reset._asdict() for reset in found] == [{name: row[name] for name in Reset._fields} for row in run.record]
    assert [reset.step for reset in found] == run.resets


def test_a_resumed_run_forgets_the_record_of_what_it_will_do_again(steps):
    hook = ProRL(triggers=[odd_fifths])
    steps.go(hook, [None] * 7)
    saved = hook.state_dict()
    steps.go(hook, [None] * 5)
    assert [row["step"] for row in steps.record] == [5, 10]
    hook.load_state_dict(saved)
    steps.state.step = 7
    hook.on_start(steps.state)
    assert [row["step"] for row in steps.record] == [5]
    steps.state.step = 0
    hook.on_start(steps.state)
    assert not (steps.state.folder / "resets.jsonl").exists()


def test_triggers_see_neither_times_nor_their_own_doing(steps):
    """Or a decision would differ on another machine, or in a replay, where the step's own line is complete."""
    seen = []

    def curious(history):
        seen.append(sorted(history[-1]))
        return "always"

    hook = ProRL(triggers=[curious])
    steps.go(hook, [{"time/step": 1.0, "kl/mean": math.nan}, {"kl/mean": 0.5}])
    live = seen[:]
    assert live == [[ACCURACY, "step"], ["loss", "step"], ["kl/mean", "loss", "step"]]
    replay(steps.log, hook)
    assert seen == live + live


def test_a_replay_leaves_the_hook_alone_and_tries_other_settings(steps):
    hook = ProRL(triggers=[SLOW])
    steps.go(hook, [0.1, 0.5, 0.5, 0.4, 0.4, 0.3])
    before = hook.state_dict()
    assert [reset.step for reset in replay(steps.log, hook)] == steps.resets == [4]
    assert replay(steps.log, ProRL(triggers=[partial(every, steps=6)]))[0] == (6, "every", "6 steps have passed", 6)
    assert hook.state_dict() == before


# In a real run.

PENALTY = {"policy_gradient": {"penalties": [{"kl_penalty": {"coefficient": 0.01, "estimator": "k2"}}]}}
LORA = {"rank": 2}
BOTH = pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])


class Late(Spy):
    reads_evaluations = True


@pytest.fixture
def fit(tiny_model_path, tmp_path):
    """``fit(name="run", resume=False, lora=None, **settings) -> Run``, under a KL penalty."""

    def trainer(name="run", *, lora=None, hooks=(), **changes):
        model = {"path": tiny_model_path, "dtype": "float32", "lora": lora}
        log = {"log": {"tensorboard": False}}
        values = {"model": model, "objective": PENALTY, "hooks": [*hooks, log]} | changes
        return hone.Trainer(hone.Config(**parts.settings(tiny_model_path, tmp_path / name, **values)))

    def fit(name="run", *, resume=False, **changes):
        return trainer(name, **changes).fit(resume=resume, allow=("hooks",))

    fit.trainer = trainer
    return fit


def clone(state):
    """Nested state, its tensors copied."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    return {name: clone(value) for name, value in state.items()} if isinstance(state, dict) else deepcopy(state)


@BOTH
def test_the_divergence_is_zero_after_a_reset_and_before_the_next_update(fit, lora):
    """A step logs the divergence before its update: that of the step behind a reset is 0, exactly."""
    run = fit(lora=lora, steps=8, hooks=[{"prorl": {"triggers": [{"every": {"steps": 3}}]}}])
    drift = run.series("kl/mean")[1]
    assert [row["step"] for row in run.metrics if row["reset/happened"]] == [3, 6]
    assert (drift[3], drift[6]) == (0.0, 0.0)
    assert all(drift[i] > 1e-7 for i in (1, 2, 4, 5, 7))
    assert (run.series("loss/kl_penalty")[1][[3, 6]] == 0).all()


@BOTH
@pytest.mark.parametrize("given", [{}, {"clear_optimizer": False}, {"restart_schedule": True}])
def test_what_a_reset_leaves_and_what_it_forgets(fit, lora, given):
    """Seen by hooks right before and right behind it, with the same draws by both."""
    seen = []

    def look(state):
        learner = trainer.learner
        drawn = state.play([Task("probe", [{"role": "user", "content": "x"}])], 3, hone.SamplingParams(max_tokens=6))
        moments = clone(learner.optimizer.state_dict()["state"])
        lr = learner.scheduler.get_last_lr()[0]
        sampled = [(t.segments[-1].actions, t.segments[-1].logprobs, t.version) for t in drawn[0]]
        seen.append(SimpleNamespace(policy=clone(state.policy.state_dict()), moments=moments, lr=lr, sampled=sampled))

    before, behind = Late(at={3: look}), Late(at={3: look})
    reset = {"prorl": {"triggers": [{"at": {"steps": [3]}}], **given}}
    course = {"lr": 1e-2, "schedule": "linear", "warmup_steps": 1}
    trainer = fit.trainer(lora=lora, steps=6, optimizer=course, hooks=[before, reset, behind])
    run = trainer.fit()
    one, two = seen
    assert same(one.policy, two.policy)
    assert one.sampled == two.sampled
    assert one.moments
    assert two.moments == {} if given.get("clear_optimizer", True) else same(two.moments, one.moments)
    # The course: one step of warm-up, then linear down to 0 behind step 6, or anew over the 3 steps that remain.
    plain, anew = [0.0, 1.0, 0.8, 0.6, 0.4, 0.2], [0.0, 1.0, 0.8, 0.0, 1.0, 0.5]
    expected = anew if "restart_schedule" in given else plain
    assert run.series("lr")[1].tolist() == pytest.approx([1e-2 * factor for factor in expected])


@BOTH
def test_nothing_but_the_reference_changes(fit, lora):
    """With a penalty too small to count, and the optimiser kept, training goes on as if nothing had been reset.

    Answers, old log-probabilities and the ratios of several mini-batches are those of the policy alone.
    """
    slight = {"policy_gradient": {"penalties": [{"kl_penalty": {"coefficient": 1e-30, "estimator": "k2"}}]}}
    common = {"lora": lora, "steps": 4, "objective": slight, "update": {"minibatches": 2}, "gate": "everything"}
    plain = fit("plain", **common)
    reset = fit(
        "reset", **common, hooks=[{"prorl": {"triggers": [{"at": {"steps": [1, 3]}}], "clear_optimizer": False}}]
    )
    for name in ("reward/mean", "ratio/mean", "ratio/max", "mismatch/abs", "entropy/mean"):
        assert reset.series(name)[1].tolist() == plain.series(name)[1].tolist()
    assert reset.series("ratio/max")[1].max() > 1.0
    assert list(reset.rollouts) == list(plain.rollouts)
    assert reset.series("kl/mean")[1][1] < plain.series("kl/mean")[1][1]


@BOTH
def test_groups_that_waited_see_the_new_reference(tiny_policy, make_group, score_groups, lora):
    policy = tiny_policy(lora=lora)
    reference, groups = policy.frozen_copy(), [make_group(), make_group(seed=1)]
    learner = Learner(policy, PolicyGradient(), OptimizerConfig(), UpdateConfig(), steps=1, temperature=1.0)

    def annotated():
        learner.annotate(groups, reference)
        return [s.reference_logprobs for group in groups for t in group for s in t.segments if s.train]

    stale = annotated()
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.1
    policy.advance()
    reference.load_state_dict(policy.state_dict())
    fresh = annotated()
    assert all(one != other for one, other in zip(stale, fresh, strict=True))
    now = [tuple(values) for values in score_groups(policy, groups)]
    assert [pytest.approx(values) for values in now] == fresh


BY_PLATEAU = {"triggers": [{"plateau": {"metric": "eval/letters/accuracy", "patience": 1, "min_delta": 0.5}}]}
TO_BEST = {"triggers": [{"at": {"steps": [3, 5]}}], "target": "best", "metric": "reward/mean", "rollback": True}


@BOTH
@pytest.mark.parametrize("reset", [BY_PLATEAU, TO_BEST, {"triggers": [{"at": {"steps": [1, 3]}}]}])
def test_a_resumed_run_has_the_reset_reference(fit, lora, reset):
    """Killed behind its checkpoint of step 4, and resumed: with one, two or no resets on either side."""
    common = {
        "lora": lora,
        "steps": 7,
        "checkpoint": {"every": 4},
        "update": {"minibatches": 2},
        "optimizer": {"lr": 1e-2, "schedule": "cosine"},
    }

    def heldout():
        return {"letters": {"tasks": Letters(), "items": 2, "every": 2}}

    whole = fit("whole", hooks=[{"prorl": reset}], eval=heldout(), **common)
    crash = Late(at={6: lambda state: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        fit("part", hooks=[{"prorl": reset}, crash], eval=heldout(), **common)
    hook = build("hook", {"prorl": reset})
    part = fit("part", resume=True, hooks=[hook], eval=heldout(), **common)
    one, two = (checkpoint.load(checkpoint.latest(run.folder)) for run in (whole, part))
    assert one["reference"]
    assert same(one, two)
    resets = [json.loads(line) for line in (whole.folder / "resets.jsonl").read_text().splitlines()]
    assert len(resets) >= 2
    assert (part.folder / "resets.jsonl").read_text() == (whole.folder / "resets.jsonl").read_text()
    for name in ("kl/mean", "reset/count", "reward/mean"):
        assert part.series(name)[1].tolist() == whole.series(name)[1].tolist()
    found = [reset._asdict() for reset in replay(whole.metrics, hook)]
    assert found == [{name: row[name] for name in Reset._fields} for row in resets]


def test_stages_and_resets_fall_together(fit):
    """As in the paper, where a reset goes with a change of the number of siblings."""
    reset = {"prorl": {"triggers": [{"at": {"steps": [2]}}]}}
    run = fit(steps=3, gate="everything", stages={2: {"siblings": 5, "sampling.max_tokens": 3}}, hooks=[reset])
    assert [len(run.rollouts.at(step)) for step in (1, 2, 3)] == [6, 6, 10]
    assert run.series("reset/happened")[1].tolist() == [0, 1, 0]
    assert run.metrics[2]["kl/mean"] == 0.0


# With other parts.


def retried(policy):
    """A trajectory as reflect-retry makes it: of four segments that are not the prompt, the reflection is trained."""
    given, own = partial(Segment, source="given"), partial(Segment, source="policy")
    task = Task("t", [])
    segments = [
        given("prompt", actions=(1, 2, 3)),
        own("attempt", actions=(4, 5), logprobs=(-1.0, -1.0)),
        given("turn", actions=(6,)),
        own("reflection", actions=(7, 8, 9), logprobs=(-1.0, -1.0, -1.0), train=True),
        given("turn", actions=(10,)),
        own("retry", actions=(11, 12), logprobs=(-1.0, -1.0)),
    ]
    return [Group(task, [Trajectory(task, segments, reward=1.0, advantage=1.0)])]


def with_reference(policy, reference, groups):
    [batch] = collate.batches(groups, policy, tokens=1000, temperature=1.2)
    batch.reference_logprobs = reference.score(batch).logprobs
    return batch


def test_the_divergence_is_counted_on_trained_segments_alone(tiny_policy):
    policy = tiny_policy()
    reference = policy.frozen_copy()
    with torch.no_grad():
        for weight in policy.parameters():
            weight *= 1.1
    batch = with_reference(policy, reference, retried(policy))
    objective = PolicyGradient(penalties=[partial(kl_penalty, coefficient=1.0, estimator="k2")])
    loss = objective(policy, batch)
    terms = k2(policy.score(batch).logprobs, batch.reference_logprobs)
    assert int(batch.mask.sum()) == int((terms != 0).sum()) == 3
    assert loss.metrics["loss/kl_penalty"] == pytest.approx((terms.sum().item(), 3.0))


def test_weights_of_steps_leave_the_divergence_alone(tiny_policy, make_group):
    """A mask of high-entropy steps multiplies the surrogate; where it keeps nothing, the penalty is what is left."""
    policy = tiny_policy()
    reference = policy.frozen_copy()
    with torch.no_grad():
        for weight in policy.parameters():
            weight *= 1.1
    batch = with_reference(policy, reference, [make_group()])
    penalty = partial(kl_penalty, coefficient=0.3)
    loss = PolicyGradient(weights=[lambda scores, batch: torch.zeros_like(scores.logprobs)], penalties=[penalty])(
        policy, batch
    )
    assert loss.total.item() == pytest.approx(penalty(policy.score(batch), batch).sum().item(), rel=1e-5)
    assert loss.weight == 9


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=8))
def test_no_group_without_variance_passes_dynamic_sampling(rewards):
    task = Task("t", [])
    group = Group(task, [Trajectory(task, [], reward=reward) for reward in rewards])
    assert informative(group) == (len(set(rewards)) > 1)
    if sum(rewards) in (0.0, float(len(rewards))):
        assert not informative(group)  # the paper's rule: an accuracy of exactly 0 or 1


@given(st.floats(0.1, 100), st.permutations([0, 1, 2, 3]))
def test_domains_do_not_mix(scale, order):
    """The range of one domain's rewards, or the order of prompts, changes no other group's advantages."""

    def group(name, rewards):
        task = Task(name, [])
        return Group(task, [Trajectory(task, [], reward=reward) for reward in rewards])

    code, others = [0.0, 0.4, 0.9], [("math", [0.0, 1.0, 1.0]), ("logic", [0.1, 0.1, 0.3]), ("if", [0.5, 0.0, 0.0])]
    alone, together = [], [group("code", [scale * r for r in code]), *(group(*other) for other in others)]
    for name, rewards in others:
        alone.append(group(name, rewards))
        zscore(alone[-1:])
    zscore([together[i] for i in order])
    for one, other in zip(alone, together[1:], strict=True):
        assert [t.advantage for t in one] == [t.advantage for t in other]
