import json
from itertools import count

import pytest
from pydantic import ValidationError

from hone.hooks.checkpoint import Checkpoint
from hone.hooks.evaluate import Evaluate
from hone.hooks.log import Log
from hone.seats import Hook, SamplingParams, State
from hone.types import Group, Score, Segment, Task, Trajectory


class Numbers:
    """An endless source that counts how many tasks were taken."""

    def __init__(self, end: int | None = None) -> None:
        self.counter = count() if end is None else iter(range(end))
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self) -> Task:
        number = next(self.counter)
        self.taken += 1
        return Task(f"n{number}", [{"role": "user", "content": str(number)}], answer=number)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state) -> None:
        pass


class Play:
    """Stands in for the trainer's play: remembers the calls; the reward is what ``rewards`` says, in turn."""

    def __init__(self, rewards=(1.0, 0.0)) -> None:
        self.calls, self.rewards = [], rewards

    def __call__(self, tasks, n, params, verify=None, environment=None) -> list[Group]:
        self.calls.append((list(tasks), n, params, verify))
        groups = []
        for index, task in enumerate(tasks):
            reward = self.rewards[index % len(self.rewards)]
            segments = [Segment("response", "policy", (1,) * (index + 1), (-1.0,) * (index + 1), "x")]
            stop = "length" if index == 0 else "eos"
            error = None if reward is not None else "ValueError: no"
            played = [Trajectory(task, list(segments), reward=reward, stop=stop, error=error) for _ in range(n)]
            groups.append(Group(task, played))
        return groups


def judge(task: Task, trajectory: Trajectory) -> Score:
    return Score(1.0)


def evaluation(**settings) -> Evaluate:
    return Evaluate(**{"name": "heldout", "tasks": Numbers(), "items": 4, "sampling": SamplingParams()} | settings)


def run(hook: Evaluate, state: State, start: int = 0, stop_at: int | None = None) -> list[int]:
    """The steps at which the hook evaluated, by the metrics that it left."""
    state.step, state.metrics = start, {}
    state.play = Play()
    hook.on_start(state)
    done = [start] if state.metrics else []
    while state.step < state.steps and not state.stop:
        state.step, state.metrics = state.step + 1, {}
        if state.step == stop_at:
            state.stop = "enough"
        hook.on_step(state)
        done += [state.step] if state.metrics else []
    hook.on_end(state)
    assert len(done) == len(state.play.calls)
    return done


def test_is_a_hook() -> None:
    assert isinstance(evaluation(), Hook)


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(0, 10, [0, 10]), (4, 10, [0, 4, 8, 10]), (5, 10, [0, 5, 10]), (50, 3, [0, 3]), (2, 0, [0])],
)
def test_schedule(state: State, every: int, steps: int, expected: list[int]) -> None:
    state.steps = steps
    assert run(evaluation(every=every), state) == expected


def test_a_resumed_run_does_not_evaluate_again_before_it_goes_on(state: State) -> None:
    hook = evaluation(every=4)
    assert run(hook, state, start=4) == [8, 10]
    assert hook.first == []


def test_a_run_that_is_stopped_is_evaluated_at_its_last_step(state: State) -> None:
    assert run(evaluation(), state, stop_at=3) == [0, 3]


class CutShort(Exception):
    """What playing raises when it is interrupted."""


def interrupted(*_) -> list[Group]:
    raise CutShort


def saved(hook: Evaluate) -> Evaluate:
    """The hook in another process."""
    again = evaluation(every=hook.every)
    again.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    return again


@pytest.mark.parametrize("step", [4, 10])
def test_an_evaluation_that_was_cut_short_is_made_when_the_run_goes_on(state: State, step: int) -> None:
    hook = evaluation(every=4)
    state.play = Play()
    hook.on_start(state)
    state.step, state.play = step, interrupted
    with pytest.raises(CutShort):
        hook.on_step(state)
    again = saved(hook)
    with pytest.raises(CutShort):
        again.on_start(state)
    again = saved(again)  # it stays due
    assert run(again, state, start=step) == [step, 8, 10][: 3 if step == 4 else 1]
    assert run(saved(again), state, start=10) == []
    assert again.first == []


def test_a_run_that_turns_out_to_be_at_its_end_is_evaluated_once(state: State) -> None:
    hook = evaluation(every=4)
    state.play = Play()
    for state.step in (4, 5):
        hook.on_step(state)
        hook.on_stop(state)
    assert len(state.play.calls) == 2
    saved(hook).on_stop(state)
    assert len(state.play.calls) == 2
    old = evaluation()
    old.load_state_dict({})  # of a run of an earlier version
    old.on_start(state)
    assert len(state.play.calls) == 2


