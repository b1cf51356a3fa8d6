import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hone.report.lines import JsonLines
from hone.report.run import Run


def test_series_are_where_they_were_logged(write_run) -> None:
    run = Run(write_run())
    steps, values = run.series("reward/mean")
    assert steps.tolist() == list(range(1, 21))
    assert values[-1] == 1.0
    assert run.series("eval/heldout/accuracy")[0].tolist() == [0, 10, 20]
    assert [len(part) for part in run.series("no such thing")] == [0, 0]


def test_null_is_nan_in_a_series(write_run) -> None:
    folder = write_run(2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward/mean": null}\n')
    assert np.isnan(Run(folder).series("reward/mean")[1]).tolist() == [False, False, True]
    assert "reward: 0.050 -> 0.100" in Run(folder).summary()


def test_frame(write_run) -> None:
    frame = Run(write_run()).frame()
    assert frame.index.name == "step"
    assert frame.loc[20, "reward/mean"] == 1.0
    assert math.isnan(frame.loc[0, "reward/mean"])


def test_config_checkpoints_and_steps(write_run) -> None:
    folder = write_run()
    for name in ("step-10", "step-9", "step-100", "step-7.partial", "latest"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    run = Run(str(folder))
    assert run.config == {"steps": 20, "name": "λ"}
    assert [path.name for path in run.checkpoints] == ["step-9", "step-10", "step-100"]
    assert run.steps == 20
    assert run.folder == folder


def test_evaluations_first_and_last(write_run) -> None:
    folder = write_run()
    (folder / "evals" / "heldout").mkdir(parents=True)
    (folder / "evals" / "heldout" / "step-20.jsonl").write_text('{"step": 20, "reward": 1.0}\n')
    found = Run(folder).evaluations
    assert list(found) == ["heldout"]
    first, last = found["heldout"]["first"], found["heldout"]["last"]
    assert (first.step, first.accuracy, list(first.rollouts)) == (0, 0.1, [])
    assert (last.step, last.accuracy, list(last.rollouts)) == (20, 0.5, [{"step": 20, "reward": 1.0}])


def test_summary_and_repr(write_run) -> None:
    run = Run(write_run())
    lines = ["heldout: 0.100 -> 0.500 (step 20)", "reward: 0.075 -> 0.975", "steps: 20 in 0:01:20"]
    assert run.summary().splitlines() == lines
    assert repr(run).startswith("Run(")
    assert all(line in repr(run) for line in lines)


def test_one_evaluation_is_one_number(write_run) -> None:
    assert Run(write_run(3)).summary().splitlines()[0] == "heldout: 0.100 (step 0)"
    assert Run(write_run(12, name="later", before=False)).summary().splitlines()[0] == "heldout: 0.250 (step 10)"


def test_rollouts_are_a_lazy_sequence(write_run) -> None:
    rollouts = Run(write_run()).rollouts
    assert isinstance(rollouts, Sequence)
    assert len(rollouts) == 60
    assert rollouts[0] == {"step": 1, "task": "t1", "sibling": 0, "text": "七\u2028✓"}
    assert rollouts[-1]["task"] == "t20"
    assert [row["step"] for row in rollouts[2:4]] == [1, 2]
    assert list(rollouts) == list(rollouts)
    assert len(list(rollouts)) == 60
    with pytest.raises(IndexError):
        rollouts[60]


def test_rollouts_of_a_step(write_run) -> None:
    rollouts = Run(write_run()).rollouts
    assert [(row["task"], row["sibling"]) for row in rollouts.at(7)] == [("t7", 0), ("t7", 1), ("t7", 2)]
    assert rollouts.at(0) == rollouts.at(21) == []


def test_a_run_that_is_being_written(write_run) -> None:
    folder = write_run(3)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        with (folder / name).open("ab") as file:
            file.write('{"step": 4, "text": "七'.encode()[:-1])  # torn in the middle of a character
    run = Run(folder)
    assert run.steps == 3
    assert len(run.rollouts) == 9
    with (folder / "rollouts.jsonl").open("ab") as file:
        file.write('七"}\n'.encode()[1:])
    assert len(list(run.rollouts)) == 9, "a snapshot does not grow while it is read"


def test_a_run_without_steps(write_run) -> None:
    run = Run(write_run(0, before=False))
    assert (run.metrics, run.steps, len(run.rollouts), run.evaluations, run.checkpoints) == ([], 0, 0, {}, [])
    assert run.summary() == "steps: 0 in 0:00:00"
    assert run.frame().empty
    assert run.plot().exists()


def test_a_run_without_rollouts(write_run) -> None:
    folder = write_run(2)
    (folder / "rollouts.jsonl").unlink()
    rollouts = Run(folder).rollouts
    assert (len(rollouts), list(rollouts), rollouts.at(1), rollouts[:]) == (0, [], [], [])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["config.yaml"], "is not the folder of a run: it has no metrics.jsonl$"),
        (["metrics.jsonl"], "it has no config.yaml$"),
        ([], "it has no config.yaml and no metrics.jsonl$"),
    ],
)
def test_a_folder_that_is_no_run_says_what_is_missing(tmp_path: Path, keep: list[str], message: str) -> None:
    for name in keep:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=message):
        Run(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Run(tmp_path / "nowhere")


def test_reads_what_the_hooks_write(tmp_path: Path) -> None:
    from hone.hooks.log import Log
    from hone.seats import State
    from hone.types import Group, Segment, Task, Trajectory

    state, log = State(0, 1, tmp_path, None), Log(tensorboard=False)
    log.on_start(state)
    state.step, state.metrics = 1, {"reward/mean": math.inf}
    task = Task("t", [])
    state.groups, state.kept = (
        [Group(task, [Trajectory(task, [Segment("response", "policy", (1,), (0.0,), "é")])])],
        [True],
    )
    log.on_step(state)
    (tmp_path / "config.yaml").touch()
    run = Run(tmp_path)
    assert (run.config, run.metrics) == ({}, [{"step": 1, "reward/mean": None}])
    assert run.rollouts.at(1)[0]["segments"][0]["text"] == "é"


def test_lines_of_a_large_file_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(2000)))
    lines = JsonLines(path)
    assert lines.at(1234) == [{"step": 1234}]
    iterator = iter(lines)
    assert next(iterator) == {"step": 0}
    assert "2000 rows" in repr(lines)
