"""Whole runs on a GPU: guarded, sampled ahead, resumed."""

import json

import loop_parts as parts
import pytest

import hone

DEVICE = "cuda"
SHAPE = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}


@pytest.fixture
def fit(tmp_path, tiny_folder):
    def fit(name, *, resume=False, model=None, **changes):
        path = tiny_folder("llama", **SHAPE)
        settings = parts.settings(path, tmp_path / name, **changes)
        settings |= {"device": DEVICE, "model": {"path": path, "compile": False} | (model or {})}
        return hone.Trainer(hone.Config(**settings)).fit(resume=resume, allow=("settings",))

    return fit


def lines(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "model",
    [
        {"dtype": "float32"},
        {"lora": {"rank": 4}},
        {"offload": True},
        {"gradient_checkpointing": True},
        {"compile": True},
        {"compile": True, "gradient_checkpointing": True, "lora": {"rank": 4}},
    ],
)
def test_a_run_passes_its_guard(model, fit):
    run = fit("run", model=model, steps=3)
    steps = lines(run)
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(line["memory/update"] > 0 for line in steps)
    assert all(line["guard/findings"] == 0 for line in steps)


def test_sampling_ahead(fit):
    assert len(lines(fit("ahead", steps=5, max_staleness=1))) == 5


def test_a_run_goes_on_after_its_checkpoint(fit):
    model = {"dtype": "float32"}
    whole = fit("whole", model=model, steps=4, checkpoint={"every": 2})
    fit("part", model=model, steps=2, checkpoint={"every": 2})
    part = fit("part", model=model, steps=4, checkpoint={"every": 2}, resume=True)
    for a, b in zip(lines(whole), lines(part), strict=True):
        assert a["reward/mean"] == pytest.approx(b["reward/mean"], abs=1e-6)
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_it_learns(fit):
    steps = lines(fit("learn", steps=30, optimizer={"lr": 3e-3}))
    assert sum(s["reward/mean"] for s in steps[-5:]) / 5 > steps[0]["reward/mean"] + 0.15
