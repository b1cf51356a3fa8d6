"""Checkpoints that are whole or not there, whatever happens while they are written."""

import os
import pickle
import re
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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is nothing that tells of memory")
def test_what_is_not_looked_at_takes_no_memory(tmp_path):
    def held():
        [kilobytes] = re.findall(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(kilobytes) / 1024

    path = save(tmp_path, 7, weights=[torch.full((2**22,), float(i)) for i in range(8)])  # 16 MiB each
    before = held()
    found = checkpoint.load(path)["weights"]
    assert held() - before < 8
    assert found[3].sum() == 3 * 2**22
    assert 8 < held() - before < 40


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


# What is on the disk is what was written.


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_the_sums_are_those_of_sha256sum(tmp_path):
    path = save(tmp_path, 1, Policy(then=lambda folder: (folder / "adapter" / "more.txt").write_text("x")))
    named = [line.split("  ")[1] for line in (path / "SHA256SUMS").read_text().splitlines()[:-1]]
    assert named == ["adapter/more.txt", "model.txt", "run.json", "trainer.pt"]
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 4
    assert checkpoint.damage(path) is None


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["model.txt", "trainer.pt", "run.json", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(tmp_path, caplog, name, harm):
    for step in (1, 2, 3):
        save(tmp_path, step)
    harm(tmp_path / "checkpoints/step-3" / name)
    assert checkpoint.newest_whole(tmp_path).name == "step-2"
    [told] = [record.getMessage() for record in caplog.records]
    assert "\n" not in told
    for part in (str(tmp_path / "checkpoints/step-3"), f"({name} is ", "taking step-2"):
        assert part in told
    assert steps(tmp_path) == ["step-1", "step-2", "step-3.damaged"]
    save(tmp_path, 3, keep=1)
    assert steps(tmp_path) == ["step-3", "step-3.damaged"]
    assert checkpoint.newest_whole(tmp_path).name == "step-3"


def test_a_list_of_sums_that_lost_lines_is_torn(tmp_path):
    path = save(tmp_path, 1)
    sums = path / "SHA256SUMS"
    lines = sums.read_bytes().splitlines(keepends=True)
    for torn in (lines[:-1], lines[1:], [], lines[-1:]):
        sums.write_bytes(b"".join(torn))
        assert "SHA256SUMS is" in checkpoint.damage(path)


def test_without_a_whole_checkpoint_there_is_an_error_that_names_each(tmp_path):
    assert checkpoint.newest_whole(tmp_path) is None
    for step in (1, 2):
        save(tmp_path, step)
    flip(tmp_path / "checkpoints/step-1/model.txt")
    (tmp_path / "checkpoints/step-2/trainer.pt").write_bytes(b"")
    told = r"no checkpoint is whole \(step-2: trainer.pt is not what was written; step-1: model.txt is not"
    with pytest.raises(ValueError, match=told):
        checkpoint.newest_whole(tmp_path)
    assert steps(tmp_path) == ["step-1", "step-2"]  # left to be looked at


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = save(tmp_path, 1)
    torch.save({"hooks": Bomb()}, path / "trainer.pt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(path)
    assert not (tmp_path / "ran").exists()


def test_no_file_of_the_library_unpickles_but_the_workers():
    root = Path(checkpoint.__file__).parent
    unsafe = re.compile(
        r"weights_only=False|allow_pickle=True|\b(?:cloud)?pickle\.loads?\(|yaml\.(?:unsafe_|full_)?load\("
    )
    found = {str(f.relative_to(root)): set(unsafe.findall(f.read_text())) for f in root.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls} == {
        "document.py": {"yaml.load("},  # with a loader that is a SafeLoader
        "ranks.py": {"pickle.loads("},  # what processes of the same run send each other
        "verifiers/workers.py": {"pickle.loads("},  # what the parent process sends through a pipe of their own
    }
    loads = [f for f in root.rglob("*.py") if "torch.load(" in f.read_text()]
    assert all("weights_only=True" in f.read_text() for f in loads)


# The best.


def kept(folder):
    """The checkpoints, and which of them is marked."""
    return [name for name in steps(folder) if name != "best"], os.readlink(folder / "checkpoints/best")


def measure(folder, values, best="eval/e/accuracy", keep=1):
    for step, value in values.items():
        metrics = {} if value is None else {best.removeprefix("-"): value}
        checkpoint.save(folder, step, Policy(), {}, keep=keep, best=best, metrics=metrics)


def test_the_best_is_kept_and_marked(tmp_path):
    measure(tmp_path, {1: 0.5, 2: 0.75, 3: None, 4: 0.75, 5: 0.25})
    assert kept(tmp_path) == (["step-2", "step-5"], "step-2")  # the first of equal ones
    assert (tmp_path / "checkpoints/best/model.txt").read_text() == "weights"
    measure(tmp_path, {6: float("nan"), 7: 0.8, 8: 0.1})
    assert kept(tmp_path) == (["step-7", "step-8"], "step-7")


def test_less_may_be_better_and_another_metric_begins_anew(tmp_path):
    measure(tmp_path, {1: 5.0, 2: 3.0, 3: 4.0}, best="-eval/e/length", keep=2)
    assert kept(tmp_path) == (["step-2", "step-3"], "step-2")
    measure(tmp_path, {4: 0.1, 5: 0.0}, best="reward/mean")
    assert kept(tmp_path) == (["step-4", "step-5"], "step-4")


def test_a_step_that_is_saved_again_keeps_its_value(tmp_path):
    measure(tmp_path, {1: 0.9, 2: 0.5})
    measure(tmp_path, {1: None})
    assert checkpoint.read_about(tmp_path / "checkpoints/step-1")["best"] == ["eval/e/accuracy", 0.9]


def test_a_run_that_died_between_the_two_renames_has_its_checkpoint(tmp_path):
    path = save(tmp_path, 1)
    path.rename(path.with_name(".replaced-step-1"))
    assert checkpoint.newest_whole(tmp_path) == path
    assert steps(tmp_path) == ["step-1"]


def test_the_hook_saves_what_is_better_than_all_before(tmp_path):
    saved = []
    hook = Checkpoint(every=4, best="-loss", at_end=False)
    state = State(0, 9, tmp_path, None, save=lambda: saved.append(state.step))
    hook.on_start(state)
    for step, loss in enumerate([0.5, 0.6, 0.4, 0.4, float("nan"), 0.3], start=1):
        state.step, state.metrics = step, {"loss": loss}
        if step == 4:  # resumed
            again = Checkpoint(every=4, best="-loss", at_end=False)
            again.load_state_dict(hook.state_dict())
            hook = again
            hook.on_start(state)
        hook.on_step(state)
    assert saved == [1, 3, 4, 6]
    other = Checkpoint(best="reward/mean")
    other.load_state_dict(hook.state_dict())
    assert other.state_dict()["best"] is None


# When.


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
