from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hone.seats import State
from hone.types import Group, Segment, Task, Trajectory


def make_group(name: str, rewards: list[float | None], text: str = "= 7", stop: str = "eos") -> Group:
    task = Task(name, [{"role": "user", "content": "3 + 4"}], answer=7)
    prompt = Segment("prompt", "given", (1, 2, 3), text="3 + 4")
    response = Segment("response", "policy", (4, 5), (-0.1, -0.2), text=text, train=True)
    error = [None if reward is not None else "TimeoutError: 5 s" for reward in rewards]
    return Group(
        task,
        [
            Trajectory(task, [prompt, response], reward=reward, error=e, stop=stop)
            for reward, e in zip(rewards, error, strict=True)
        ],
    )


@pytest.fixture
def group() -> Callable[..., Group]:
    return make_group


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(step=0, steps=10, folder=tmp_path / "run", policy=None)


@pytest.fixture
def advance(state: State) -> Callable[..., State]:
    """Does one step: new metrics and groups, as a trainer would."""

    def advance(**metrics: float) -> State:
        state.step += 1
        state.metrics = {"reward/mean": 0.5, **metrics}
        state.groups = [make_group(f"task-{state.step}", [1.0, 0.0]), make_group("dull", [1.0, 1.0])]
        state.kept = [True, False]
        return state

    return advance
