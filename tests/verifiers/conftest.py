from typing import Any

import pytest

from hone.types import Score, Segment, Task, Trajectory


def answered(task: Task, response: str) -> Trajectory:
    prompt = Segment("prompt", "given", (1, 2), text=r"What is it? Not \boxed{0}, <answer>0</answer>.")
    return Trajectory(task, [prompt, Segment("response", "policy", (3,), (-0.5,), text=response, train=True)])


@pytest.fixture
def judge():
    """``judge(verifier, response, answer, **meta) -> Score``, in this process."""

    def ask(verifier: Any, response: str, answer: Any = None, **meta: Any) -> Score:
        task = Task("t", [{"role": "user", "content": "?"}], answer, meta)
        return verifier(task, answered(task, response))

    return ask
