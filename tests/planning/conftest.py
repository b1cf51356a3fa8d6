import pytest

import hone
from hone.planning.hardware import Achieved, Hardware


@pytest.fixture
def gear():
    """``gear(**changes)``: a device of round numbers."""

    def make(**changes):
        achieved = Achieved(products=1.0, narrow=1.0, bandwidth=1.0, elementwise=1.0)
        usual = {
            "title": "round", "memory": 1e12, "flops": {"bfloat16": 2e12, "float32": 1e12}, "bandwidth": 1e9,
            "achieved": achieved, "layer": 0.0, "reserve": 1000.0, "interconnect": 1e9, "price": 3.6, "gpu": False,
        }  # fmt: skip
        return Hardware(**usual | changes)

    return make


@pytest.fixture
def tiny_config(tiny_folder):
    """``tiny_config(kind="llama", model={}, shape={}, **settings)``: of a tiny model, whose prompt has 10 tokens."""

    def make(kind="llama", model=None, shape=None, **settings):
        path = tiny_folder(kind, **(shape or {}))
        usual = {
            "model": {"path": path, "dtype": "float32", "head_memory_mb": 1} | (model or {}),
            "tasks": {"inline": {"rows": [{"q": "12345", "a": "6"}], "prompt": "{q}", "answer": "{a}"}},
            "verifier": "exact",
            "sampling": {"max_tokens": 20},
            "prompts": 2,
            "siblings": 3,
            "steps": 10,
        }
        return hone.Config(**usual | settings)

    return make
