"""Runs whose sampler is vLLM, in this process: what the guard and the log say of them, and that they learn."""

import loop_parts as parts
import pytest
from engine_parts import ENGINE, WIDE
from loop_parts import Letters

import hone
from hone.samplers.vllm_engine import VLLMSampler

pytestmark = pytest.mark.vllm


@pytest.fixture
def fit(tiny_folder, tmp_path):
    """``fit(sampler, **settings) -> Run``: trains a Llama of a width that vLLM takes."""

    def fit(sampler, resume=False, **changes):
        settings = parts.settings(tiny_folder("llama", **WIDE), tmp_path / f"run-{sampler}", **{"hooks": [], **changes})
        settings["sampler"] = VLLMSampler(engine=ENGINE) if sampler == "vllm" else sampler
        return hone.Trainer(hone.Config(**settings)).fit(resume=resume)

    return fit


def test_a_run_learns_as_with_the_native_sampler(fit):
    settings = {"steps": 20, "prompts": 4, "siblings": 8, "hooks": [{"guard": {"every": 4}}]}
    settings["eval"] = {"letters": {"tasks": Letters(), "items": 6}}
    runs = {sampler: fit(sampler, **settings) for sampler in ("vllm", "native")}
    for run in runs.values():
        rewards = [row["reward/mean"] for row in run.metrics if "reward/mean" in row]
        assert len(rewards) == 20
        assert max(rewards[:2]) < 0.6
        assert min(rewards[-3:]) > 0.8
        assert sum(row["guard/findings"] for row in run.metrics if "guard/findings" in row) == 0
    steps = [row for row in runs["vllm"].metrics if "mismatch/max" in row]
    assert max(row["mismatch/max"] for row in steps) < 1e-3
    assert min(row["importance/ess"] for row in steps) > 0.999
    assert "truncated_importance" in (runs["vllm"].folder / "config.yaml").read_text()
    starts = [run.series("eval/letters/accuracy")[1][0] for run in runs.values()]
    assert starts[0] == pytest.approx(starts[1])  # greedy, so that both say the same


@pytest.mark.parametrize("lag", [1, 2])
def test_a_run_learns_while_it_samples_ahead(fit, lag):
    """The engine has the weights that the schedule says, also where a copy of them had to wait for it."""
    settings = {"steps": 20, "prompts": 4, "siblings": 8, "hooks": [{"guard": {"every": 1}}], "gate": "everything"}
    settings["eval"] = {"letters": {"tasks": Letters(), "items": 2, "every": 7}}
    run = fit("vllm", **settings, max_staleness=lag)
    versions = {row["step"]: row["version"] for row in run.rollouts}
    assert versions == {step: max(0, step - 1 - lag) for step in range(1, 21)}
    rewards = [row["reward/mean"] for row in run.metrics if "reward/mean" in row]
    assert min(rewards[-3:]) > max(rewards[:2]) + 0.2
    rows = [row for row in run.metrics if "mismatch/max" in row]
    assert rows[0]["mismatch/max"] < 1e-3 < rows[4]["mismatch/max"]  # the policy has moved on
    assert all(0.01 < row["importance/ess"] < 1.001 for row in rows)
    assert sum(row["guard/findings"] for row in rows) == 0
