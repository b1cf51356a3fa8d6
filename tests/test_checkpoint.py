"""Checkpoints that are whole or not there, whatever happens while they are written."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from hone import checkpoint
from hone.hooks.checkpoint import Checkpoint
from hone.seats import State


class Policy:
    """Only saves."""

    def __init__(self, text="weights", then=lambda folder: None):
        self.text, self.then = text, then

    def save(self, folder):
        (folder / "model.txt").write_text(self.text)
        (folder / "adapter").mkdir()
        self.then(folder)


def steps(folder):
    """Everything in the folder of checkpoints, hidden things included."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def save(folder, step, policy=None, *, keep=10, **state):
    return checkpoint.save(folder, step, policy or Policy(), {"step": step, **state}, keep=keep)


def test_what_is_saved_is_loaded(tmp_path):
    state = {"weights": torch.arange(3.0), "pair": (1, "x"), "seen": {1, 2}, "counts": Counter("aab"), "none": None}
    path = save(tmp_path, 7, **state)
    assert path == tmp_path / "checkpoints" / "step-7" == checkpoint.latest(tmp_path)
    assert (path / "model.txt").read_text() == "weights"
    found = checkpoint.load(path)
    assert torch.equal(found.pop("weights"), state.pop("weights"))
    assert found == {"step": 7, **state}


def test_the_newest_is_that_of_the_highest_step(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for step in (9, 10, 100, 99):
        save(tmp_path, step)
    assert checkpoint.latest(tmp_path).name == "step-100"


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    save(tmp_path, 3)
    for name in ("step-5", "step-best", "step-4.old", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoint.latest(tmp_path).name == "step-3"  # step-5 holds no state to go on from
    save(tmp_path, 6, keep=1)
    assert {"step-6", "step-best", "step-4.old", "notes"} <= set(steps(tmp_path))


def test_old_ones_go_when_the_new_one_is_whole(tmp_path):
    seen = []
    for step in (1, 2, 3, 4):
        save(tmp_path, step, Policy(then=lambda folder: seen.append(steps(tmp_path))), keep=2)
    assert steps(tmp_path) == ["step-3", "step-4"]
    assert [[name for name in names if name.startswith("step")] for names in seen[2:]] == [
        ["step-1", "step-2"],
        ["step-2", "step-3"],
    ]


def test_a_step_may_be_saved_again(tmp_path):
    save(tmp_path, 1, Policy("old"), note="old")
    save(tmp_path, 1, Policy("new"), note="new", keep=1)
    assert steps(tmp_path) == ["step-1"]
    assert (tmp_path / "checkpoints/step-1/model.txt").read_text() == "new"
    assert checkpoint.load(checkpoint.latest(tmp_path))["note"] == "new"


@pytest.mark.parametrize("again", [2, 3])
def test_a_failed_save_leaves_the_earlier_ones(tmp_path, again):
    def full(folder):
        raise OSError(28, "No space left on device")

    save(tmp_path, 1, keep=1)
    save(tmp_path, 2, keep=1)
    for step in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, step, Policy("half", full), keep=1)
        assert checkpoint.latest(tmp_path).name == "step-2"
        assert (checkpoint.latest(tmp_path) / "model.txt").read_text() == "weights"
    save(tmp_path, again, keep=1)
    assert steps(tmp_path) == [f"step-{again}"]  # and nothing half written stays


def test_state_that_cannot_be_written_leaves_the_earlier_ones(tmp_path):
    save(tmp_path, 1)
    for bad, told in ((lambda: None, "function"), (Path("x"), "Path"), (range(3), "range")):
        with pytest.raises(TypeError, match=rf"^bad\[0\]\.it is a .*{told}"):
            save(tmp_path, 2, bad=[{"it": bad}])
    assert checkpoint.latest(tmp_path).name == "step-1"
    assert not (tmp_path / "checkpoints/step-2").exists()


def test_a_killed_save_leaves_the_earlier_ones(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_checkpoint import Policy, save
folder = Path({str(tmp_path)!r})
save(folder, 1)
save(folder, 2, Policy("half", lambda folder: (Path({str(tmp_path)!r}, "ready").touch(), time.sleep(60))), keep=1)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.latest(tmp_path).name == "step-1"
    assert not (tmp_path / "checkpoints/step-2").exists()
    save(tmp_path, 5, keep=1)
    assert steps(tmp_path) == ["step-5"]


@pytest.mark.parametrize(
    ("settings", "stop", "expected"),
    [
        ({"every": 2}, None, [2, 4, 5]),
        ({"every": 2, "at_end": False}, None, [2, 4]),
        ({"at_end": False}, None, []),
        ({}, None, [5]),
        ({"every": 5}, None, [5]),
        ({}, 3, [3]),
        ({"every": 3, "at_end": False}, 4, [3]),
    ],
)
def test_when_the_hook_saves(tmp_path, settings, stop, expected):
    saved = []
    hook = Checkpoint(**settings)
    state = State(0, 5, tmp_path, None, save=lambda: saved.append(state.step))
    hook.on_start(state)
    for step in range(1, 6):
        state.step = step
        state.stop = "enough" if step == stop else None
        hook.on_step(state)
        if state.stop:
            break
    hook.on_end(state)
    assert saved == expected
