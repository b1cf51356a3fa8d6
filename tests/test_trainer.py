"""The loop from end to end on tiny real models: learning, repeating, resuming, stopping, failing."""

import asyncio
import json
import logging
import signal
import threading
from collections import Counter
from pathlib import Path

import loop_parts as parts
import psutil
import pytest
from loop_parts import Letters, Spy, same

import hone
from hone.envs.single_turn import SingleTurn

METRICS = {
    "step", "reward/mean", "reward/std", "groups/kept", "groups/dropped", "tokens/sampled", "tokens/trained",
    "length/mean", "length/truncated", "loss", "grad_norm", "entropy/mean", "ratio/mean", "ratio/max", "clip/fraction",
    "kl/mean", "mismatch/mean", "mismatch/max", "time/sample", "time/verify", "time/update", "time/step",
    "memory/sample", "memory/update",
}  # fmt: skip
PLAIN_LOG = {"log": {"tensorboard": False}}


@pytest.fixture
def fit(tiny_model_path, tmp_path):
    """``fit(name="run", resume=False, **settings) -> Run``: trains the tiny Llama, in ``tmp_path / name``."""

    def fit(name="run", *, resume=False, allow=("settings",), **changes):
        return make(name, **changes).fit(resume=resume, allow=allow)

    def make(name="run", **changes):
        model = changes.pop("model_path", tiny_model_path)
        return hone.Trainer(hone.Config(**parts.settings(model, tmp_path / name, **changes)))

    fit.trainer = make
    return fit


def timeless(rows):
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "memory/"))} for row in rows]


def saved(run, step=None):
    """The newest checkpoint's state, or that of a step."""
    from hone import checkpoint

    path = checkpoint.latest(run.folder) if step is None else run.folder / "checkpoints" / f"step-{step}"
    return checkpoint.load(path)


def workers():
    """Child processes other than multiprocessing's own."""
    return [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


# Learning, and what a run leaves.


@pytest.fixture(scope="module")
def learned(tiny_model_path, tmp_path_factory):
    config = parts.settings(
        tiny_model_path,
        tmp_path_factory.mktemp("runs") / "learned",
        verifier=parts.letter_e,
        steps=25,
        prompts=4,
        siblings=8,
        eval={"letters": {"tasks": Letters(), "items": 6, "every": 10}, "end": {"tasks": Letters(), "items": 2}},
        checkpoint={"every": 10, "keep": 2},
        hooks=[],
    )
    return hone.Trainer.from_config(hone.Config(**config)).fit()


def test_a_tiny_model_learns_from_scratch(learned):
    rewards = [row["reward/mean"] for row in learned.metrics if "reward/mean" in row]
    assert max(rewards[:3]) < 0.1
    assert min(rewards[-3:]) > 0.6
    accuracy = learned.series("eval/letters/accuracy")
    assert accuracy[0].tolist() == [0, 10, 20, 25]
    assert accuracy[1][-1] > accuracy[1][0] + 0.5
    assert learned.series("eval/end/accuracy")[0].tolist() == [0, 25]


def test_every_metric_has_its_name(learned):
    assert METRICS - set().union(*learned.metrics) == set()
    updated = [row for row in learned.metrics if row.get("groups/kept")]
    assert updated
    for row in updated:
        assert row.keys() >= METRICS
        assert all(row[name] is not None for name in METRICS)
        assert row["groups/kept"] + row["groups/dropped"] == 4
        assert row["tokens/sampled"] == row["length/mean"] * 32
        assert row["tokens/trained"] <= row["tokens/sampled"]
        assert row["ratio/mean"] == row["ratio/max"] == 1.0  # on-policy, exactly
        assert row["mismatch/max"] < 1e-4
        assert row["time/sample"] + row["time/update"] <= row["time/step"]
        assert 100 < row["memory/sample"] < 20_000  # MiB, of a process that has torch
        assert 100 < row["memory/update"] < 20_000


def test_what_a_run_leaves(learned):
    folder = learned.folder
    left = {path.name for path in folder.iterdir()}
    assert left == {"config.yaml", "metrics.jsonl", "rollouts.jsonl", "tensorboard", "evals", "checkpoints"}
    assert [row["step"] for row in learned.metrics] == list(range(26))
    assert [path.name for path in learned.checkpoints] == ["step-20", "step-25"]
    assert hone.load_config(folder / "config.yaml").dump() == (folder / "config.yaml").read_text()
    counts = Counter(row["step"] for row in learned.rollouts)
    assert counts == dict.fromkeys(range(1, 26), 32)
    row = learned.rollouts[0]
    assert row["segments"][1]["tokens"] <= 5
    assert set(row) >= {"task", "segments", "reward", "parts", "advantage", "stop", "version", "error"}
    versions = {row["step"]: row["version"] for row in learned.rollouts}
    updates = 0
    for row in learned.metrics[1:]:
        assert versions[row["step"]] == updates
        updates += row["groups/kept"] > 0
    assert list(folder.glob("tensorboard/events.*"))


def test_the_checkpoint_loads_as_a_model(learned):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = learned.checkpoints[-1]
    model = AutoModelForCausalLM.from_pretrained(path)
    trained = saved(learned)["policy"]
    assert all(torch.equal(weight, trained[name]) for name, weight in model.named_parameters())
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "z"}], add_generation_prompt=True)["input_ids"]
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)[0, len(prompt) :]
    assert tokenizer.decode(answer).count("e") >= 3


