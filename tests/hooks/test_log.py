import json
import math
from pathlib import Path

from hone.hooks.log import Log
from hone.seats import Hook, State


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(state: State, name: str) -> list[int]:
    return [row["step"] for row in read(state.folder / name)]


def test_is_a_hook() -> None:
    assert isinstance(Log(), Hook)
    assert Log().state_dict() == {}


def test_a_line_each_step_on_disk_at_once(state: State, advance) -> None:
    log = Log(tensorboard=False)
    log.on_start(state)
    assert read(state.folder / "metrics.jsonl") == []
    log.on_step(advance(loss=math.nan))
    # Not closed: this is what a killed run would leave.
    assert read(state.folder / "metrics.jsonl") == [{"step": 1, "reward/mean": 0.5, "loss": None}]
    assert steps_of(state, "rollouts.jsonl") == [1] * 4
    log.on_end(state)


def test_rollout_rows(state: State, advance, group) -> None:
    log = Log(tensorboard=False)
    log.on_start(state)
    advance()
    state.groups = [group("good", [1.0, 0.0], text="= 七"), group("bad", [None])]
    state.groups[0].trajectories[1].advantage = -0.5
    state.groups[0].trajectories[0].scores = {"format": 1.0}
    log.on_step(state)
    first, second, third = read(state.folder / "rollouts.jsonl")
    assert first == {
        "step": 1,
        "task": "good",
        "group": 0,
        "sibling": 0,
        "kept": True,
        "agent": "policy",
        "reward": 1.0,
        "verdict": None,
        "extracted": None,
        "question": "3 + 4",
        "meta": {},
        "parts": {"format": 1.0},
        "advantage": None,
        "stop": "eos",
        "version": 0,
        "error": None,
        "segments": [
            {"name": "prompt", "source": "given", "train": False, "text": "3 + 4", "tokens": 3},
            {"name": "response", "source": "policy", "train": True, "text": "= 七", "tokens": 2},
        ],
        "answer": 7,
    }
    assert (second["sibling"], second["advantage"], second["reward"]) == (1, -0.5, 0.0)
    assert (third["group"], third["kept"], third["reward"]) == (1, False, None)
    assert third["error"] == "TimeoutError: 5 s"


def test_evaluation_before_training_is_step_0(state: State, advance) -> None:
    log = Log(tensorboard=False)
    state.metrics = {"eval/heldout/accuracy": 0.25}
    log.on_start(state)
    log.on_step(advance())
    assert read(state.folder / "metrics.jsonl")[0] == {"step": 0, "eval/heldout/accuracy": 0.25}
    assert steps_of(state, "metrics.jsonl") == [0, 1]


def test_resume_drops_what_will_be_done_again(state: State, advance) -> None:
    log = Log(tensorboard=False)
    state.metrics = {"eval/heldout/accuracy": 0.25}
    log.on_start(state)
    for _ in range(5):
        log.on_step(advance())
    with (state.folder / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 6, "task"')  # killed here; the last checkpoint is of step 3
    state.step, state.metrics = 3, {"eval/heldout/accuracy": 0.9}
    resumed = Log(tensorboard=False)
    resumed.on_start(state)
    assert steps_of(state, "metrics.jsonl") == [0, 1, 2, 3]
    resumed.on_step(advance(again=1.0))
    assert steps_of(state, "metrics.jsonl") == [0, 1, 2, 3, 4]
    assert steps_of(state, "rollouts.jsonl") == [s for s in (1, 2, 3, 4) for _ in range(4)]
    lines = read(state.folder / "metrics.jsonl")
    assert lines[4]["again"] == 1.0
    assert lines[0]["eval/heldout/accuracy"] == 0.25


def test_a_restart_from_the_beginning_starts_new_files(state: State, advance) -> None:
    for _ in range(2):  # the first try died before its first checkpoint
        state.step, state.metrics = 0, {"eval/heldout/accuracy": 0.25}
        log = Log(tensorboard=False)
        log.on_start(state)
        log.on_step(advance())
    assert steps_of(state, "metrics.jsonl") == [0, 1]
    assert steps_of(state, "rollouts.jsonl") == [1] * 4


def test_settings_turn_parts_off(state: State, advance) -> None:
    log = Log(tensorboard=False, rollouts=False)
    log.on_start(state)
    log.on_step(advance())
    log.on_end(state)
    assert [path.name for path in state.folder.iterdir()] == ["metrics.jsonl"]


def test_end_without_start(state: State) -> None:
    Log().on_end(state)


def test_tensorboard_has_scalars_and_a_sample(state: State, advance) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log()
    log.on_start(state)
    for value in (1.0, math.inf, 3.0, 4.0):
        log.on_step(advance(loss=value))
    log.on_end(state)
    state.step = 2
    resumed = Log()
    resumed.on_start(state)
    resumed.on_step(advance(loss=30.0))
    resumed.on_end(state)
    events = EventAccumulator(str(state.folder / "tensorboard")).Reload()
    # The first step 3, and step 4, were done by a process whose checkpoint never came to be.
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, math.inf), (3, 30.0)]
    text = events.Tensors("sample/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "3 + 4= 7" in text
    assert "reward: 1.0" in text