def test_same_items_and_same_noise_each_time(state: State) -> None:
    tasks = Numbers()
    run(evaluation(tasks=tasks, every=2, siblings=3, verifier=judge), state)
    first, *others = state.play.calls
    assert [task.id for task in first[0]] == ["n0", "n1", "n2", "n3"]
    assert first[1] == 3
    assert first[3] is judge
    assert all(call == first for call in others)
    assert len(others) == 5
    assert tasks.taken == 4


def test_noise_depends_on_the_given_key_but_nothing_else_changes(state: State) -> None:
    params = []
    for seed in (1, 2, 1):
        run(evaluation(sampling=SamplingParams(seed=seed, temperature=0.5, stop=["\n"])), state)
        params.append(state.play.calls[0][2])
    assert params[0] == params[2]
    assert params[0].seed != params[1].seed
    assert (params[1].temperature, params[1].stop) == (0.5, ["\n"])


def test_measures(state: State) -> None:
    state.metrics, state.play = {"untouched": 1.0}, Play((1.0, 0.0, None, 0.5))
    evaluation().on_start(state)
    assert state.metrics == {
        "untouched": 1.0,
        "eval/heldout/accuracy": 0.5,  # of the three that were judged
        "eval/heldout/errors": 1.0,
        "eval/heldout/length": 2.5,
        "eval/heldout/truncated": 0.25,
    }


def graded(*rewards: list[float | None]):
    """A play that gives each task's siblings these rewards."""

    def play(tasks, n, params, verify=None, environment=None) -> list[Group]:
        segments = [Segment("response", "policy", (1,), (-1.0,), "x")]
        return [
            Group(task, [Trajectory(task, segments, reward=r, error=None if r is not None else "no") for r in own])
            for task, own in zip(tasks, rewards, strict=True)
        ]

    return play


def passed(state: State, *rewards: list[float | None]) -> dict[str, float]:
    state.metrics, state.play = {}, graded(*rewards)
    evaluation(items=len(rewards), siblings=len(rewards[0])).on_start(state)
    return {name.rpartition("@")[2]: value for name, value in state.metrics.items() if "pass@" in name}


def test_pass_at_k_by_hand(state: State) -> None:
    # 2 right of 6: 1 - C(4,2)/C(6,2) = 1 - 6/15, 1 - C(4,4)/C(6,4) = 1 - 1/15, and 1. None right: 0.
    found = passed(state, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6)
    assert found == pytest.approx({"2": 0.6 / 2, "4": (14 / 15) / 2, "6": 0.5})
    assert state.metrics["eval/heldout/accuracy"] == pytest.approx(1 / 6)
    assert state.metrics.keys() >= {"eval/heldout/pass@2", "eval/heldout/pass@4", "eval/heldout/pass@6"}


def test_only_full_rewards_pass(state: State) -> None:
    assert passed(state, [0.99, 0.5], [1.0, 0.0], [1.5, 0.0]) == pytest.approx({"2": 2 / 3})


def test_pass_at_k_leaves_unjudged_trajectories_out(state: State) -> None:
    # 1 right of 3 judged: pass@2 is 1 - C(2,2)/C(3,2); four of its answers were never judged. 1 right of 4: 1 - 3/6.
    found = passed(state, [1.0, 0.0, 0.0, None], [1.0, 0.0, 0.0, 0.0])
    assert found == pytest.approx({"2": (2 / 3 + 1 / 2) / 2, "4": 1.0})
    assert passed(state, [None, 1.0]) == {}


def test_without_siblings_there_is_no_pass_at_k(state: State) -> None:
    assert passed(state, [1.0], [0.0]) == {}


def test_without_errors_there_is_no_such_metric(state: State) -> None:
    state.play = Play()
    evaluation().on_start(state)
    assert "eval/heldout/errors" not in state.metrics


def test_without_any_verdict_there_is_no_accuracy(state: State) -> None:
    state.play = Play((None,))
    evaluation().on_start(state)
    assert "eval/heldout/accuracy" not in state.metrics
    assert state.metrics["eval/heldout/errors"] == 4


def test_keeps_the_groups_before_and_after(state: State) -> None:
    hook = evaluation(every=3)
    state.play = Play()
    hook.on_start(state)
    before = hook.last
    assert hook.first is before
    state.step = 3
    hook.on_step(state)
    assert hook.first is before
    assert hook.last is not before