def test_the_checkpoint_of_adapters_loads_in_both_forms(fit, tiny_model_path):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora = {"path": tiny_model_path, "dtype": "float32", "lora": {"rank": 2, "save": "both"}}
    trainer = fit.trainer(model=lora, steps=2)
    [path] = trainer.fit().checkpoints
    ids = torch.arange(1, 9)[None]
    own = trainer.policy.model(ids).logits
    merged, adapter = (
        AutoModelForCausalLM.from_pretrained(path),
        AutoPeftModelForCausalLM.from_pretrained(path / "adapter"),
    )
    AutoTokenizer.from_pretrained(path)
    assert torch.allclose(merged(ids).logits, own, atol=1e-4)
    assert torch.allclose(adapter(ids).logits, own, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)(ids).logits
    assert not torch.allclose(own, base, atol=1e-3)


# The same again.


def test_the_seed_decides_everything(fit):
    runs = [fit("one"), fit("two"), fit("other", seed=1)]
    assert timeless(runs[0].metrics) == timeless(runs[1].metrics) != timeless(runs[2].metrics)
    assert list(runs[0].rollouts) == list(runs[1].rollouts)
    states = [saved(run) for run in runs]
    assert same(states[0], states[1])
    assert not same(states[0]["policy"], states[2]["policy"])


def test_one_config_can_train_twice(fit, tmp_path):
    trainer = fit.trainer("one", eval={"letters": {"tasks": Letters(), "items": 2}})
    first = trainer.fit()
    trainer.config.folder = str(tmp_path / "two")
    second = hone.Trainer(trainer.config).fit()
    assert timeless(first.metrics) == timeless(second.metrics)
    assert list(first.rollouts) == list(second.rollouts)
    assert trainer.config.tasks.cursor == 0


def test_a_task_that_comes_again_draws_other_noise(fit):
    """Within a round, between rounds and between steps; no group is kept, so the weights stay as they are."""
    drawn = []

    def collect(state):
        drawn.extend(tuple(parts.actions(trajectory)) for group in state.groups for trajectory in group)

    spy = Spy(at={1: collect, 2: collect})
    fit(tasks=Letters(kinds=1), verifier=parts.nothing, steps=2, prompts=3, max_rounds=2, hooks=[spy, PLAIN_LOG])
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 3 * 3


