"""Hundreds of steps with faults on the way: nothing is lost, nothing leaks, and what should not matter does not."""

import errno
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from loop_parts import Letters, now_and_then

import hone
from hone import checkpoint
from hone.guards import memory
from hone.hooks import jsonl

STEPS, WARM = 500, 150
SLOPE = 0.02
"""MiB that the process may grow by in a step: 10 in all."""


class Watch:
    """Notes memory after each step, and kills a worker after some."""

    def __init__(self, kills=()):
        self.kills, self.killed, self.held = set(kills), 0, {}

    def on_start(self, state):
        pass

    def on_step(self, state):
        self.held[state.step] = memory.held()["host"]
        if state.step in self.kills:
            for worker in multiprocessing.active_children()[:1]:
                os.kill(worker.pid, signal.SIGKILL)
                self.killed += 1

    def on_end(self, state):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    @property
    def slope(self):
        """MiB a step, by least squares."""
        steps = [step for step in self.held if step > WARM]
        return np.polyfit(steps, [self.held[step] for step in steps], 1)[0]


def trainer(model, folder, watch):
    return hone.Trainer(
        hone.Config(
            model=model,
            tasks=Letters(kinds=2 * STEPS),
            verifier=now_and_then,
            sampling={"max_tokens": 6},
            steps=STEPS,
            prompts=2,
            siblings=3,
            optimizer={"lr": 1e-3},
            verification={"workers": 2, "timeout": 4.0},
            hooks=[watch, {"log": {"tensorboard": False}}],
            checkpoint={"every": 40},
            folder=str(folder),
        )
    )


def full_once(monkeypatch, at):
    """The disk is full at one line of the log, and has room again afterwards."""
    append, full = jsonl.append, [at]

    def fail(path, rows):
        rows = list(rows)
        if full and path.name == "metrics.jsonl" and rows[0]["step"] == full[0]:
            full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, rows)

    monkeypatch.setattr(jsonl, "append", fail)


def soak(model, folder):
    """A calm run, and one with faults: what they told of their rollouts and steps, and what was seen of memory."""
    calm, rough = Watch(), Watch(kills=range(30, STEPS, 60))
    whole = trainer(model, folder / "calm", calm).fit()
    with pytest.MonkeyPatch.context() as patch:
        full_once(patch, at=STEPS // 2 + 7)
        with pytest.raises(OSError, match="nothing more can be written"):
            trainer(model, folder / "rough", rough).fit()
        resumed = trainer(model, folder / "rough", rough).fit(resume=True)
    runs = [(run.steps, run.rollouts, run.checkpoints[-1]) for run in (whole, resumed)]
    return runs, rough.killed, (calm.slope, rough.slope)


@pytest.mark.slow
def test_500_steps_with_faults(tiny_model_path, tmp_path):
    # In a process of its own: else what earlier tests left behind is given back in the middle, and read as a slope.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        runs, killed, slopes = process.submit(soak, tiny_model_path, tmp_path).result()
    assert killed >= 8

    for steps, rollouts, _ in runs:
        # No task is lost, or played twice; the verifier failed where it had to, and only there.
        assert steps == STEPS
        played = [(row["step"], row["task"]) for row in rollouts]
        assert played == [(1 + i // 6, f"letter-{i // 3}") for i in range(6 * STEPS)]
        failed = {row["task"]: row["error"] for row in rollouts if row["error"]}
        assert {task: error.partition(":")[0] for task, error in failed.items()} == {
            "letter-101": "ZeroDivisionError", "letter-301": "TimeoutError", "letter-501": "ProcessExpired",
            "letter-801": "ZeroDivisionError",
        }  # fmt: skip

    states = [checkpoint.load(newest)["policy"] for _, _, newest in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    print(f"slopes: {slopes[0]:.4f} and {slopes[1]:.4f} MiB a step; workers killed: {killed}")
    assert all(abs(slope) < SLOPE for slope in slopes)