def test_writes_the_trajectories_of_each_evaluation(state: State) -> None:
    run(evaluation(every=5), state)
    folder = state.folder / "evals" / "heldout"
    assert sorted(path.name for path in folder.iterdir()) == ["step-0.jsonl", "step-10.jsonl", "step-5.jsonl"]
    rows = [json.loads(line) for line in (folder / "step-5.jsonl").read_text().splitlines()]
    assert [(row["step"], row["task"], row["reward"]) for row in rows][:2] == [(5, "n0", 1.0), (5, "n1", 0.0)]
    assert [row["question"] for row in rows] == ["0", "1", "2", "3"]
    assert len(rows) == 4


def test_a_second_go_replaces_the_rows_and_forgets_later_ones(state: State) -> None:
    folder = state.folder / "evals" / "heldout"
    run(evaluation(every=5), state)
    state.steps = 7
    run(evaluation(), State(step=0, steps=7, folder=state.folder, policy=None), start=4)
    assert sorted(path.name for path in folder.iterdir()) == ["step-0.jsonl", "step-7.jsonl"]
    run(evaluation(), State(step=0, steps=0, folder=state.folder, policy=None))
    assert [path.name for path in folder.iterdir()] == ["step-0.jsonl"]
    assert len((folder / "step-0.jsonl").read_text().splitlines()) == 4


def test_a_short_source_gives_what_it_has_and_an_empty_one_is_an_error(state: State) -> None:
    run(evaluation(tasks=Numbers(2)), state)
    assert len(state.play.calls[0][0]) == 2
    with pytest.raises(ValueError, match=r"'heldout'.*no tasks"):
        run(evaluation(tasks=Numbers(0)), state)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_names_that_would_break_files_or_metrics_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        evaluation(name=name)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        evaluation(itmes=3)


def test_log_after_evaluate_has_both_evaluations(state: State) -> None:
    state.steps, state.play = 2, Play()
    hooks = [evaluation(), Log(tensorboard=False)]
    for hook in hooks:
        hook.on_start(state)
    for state.step in (1, 2):
        state.metrics = {"loss": 0.0}
        for hook in hooks:
            hook.on_step(state)
    lines = [json.loads(line) for line in (state.folder / "metrics.jsonl").read_text().splitlines()]
    assert [("eval/heldout/accuracy" in line) for line in lines] == [True, False, True]


def test_what_is_measured_late_is_added_to_the_line_of_its_step(state: State, tmp_path, monkeypatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read in the order of their numbers' digits: 100, which other tests may reach, before 99.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))

    def lines():
        return [json.loads(line) for line in (state.folder / "metrics.jsonl").read_text().splitlines()]

    log = Log()
    log.on_start(state)
    for state.step in (1, 2):
        state.metrics = {"loss": float(state.step), "odd": float("nan")}
        log.on_step(state)
    log.on_end(state)
    first = lines()[0]
    state.metrics = {"eval/e/accuracy": 0.5}
    resumed = Log()
    resumed.on_start(state)
    assert lines() == [first, {"step": 2, "loss": 2.0, "odd": None, "eval/e/accuracy": 0.5}]
    written = (state.folder / "metrics.jsonl").stat().st_mtime_ns
    resumed.on_stop(state)  # nothing new
    assert (state.folder / "metrics.jsonl").stat().st_mtime_ns == written
    state.metrics["eval/f/accuracy"] = 0.25
    resumed.on_stop(state)
    assert lines()[1]["eval/f/accuracy"] == 0.25
    state.step, state.metrics = 3, {"eval/e/accuracy": 1.0}
    resumed.on_stop(state)
    assert lines()[2] == {"step": 3, "eval/e/accuracy": 1.0}
    resumed.on_end(state)
    events = EventAccumulator(str(state.folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "odd", "eval/e/accuracy", "eval/f/accuracy"}
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 2.0)]
    assert [(e.step, e.value) for e in events.Scalars("eval/e/accuracy")] == [(2, 0.5), (3, 1.0)]


def test_a_checkpoint_of_what_turns_out_to_be_the_last_step(state: State) -> None:
    made = []
    state.save = lambda: made.append(state.step)
    hook = Checkpoint(every=2)
    for state.step in (2, 3):
        hook.on_step(state)
        hook.on_stop(state)
    assert made == [2, 3]
    resumed = Checkpoint()
    resumed.load_state_dict(hook.state_dict())
    resumed.on_stop(state)
    Checkpoint(at_end=False).on_stop(state)
    assert made == [2, 3]