PLAIN = {"tasks": Letters}
EVERYTHING = {
    "tasks": Letters,
    "objective": {"policy_gradient": {"penalties": [{"kl_penalty": {"coefficient": 0.1}}]}},
    "shapers": [{"kl_reward": {"coefficient": 0.1}}],
    "update": {"minibatches": 2, "epochs": 2},
    "optimizer": {"lr": 1e-2, "schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1},
    "max_rounds": 2,
    "eval": {"letters": {"tasks": Letters, "items": 2, "every": 2}},
}


def fresh(settings):
    """The settings, with task sources of their own."""
    if isinstance(settings, dict):
        return {name: fresh(value) for name, value in settings.items()}
    return settings() if isinstance(settings, type) else settings


def crash(state):
    raise ZeroDivisionError("power cut")


@pytest.mark.parametrize("settings", [PLAIN, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("end", ["interrupt", "crash"])
def test_a_resumed_run_ends_as_if_it_had_never_stopped(fit, settings, end):
    def hooks(spy):
        return [spy, PLAIN_LOG]

    common = {"steps": 6, "checkpoint": {"every": 2}}
    whole = fit("whole", hooks=hooks(Spy()), **common, **fresh(settings))
    if end == "interrupt":
        part = fit("part", hooks=hooks(Spy(at={3: parts.interrupt})), **common, **fresh(settings))
        assert part.steps == 3
    else:
        with pytest.raises(ZeroDivisionError):
            fit("part", hooks=hooks(Spy(at={5: crash})), **common, **fresh(settings))
    spy = Spy()
    resumed = fit("part", resume=True, hooks=hooks(spy), **common, **fresh(settings))
    assert spy.told[0] == ("on_start", 3 if end == "interrupt" else 4)
    assert same(saved(resumed), saved(whole))
    assert timeless(resumed.metrics) == timeless(whole.metrics)
    assert list(resumed.rollouts) == list(whole.rollouts)
    assert spy.kept["steps"] == 6
    for name in whole.evaluations:
        assert [list(e.rollouts) for e in whole.evaluations[name].values()] == [
            list(e.rollouts) for e in resumed.evaluations[name].values()
        ]


def test_a_run_can_be_prolonged_with_more_hooks(fit):
    fit(steps=2)
    spy = Spy()
    run = fit(steps=3, resume=True, hooks=[spy, PLAIN_LOG], eval={"late": {"tasks": Letters(), "items": 2}})
    assert [step for _, step in spy.told] == [2, 3, 3]
    assert [row["step"] for row in run.metrics] == [1, 2, 3]
    assert "eval/late/accuracy" in run.metrics[-1]
    assert "eval/late/accuracy" not in run.metrics[1]


def test_hooks_may_keep_any_plain_state(fit):
    state = {"pair": (1, 2.5), "seen": {3, 4}, "queue": Counter("ab"), "raw": b"x"}
    fit(steps=1, hooks=[Spy(kept=state), PLAIN_LOG])
    spy = Spy()
    fit(steps=1, resume=True, hooks=[spy, PLAIN_LOG])
    assert spy.kept == {**state, "steps": 1}


def test_a_state_that_is_no_plain_data_ends_a_run_at_its_start(fit, tmp_path):
    spy = Spy(kept={"where": [{"path": Path("x")}]})
    with pytest.raises(TypeError, match=r"^hooks\.Spy 1\.where\[0\]\.path is a pathlib\.\S+: .* plain data only"):
        fit(hooks=[spy, PLAIN_LOG])
    assert spy.told == [("on_start", 0), ("on_end", 0)]
    assert not (tmp_path / "run").exists()


def test_what_a_hook_does_to_the_tasks_is_saved(fit):
    def skip(state):
        trainer.config.tasks.cursor = 20

    trainer = fit.trainer(steps=3, hooks=[Spy(at={2: skip, 3: parts.interrupt}), PLAIN_LOG], checkpoint={"every": 2})
    run = trainer.fit()
    assert {row["task"] for row in run.rollouts.at(3)} == {"letter-20", "letter-21"}
    assert saved(run, 2)["tasks"] == {"cursor": 20}


# Ctrl-C.


def untouched():
    """Whether Ctrl-C is what it was, and no process is left behind."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler and workers() == []


def test_ctrl_c_while_sampling_undoes_the_step(fit):
    hanging = parts.Interrupting("letter-4", SingleTurn())
    run = fit(steps=4, environment=hanging)
    assert untouched()
    assert run.steps == 2
    assert saved(run)["step"] == 2
    assert saved(run)["tasks"] == {"cursor": 4}
    resumed = fit(resume=True, steps=4)
    assert [row["step"] for row in resumed.metrics] == [1, 2, 3, 4]
    assert {row["task"] for row in resumed.rollouts.at(3)} == {"letter-4", "letter-5"}


def heldouts():
    return {
        "letters": {"tasks": Letters(), "items": 2, "every": 2},
        "ends": {"tasks": Letters(), "items": 1, "verifier": parts.nothing},
    }


def test_an_evaluation_that_is_due_is_made_before_anything_else(fit, monkeypatch):
    fit(steps=4, hooks=[Spy(at={2: parts.interrupt}), PLAIN_LOG], eval=heldouts())
    spy = Spy(at={3: crash})
    with pytest.raises(ZeroDivisionError):
        fit(steps=4, resume=True, hooks=[spy, PLAIN_LOG], eval=heldouts())
    played = []
    from hone.collect import Collector

    plain = Collector.play
    monkeypatch.setattr(Collector, "play", lambda self, tasks, *rest: played.append(1) or plain(self, tasks, *rest))
    run = fit(steps=2, resume=True, eval=heldouts())  # it has been saved since: nothing is due now
    assert played == []
    assert run.series("eval/letters/accuracy")[0].tolist() == [0, 2]


@pytest.mark.parametrize("step", [0, 2, 4])
def test_ctrl_c_during_an_evaluation_ends_it(fit, step):
    class Late(Spy):
        """Strikes in the middle of things: the evaluation after it sees a Ctrl-C that came earlier."""

        def on_start(self, state):
            super().on_start(state)
            self.at.get(state.step, bool)(state)

    run = fit(steps=4, hooks=[Late(at={step: parts.interrupt}), PLAIN_LOG], eval=heldouts())
    assert untouched()
    assert run.steps == saved(run)["step"] == step
    evaluated = [row["step"] for row in run.metrics if "eval/letters/accuracy" in row]
    assert evaluated == list(range(0, step, 2))
    whole = fit("whole", steps=4, eval=heldouts())
    for _ in range(2):
        run = fit(steps=4, resume=True, eval=heldouts())
        assert timeless(run.metrics) == timeless(whole.metrics)  # what was due is in the row of its step
        assert run.series("eval/letters/accuracy")[0].tolist() == [0, 2, 4]
    for name, found in whole.evaluations.items():
        assert list(run.evaluations[name]["last"].rollouts) == list(found["last"].rollouts)
    assert same(saved(run)["hooks"], saved(whole)["hooks"])


def test_a_second_ctrl_c_ends_the_run_at_once(fit):
    def twice(state):
        parts.interrupt()
        parts.interrupt()

    spy = Spy(at={2: twice})
    with pytest.raises(KeyboardInterrupt):
        fit(hooks=[spy, PLAIN_LOG])
    assert untouched()
    assert spy.told[-1] == ("on_end", 2)


def test_the_same_trainer_can_go_on_after_ctrl_c(fit):
    trainer = fit.trainer(hooks=[Spy(at={1: parts.interrupt}), PLAIN_LOG])
    assert trainer.fit().steps == 1
    run = trainer.fit(resume=True)
    assert [row["step"] for row in run.metrics] == [1, 2, 3]
    assert timeless(run.metrics) == timeless(fit("whole").metrics)


def test_a_run_may_start_in_another_thread(fit):
    before = signal.getsignal(signal.SIGINT)
    found = []
    thread = threading.Thread(target=lambda: found.append(fit()))
    thread.start()
    thread.join(60)
    assert found[0].steps == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_may_start_where_an_event_loop_runs(fit):
    async def cell():
        run = fit()
        await asyncio.sleep(0)
        return run

    assert asyncio.run(cell()).steps == 3


# Gates, ends and failures.


def test_dropped_groups_are_replaced_up_to_a_bound(fit):
    def picky(group):
        return group.task.id in {"letter-3", "letter-4", "letter-12"}

    run = fit(gate=picky, max_rounds=3, prompts=2, steps=3)
    rows = {row["step"]: row for row in run.metrics}
    played = {step: sorted({int(r["task"][7:]) for r in run.rollouts.at(step)}) for step in rows}
    # Round one draws 0 and 1, round two 2 and 3, round three one more; then nothing of 5..10 is kept.
    assert played[1] == [0, 1, 2, 3, 4]
    assert (rows[1]["groups/kept"], rows[1]["groups/dropped"]) == (2, 3)
    assert played[2] == [5, 6, 7, 8, 9, 10]
    assert (rows[2]["groups/kept"], rows[2]["groups/dropped"]) == (0, 6)
    assert played[3] == [11, 12, 13, 14]
    assert (rows[3]["groups/kept"], rows[3]["groups/dropped"]) == (1, 3)
    kept = {row["task"] for row in run.rollouts if row["kept"]}
    assert kept == {"letter-3", "letter-4", "letter-12"}
    assert all((row["advantage"] is not None) == row["kept"] for row in run.rollouts)


def test_a_step_without_a_kept_group_changes_nothing(fit, tiny_model_path):
    run = fit(verifier=parts.nothing, steps=2, optimizer={"lr": 1e-2, "warmup_steps": 4})
    for row in run.metrics:
        assert (row["reward/mean"], row["reward/std"], row["groups/kept"]) == (0.0, 0.0, 0)
        assert row["tokens/trained"] == 0
        assert not row.keys() & {"loss", "grad_norm", "ratio/mean"}
    assert [row["lr"] for row in run.metrics] == [0.0, 0.0025]  # the schedule is of steps, updates or not
    from transformers import AutoModelForCausalLM

    start = dict(AutoModelForCausalLM.from_pretrained(tiny_model_path).named_parameters())
    assert same(saved(run)["policy"], {name: start[name] for name in saved(run)["policy"]})


@pytest.mark.parametrize(("limit", "steps", "last"), [(5, 3, 1), (4, 2, 2)])
def test_the_run_ends_with_its_tasks(fit, caplog, limit, steps, last):
    caplog.set_level(logging.INFO, "hone")
    heldout = {"end": {"tasks": Letters(), "items": 2}, "often": {"tasks": Letters(), "items": 2, "every": 2}}
    run = fit(tasks=Letters(limit=limit), steps=9, eval=heldout)
    assert run.steps == steps == saved(run)["step"]
    assert [row["step"] for row in run.metrics] == list(range(steps + 1))
    assert run.metrics[-1].get("groups/kept", 0) + run.metrics[-1]["groups/dropped"] == last
    assert run.series("eval/end/accuracy")[0].tolist() == [0, steps]
    assert run.series("eval/often/accuracy")[0].tolist() == sorted({0, 2, steps})
    assert "no more tasks" in caplog.text


def test_a_run_at_the_end_of_its_tasks_stays_where_it_is(fit):
    def left(run):
        return {path: (path.read_bytes(), path.stat().st_ino) for path in run.folder.rglob("*") if path.is_file()}

    fit(tasks=Letters(limit=4), steps=9, eval=heldouts(), hooks=[PLAIN_LOG, Spy()])
    before = left(hone.Run(fit.trainer().config.folder))
    spy = Spy()
    run = fit(tasks=Letters(limit=4), steps=9, resume=True, eval=heldouts(), hooks=[PLAIN_LOG, spy])
    assert spy.told == [("on_start", 2), ("on_end", 2)]
    settings = run.folder / "config.yaml"
    assert {p: v for p, v in left(run).items() if p != settings} == {p: v for p, v in before.items() if p != settings}
    more = fit(tasks=Letters(limit=5), steps=9, resume=True, eval=heldouts())  # the file has grown since
    assert [row["step"] for row in more.metrics] == [0, 1, 2, 3]


def test_a_source_without_tasks_is_refused_at_the_start(fit, tmp_path):
    with pytest.raises(ValueError, match=r"^tasks: the source has no tasks"):
        fit(tasks=Letters(limit=0))
    assert not (tmp_path / "run").exists()


def test_a_hook_that_stops_late_does_not_cost_the_last_evaluation(fit):
    class Late(Spy):
        reads_evaluations = True

    late = Late(at={2: lambda state: setattr(state, "stop", "enough")})
    run = fit(steps=9, hooks=[late, PLAIN_LOG], eval={"end": {"tasks": Letters(), "items": 2}})
    assert run.series("eval/end/accuracy")[0].tolist() == [0, 2]
    assert [row["step"] for row in run.metrics] == [0, 1, 2]


# Verdicts that fail.


def test_a_step_without_any_verdict_ends_the_run(fit, caplog):
    from hone.judging import VerificationError

    late = {"stages": {2: {"verifier": parts.broken}}, "steps": 4}
    told = (
        r"^step 3: no verdict on any of 6 answers; on 6 of them: LookupError: no such word\. The steps before: "
        r"saved in .*step-2$"
    )
    with pytest.raises(VerificationError, match=told):
        fit(**late)
    assert untouched()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [warning.partition(":")[0][:26] for warning in warnings[:3]] == ["no verdict on task 'letter"] * 3
    assert warnings[3:] == ["no verdict on 3 more answers either: LookupError"]
    run = hone.Run(fit.trainer().config.folder)
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert (saved(run)["step"], saved(run)["tasks"]) == (2, {"cursor": 4})
    mended = fit(steps=4, resume=True)
    assert timeless(mended.metrics) == timeless(fit("whole", steps=4).metrics)


def test_a_first_step_without_any_verdict_leaves_nothing(fit, tmp_path):
    from hone.judging import VerificationError

    with pytest.raises(VerificationError, match=r"^step 1: no verdict on any of 6 .* there are none$"):
        fit(verifier=parts.broken, eval={"end": {"tasks": Letters(), "items": 2}})
    assert not (tmp_path / "run").exists()


def test_a_bad_task_that_is_left_at_the_end_does_not_cost_the_run_its_end(fit):
    def judge(task, trajectory):
        return parts.low(task, trajectory) if task.id != "letter-2" else 1 / 0

    run = fit(steps=9, tasks=Letters(limit=3), verifier=judge, eval={"end": {"tasks": Letters(), "items": 2}})
    assert [row.get("verify/errors", 0) for row in run.metrics] == [0, 0, 3]
    assert run.series("eval/end/accuracy")[0].tolist() == [0, 2]


def test_one_verdict_is_enough_to_go_on(fit):
    assert fit(steps=1, prompts=2, verifier=parts.moody, verification={"workers": 1}).metrics[0]["verify/errors"] == 3


def test_a_verdict_that_fails_costs_its_trajectory_alone(fit, caplog):
    limits = {"workers": 3, "timeout": 1.0}
    run = fit(verifier=parts.moody, prompts=3, siblings=2, steps=1, verification=limits, gate="everything")
    failed = {row["task"]: row for row in run.rollouts if row["error"]}
    assert failed.keys() == {"letter-1", "letter-2"}
    assert "the reference is lost" in failed["letter-1"]["error"]
    assert "TimeoutError" in failed["letter-2"]["error"]
    for row in failed.values():
        assert row["reward"] is None
        assert row["advantage"] is None
        assert not row["kept"]
        assert repr(row["segments"][1]["text"]) in caplog.text
        assert repr(row["task"]) in caplog.text
    row = run.metrics[0]
    assert row["verify/errors"] == 4
    rewards = [r["reward"] for r in run.rollouts if r["reward"] is not None]
    assert row["reward/mean"] == pytest.approx(sum(rewards) / 2)
    assert row["tokens/trained"] == sum(r["segments"][1]["tokens"] for r in run.rollouts if r["kept"])


def test_a_failed_verdict_can_stop_the_run(fit, tmp_path):
    from hone.judging import VerificationError

    spy = Spy()
    stopping = {"verifier": parts.moody, "verification": {"workers": 1, "on_error": "stop"}}
    with pytest.raises(VerificationError, match=r"^step 1: .*letter-1.*reference is lost.*response was"):
        fit(hooks=[spy], **stopping)
    assert untouched()
    assert spy.told == [("on_start", 0), ("on_end", 0)]
    run = fit()  # nothing came of it, so its folder is free
    assert run.steps == 3
    stopping["stages"] = {2: {"verifier": parts.moody, "tasks": Letters()}}
    with pytest.raises(VerificationError, match=r"^step 3: .*saved in .*step-2$"):
        fit("late", **stopping | {"verifier": parts.low})
    assert saved(hone.Run(tmp_path / "late"))["step"] == 2


def test_an_exception_leaves_whole_steps_and_no_processes(fit, tmp_path):
    def broken(groups):
        raise ZeroDivisionError("an advantage of one's own")

    spy, after = Spy(at={1: lambda state: trainer.config.__dict__.update(advantage=broken)}), Spy()
    trainer = fit.trainer(hooks=[spy, after])
    with pytest.raises(ZeroDivisionError, match="of one's own"):
        trainer.fit()
    assert untouched()
    assert spy.told == after.told == [("on_start", 0), ("on_step", 1), ("on_end", 1)]
    run = hone.Run(tmp_path / "run")
    assert [row["step"] for row in run.metrics] == [1]
    assert {row["step"] for row in run.rollouts} == {1}


def test_a_hook_that_fails_at_the_end_leaves_the_others_theirs(fit):
    class Bad(Spy):
        def on_end(self, state):
            raise ZeroDivisionError("bad hook")

    spy = Spy()
    with pytest.raises(ZeroDivisionError, match="bad hook"):
        fit(hooks=[Bad(), spy, PLAIN_LOG], steps=1)
    assert spy.told[-1] == ("on_end", 1)
    assert untouched()


def test_a_failed_start_leaves_nothing(fit, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        fit(model={"path": "./nowhere"})
    assert not (tmp_path / "run").exists()
    assert untouched()
    with pytest.raises(ValueError, match="has no tasks"):
        fit(eval={"empty": {"tasks": Letters(limit=0)}})
    assert fit().steps == 3


@pytest.mark.parametrize("place", ["tasks", "stages.2.tasks", "eval.e.tasks"])
@pytest.mark.parametrize("rows", [None, [{"q": "a"}, {"no": "b"}], []], ids=["no file", "a bad row", "no rows"])
def test_what_cannot_be_read_ends_the_run_before_anything_is_loaded(fit, tmp_path, monkeypatch, place, rows):
    from hone.policies.causal_lm import CausalLM
    from hone.tasks.files import Files

    monkeypatch.setattr(CausalLM, "load", crash)
    path = tmp_path / "rows.jsonl"
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files, good = Files(path=str(path), prompt="{q}"), Letters()
    good.cursor = 7
    given = {
        "tasks": {"tasks": files},
        "stages.2.tasks": {"tasks": good, "stages": {2: {"tasks": files}}},
        "eval.e.tasks": {"tasks": good, "eval": {"e": {"tasks": files}}},
    }[place]
    told = "no file" if rows is None else r"rows.jsonl:2: prompt: " if rows else "no rows|none of its"
    with pytest.raises((OSError, ValueError), match=told):
        fit(**given)
    assert not (tmp_path / "run").exists()
    assert good.cursor == 7
    assert untouched()


def test_an_evaluation_alone_is_no_run(fit, tmp_path):
    heldout = {"end": {"tasks": Letters(), "items": 2}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    for hook in ([], [{"log": {"tensorboard": True}}]):
        with pytest.raises(ZeroDivisionError):
            fit(advantage=crash, eval=heldout, hooks=hook)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]

    def twice(state):
        parts.interrupt()
        parts.interrupt()

    class AtStart(Spy):
        reads_evaluations = True

        def on_start(self, state):
            twice(state)

    with pytest.raises(KeyboardInterrupt):
        fit(eval=heldout, hooks=[AtStart(), PLAIN_LOG])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert fit(eval=heldout).steps == 3
    with pytest.raises(FileExistsError, match="holds a run"):
        fit(eval=heldout)


def test_a_folder_with_a_run_is_refused(fit, tmp_path):
    run = fit(steps=1)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"run holds a run; resume it"):
        fit()
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to resume from in .*nowhere"):
        fit("nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_file_of_the_user_is_not_overwritten(fit, tmp_path):
    mine = tmp_path / "run" / "config.yaml"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match="would be overwritten"):
        fit()
    assert mine.read_text() == "mine"
    assert list(mine.parent.iterdir()) == [mine]


def test_a_resume_that_fails_leaves_the_run_as_it_was(fit):
    run = fit(steps=1)
    config = (run.folder / "config.yaml").read_bytes()
    with pytest.raises(FileNotFoundError):
        fit(steps=2, resume=True, model={"path": "./nowhere"})
    assert (run.folder / "config.yaml").read_bytes() == config
    assert fit(steps=2, resume=True).steps == 2


def test_two_runs_do_not_share_a_folder_of_their_own_choice(fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainers = [fit.trainer(folder=None, steps=1) for _ in range(2)]
    runs = [trainer.fit() for trainer in trainers]
    assert [str(run.folder) for run in runs] == ["runs/run-1", "runs/run-2"]


def test_a_hook_can_stop_the_run(fit):
    def stop(state):
        state.stop = "enough"

    first, second = Spy(at={2: stop}), Spy()
    run = fit(steps=9, hooks=[first, second, PLAIN_LOG], eval={"end": {"tasks": Letters(), "items": 2}})
    assert first.told == second.told == [("on_start", 0), ("on_step", 1), ("on_step", 2), ("on_end", 2)]
    assert run.steps == saved(run)["step"] == 2
    assert run.evaluations["end"]["last"].step == 2
    run = fit(steps=4, resume=True)
    assert run.steps == 4


def test_hooks_are_called_in_order_and_see_what_came_before(fit):
    calls = []

    class Adds:
        def __init__(self, name):
            self.name = name

        def on_start(self, state):
            calls.append(("start", self.name))

        def on_step(self, state):
            calls.append((self.name, "reward/mean" in state.metrics, state.metrics.get("added")))
            state.metrics["added"] = self.name

        def on_end(self, state):
            calls.append(("end", self.name))

        def state_dict(self):
            return {}

        load_state_dict = on_end

    run = fit(steps=1, hooks=[Adds("a"), Adds("b"), PLAIN_LOG])
    assert calls == [("start", "a"), ("start", "b"), ("a", True, None), ("b", True, "a"), ("end", "a"), ("end", "b")]
    assert run.metrics[0]["added"] == "b"


# What the parts are given.


def test_a_reference_is_kept_where_something_reads_it(fit):
    penalty = {"policy_gradient": {"penalties": [{"kl_penalty": {"coefficient": 0.01}}]}}
    for reading in ({"objective": penalty}, {"shapers": [{"kl_reward": {"coefficient": 0.01}}]}):
        trainer = fit.trainer(next(iter(reading)), **reading)
        run = trainer.fit()
        assert trainer.reference is not None
        drift = run.series("kl/mean")[1]
        assert drift[0] == pytest.approx(0.0, abs=1e-6)
        assert drift[1] > 1e-4
        assert drift[2] > drift[1]


def test_no_reference_is_kept_where_nothing_reads_it(fit, monkeypatch):
    from hone.policies.causal_lm import CausalLM

    monkeypatch.setattr(CausalLM, "frozen_copy", crash)
    trainer = fit.trainer(steps=1)
    trainer.fit()
    assert trainer.reference is None


def test_rewards_are_logged_as_judged_and_advantages_as_shaped(fit):
    def doubled(groups):
        for group in groups:
            for trajectory in group:
                trajectory.reward += 10.0 * (trajectory is group.trajectories[0])

    def first_wins(groups):
        for group in groups:
            for trajectory in group:
                trajectory.advantage = float(trajectory.reward > 5)

    run = fit(steps=1, shapers=[doubled], advantage=first_wins, gate="everything")
    assert run.metrics[0]["reward/mean"] <= 1
    assert [row["advantage"] for row in run.rollouts] == [1.0, 0.0, 0.0] * 2


def test_withdrawn_steps_do_not_count_as_trained(fit):
    run = fit(steps=1, shapers=["mask_truncated"], gate="everything")
    trained = [row["segments"][1]["tokens"] for row in run.rollouts if row["stop"] != "length"]
    assert run.metrics[0]["tokens/trained"] == sum(trained)
    assert run.metrics[0]["length/truncated"] == 1 - len(trained) / 6


def test_unjudged_siblings_of_a_kept_group_are_not_trained_on(fit):
    run = fit(steps=1, siblings=6, verifier=parts.fails_on_odd, gate="everything")
    judged = [row for row in run.rollouts if row["reward"] is not None]
    assert all(row["kept"] for row in run.rollouts)
    assert 2 <= len(judged) < 12
    assert run.metrics[0]["verify/errors"] == 12 - len(judged)
    assert run.metrics[0]["tokens/trained"] == sum(row["segments"][1]["tokens"] for row in judged)
    assert all((row["advantage"] is None) == (row["reward"] is None) for row in run.rollouts)


def test_a_run_of_no_steps(fit):
    run = fit(steps=0, eval={"end": {"tasks": Letters(), "items": 2}})
    assert run.steps == 0
    assert run.metrics[0]["eval/end/accuracy"] > 0


def test_metrics_are_strict_json(fit):
    run = fit(steps=1, hooks=[Spy(at={1: lambda state: state.metrics.update(odd=float("nan"))}), PLAIN_LOG])
    text = (run.folder / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert json.loads(text)["odd"] is None


def test_a_coefficient_of_zero_keeps_no_reference():
    from functools import partial

    from hone.math.divergence import kl_penalty
    from hone.math.shaping import kl_reward
    from hone.objectives.policy_gradient import PolicyGradient
    from hone.seats import reads_reference

    for coefficient, kept in ((0.0, False), (0.001, True)):
        penalty = partial(kl_penalty, coefficient=coefficient)
        assert reads_reference(PolicyGradient(penalties=[penalty])) is kept
        assert reads_reference(partial(kl_reward, coefficient=coefficient)) is kept
