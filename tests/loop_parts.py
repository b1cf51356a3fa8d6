"""What the tests of the loop train on: tasks, verifiers and hooks that are small, and that YAML can name.

Free of torch, because the verifiers' worker processes import it.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hone
from hone.types import Score, Task


@hone.settings
class Letters:
    """One letter each, over and over: ``limit`` tasks, or without end; ``kinds`` different ids."""

    limit: int | None = None
    kinds: int = 26

    def __post_init__(self):
        self.cursor = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.limit is not None and self.cursor >= self.limit:
            raise StopIteration
        number = self.cursor % self.kinds
        self.cursor += 1
        letter = chr(ord("a") + number % 26)
        return Task(f"letter-{number}", [{"role": "user", "content": letter}], answer=letter)

    def state_dict(self):
        return {"cursor": self.cursor}

    def load_state_dict(self, state):
        self.cursor = state["cursor"]


def actions(trajectory):
    return [action for segment in trajectory.segments if segment.train for action in segment.actions]


def low(task, trajectory) -> Score:
    """The share of tokens below 100: a random model earns about 0.4, and siblings differ."""
    drawn = actions(trajectory)
    return Score(sum(action < 100 for action in drawn) / max(1, len(drawn)), {"drawn": float(len(drawn))})


def letter_e(task, trajectory) -> Score:
    """The share of e: a random model earns about 0.01."""
    drawn = actions(trajectory)
    return Score(drawn.count(ord("e")) / max(1, len(drawn)))


def nothing(task, trajectory) -> Score:
    return Score(0.0)


def slow(task, trajectory, *, seconds: float = 60.0) -> Score:
    time.sleep(seconds)
    return low(task, trajectory)


def moody(task, trajectory, *, task_id: str = "letter-1") -> Score:
    """Fails on one task, and is late on the one after it."""
    if task.id == task_id:
        raise KeyError("the reference is lost")
    if task.id == "letter-2":
        time.sleep(60)
    return low(task, trajectory)


def broken(task, trajectory) -> Score:
    raise LookupError("no such word")


def fails_on_odd(task, trajectory) -> Score:
    if actions(trajectory)[0] % 2:
        raise ArithmeticError("odd")
    return low(task, trajectory)


class Echo:
    """A verifier with a right answer of its own, which it pays with ``value``."""

    def __init__(self, value=1.0):
        self.value = value

    def example(self, task):
        return f"<{task.answer}>"

    def __call__(self, task, trajectory) -> Score:
        return Score(self.value if trajectory.response == f"<{task.answer}>" else 0.0)


class Still:
    """A hook that does nothing, for those that do one thing."""

    def on_start(self, state): ...
    def on_step(self, state): ...
    def on_end(self, state): ...
    def load_state_dict(self, state): ...

    def state_dict(self):
        return {}


@hone.settings
class SlowEnd(Still):
    """A hook that takes a minute to end."""

    def on_end(self, state):
        time.sleep(60)


def bad_advantage(groups):
    raise ValueError("a defect of one's own")


@dataclass
class Spy:
    """A hook that writes down what it is told and does what it is asked to, at given steps."""

    told: list[tuple[str, int]] = field(default_factory=list)
    seen: list[dict] = field(default_factory=list)
    at: dict[int, Any] = field(default_factory=dict)
    """Step to function of the state."""
    kept: dict[str, Any] = field(default_factory=dict)

    def on_start(self, state):
        self.told.append(("on_start", state.step))

    def on_step(self, state):
        self.told.append(("on_step", state.step))
        self.seen.append(dict(state.metrics))
        self.kept["steps"] = state.step
        if state.step in self.at:
            self.at[state.step](state)

    def on_end(self, state):
        self.told.append(("on_end", state.step))

    def state_dict(self):
        return dict(self.kept)

    def load_state_dict(self, state):
        self.kept = dict(state)


def interrupt(state=None):
    """Ctrl-C, now; in the main thread, its handler runs before this returns."""
    os.kill(os.getpid(), signal.SIGINT)


class Interrupting:
    """An environment in which one task is never answered: a moment after it was asked comes Ctrl-C."""

    def __init__(self, task_id, inner):
        self.task_id, self.inner = task_id, inner

    async def play_group(self, task, n, **rest):
        if task.id == self.task_id:
            threading.Timer(0.1, interrupt).start()
            await asyncio.sleep(1e6)
        return await self.inner.play_group(task, n, **rest)


def settings(model: str, folder: Path, /, **changes) -> dict[str, Any]:
    """Two groups of three answers of five tokens, on a model that differs in every weight."""
    return {
        "model": {"path": model, "dtype": "float32"},
        "tasks": Letters(),
        "verifier": low,
        "sampling": {"max_tokens": 5},
        "steps": 3,
        "prompts": 2,
        "siblings": 3,
        "optimizer": {"lr": 1e-2},
        "verification": {"workers": 1},
        "hooks": [{"log": {"tensorboard": False}}],
        "folder": str(folder),
        "device": "cpu",
    } | changes


def trained(model: str, folder: Path, *, steps: int) -> Path:
    """The folder of a run that has been trained for so many steps, with a checkpoint of each."""
    made = settings(model, folder, steps=steps, checkpoint={"every": 1}, optimizer={"lr": 0.05})
    hone.Trainer(hone.Config(**made)).fit()
    return folder


def at_work(monkeypatch, folder: Path, **modules: str) -> None:
    """Make a folder the working directory, and write modules there that a configuration can name."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name, source in modules.items():
        sys.modules.pop(name, None)
        (folder / f"{name}.py").write_text(source)


def same(one, other):
    """Whether two nested states are equal, tensors bit for bit."""
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def now_and_then(task, trajectory) -> Score:
    """As :func:`low`; but for four tasks, on which it raises, hangs, or takes its worker along."""
    match int(task.id.rpartition("-")[2]):
        case 101 | 801:
            raise ZeroDivisionError("now and then")
        case 301:
            time.sleep(3600)
        case 501:
            os._exit(3)
    return low(task, trajectory)
