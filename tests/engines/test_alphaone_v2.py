"""AlphaOne inside vLLM's model runner V2, whose slots are recycled and whose rows move."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from engine_parts import WIDE
from transformers import AutoTokenizer

from hone.papers.alphaone_vllm import _bound
from hone.seats import SamplingParams

pytestmark = pytest.mark.vllm
SLOW = set(b"LMNOPQRSTUVWXY")


def test_it_acts_inside_the_runner(tiny_folder):
    """Every token is the one that the state machine imposes, by itself and in order, or one that it allows."""
    model, script = tiny_folder("llama", **WIDE), Path(__file__).with_name("alphaone_v2.py")
    done = subprocess.run([sys.executable, script, model], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    imposed = ended = unasked = 0
    for asked, extra, tokens in json.loads(done.stdout.splitlines()[-1]):
        assert len(tokens) == asked["max_tokens"]
        if extra is None:
            unasked += len(SLOW.intersection(tokens))
            continue
        alphaone = _bound(json.dumps(extra["alphaone"]), AutoTokenizer.from_pretrained(model))
        course = alphaone.begin(
            SamplingParams(seed=asked["seed"], temperature=asked["temperature"], max_tokens=len(tokens)), mass=True
        )
        for token in tokens:
            wanted = alphaone.imposes(course)
            if wanted is not None:
                imposed += 1
                assert token == wanted
            elif alphaone.is_late(course):
                assert token not in SLOW
                ended += token == ord("E")
            alphaone.see(course, token)
    assert imposed > 20
    assert ended
    assert unasked  # who does not ask for it is left alone
