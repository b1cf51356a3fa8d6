import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from synthesis_parts import says_right, task

from hone.envs.single_turn import SingleTurn
from hone.math.gates import informative
from hone.synthesis.provenance import described, digest, digest_of_task, fingerprint
from hone.types import Task
from hone.verifiers.combine import Combine
from hone.verifiers.countdown import CountdownVerifier
from hone.verifiers.mathematics import MathVerifier


class Plain:
    def __init__(self, value):
        self.value, self.held = value, object()


def test_a_digest_is_of_the_content():
    assert digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    assert digest("1") != digest(1)
    assert digest("a", "b") != digest("ab")
    assert len(digest(None)) == 24


def test_a_digest_is_the_same_in_another_process():
    code = "from hone.synthesis.provenance import digest; print(digest({'x': [1, 'ä', None]}, set and 2.5))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == digest({"x": [1, "ä", None]}, 2.5)


def test_pictures_count_by_their_pixels():
    def picture(value):
        return Task("a", [{"role": "user", "content": [{"type": "image", "image": np.full((2, 2), value)}]}], "1")

    assert digest_of_task(picture(1)) == digest_of_task(picture(1))
    assert digest_of_task(picture(1)) != digest_of_task(picture(2))
    assert digest(np.zeros((2, 3))) != digest(np.zeros((3, 2)))
    assert digest(Path("a.png")) == digest("a.png")
    assert digest(b"a") != digest("a")
    with pytest.raises(TypeError, match="object"):
        digest(object())


def test_a_task_is_its_prompt_and_its_answer():
    assert digest_of_task(task("q", "1", "one")) == digest_of_task(task("q", "1", "other", split="x"))
    assert digest_of_task(task("q", "1")) != digest_of_task(task("q", "2"))
    assert digest_of_task(task("q", "1")) != digest_of_task(task("r", "1"))


def test_parts_are_described_with_all_their_settings():
    parts = {"equation": CountdownVerifier(), "math": MathVerifier()}
    combined = Combine(parts=parts, weights={"math": 1, "equation": 2})
    told = described(combined)
    assert told["hone.verifiers.combine:Combine"]["weights"] == {"math": 1, "equation": 2}
    assert "hone.verifiers.countdown:CountdownVerifier" in told["hone.verifiers.combine:Combine"]["parts"]["equation"]
    assert described(SingleTurn(system="s")) != described(SingleTurn())
    assert described(says_right) == "synthesis_parts:says_right"
    assert described(partial(informative, tolerance=0.5)) == {"hone.math.gates:informative": {"tolerance": 0.5}}
    assert described(Plain(3)) == {"test_provenance:Plain": {"value": 3}}
    assert digest(told) == digest(described(combined))


def test_a_fingerprint_is_of_name_and_weights():
    import torch

    weights = {"b": torch.ones(2, 2), "a": torch.zeros(3, dtype=torch.bfloat16)}
    base = fingerprint("m", weights)
    assert fingerprint("m", dict(reversed(weights.items()))) == base
    assert fingerprint("n", weights) != base
    assert fingerprint("m", weights | {"b": torch.ones(2, 2) + 1e-7}) != base
    assert fingerprint("m", weights | {"b": torch.ones(2, 2).t()}) == base
