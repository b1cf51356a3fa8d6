"""vLLM in each of several training processes, for real: engines of their own, and the answers and weights of one."""

import os
from pathlib import Path

import joined
import loop_parts as parts
import pytest
import torch
import yaml
from engine_parts import ENGINE, WIDE
from launchers import launched

import hone
from hone import checkpoint

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def two(tiny_folder, tmp_path_factory):
    """What each of two processes found in the jobs of ``joined.py``, by name, and how both ended in the last."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        jobs = (tiny_folder("llama", **WIDE), str(folder), "shares", "refusals", "fails")
        ended = launched("torchrun", *jobs, module="joined", timeout=500)
    return {path.stem: torch.load(path) for path in folder.glob("*.pt")}, ended


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_each_engine_has_the_whole_weights_and_samples_by_itself(two, engine, vllm_policy, vllm_sampler):
    halves = [two[0][f"shares-{place}"][engine] for place in range(2)]
    policy = vllm_policy()
    sampler = vllm_sampler(policy)
    alone = joined.played(sampler, policy, joined.requests())
    assert alone[0] != alone[1] == alone[2]
    for mine, theirs in zip(alone, zip(*(half["played"] for half in halves), strict=True), strict=True):
        assert [mine[0::2], mine[1::2]] == list(theirs)
    assert all(half["fingerprint"] == sampler.fingerprint() for half in halves)
    assert all(half["met"] == [0, 1] for half in halves)  # the run's own group outlives the engines
    assert [half["device"] for half in halves] == [0, 1]


def test_what_one_process_cannot_do_is_told_in_both(two):
    for place in range(2):
        parallel, memory = two[0][f"refusals-{place}"]
        assert "engine.tensor_parallel_size: an engine in this process has its one device" in parallel
        assert memory == (
            "sampler.vllm.memory = 0.4 in each of 2 processes: of the 10.0 GiB of cpu, 2.0 GiB are free; "
            "set it to at most 0.1"
        )  # though only the second has so little


def test_an_engine_that_does_not_start_ends_the_others(two):
    found, ended = two
    assert not any(name.startswith("fails") for name in found)
    assert ended.returncode == 1
    assert "MemoryError: the cat sat on the GPU" in ended.stderr
    assert "did not end within" not in ended.stderr  # what the first waited for, it did not wait for long


@pytest.mark.parametrize(("engine", "lag"), [("ddp", 0), ("fsdp", 0), ("fsdp", 1)])
def test_several_processes_train_as_one(tiny_folder, tmp_path, engine, lag):
    settings = {"steps": 4, "prompts": 4, "siblings": 4, "hooks": [{"guard": {"every": 2}}], "gate": "everything"}
    settings |= {"sampler": {"vllm": {"engine": ENGINE}}, "engine": engine, "checkpoint": {"every": 1}}
    settings |= {"tasks": "loop_parts:Letters", "verifier": "loop_parts:low", "max_staleness": lag}
    found = []
    for several in (False, True):
        made = parts.settings(tiny_folder("llama", **WIDE), tmp_path / f"{several}", **settings)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(made))
        if several:
            done = launched("torchrun", "train", str(tmp_path / "config.yaml"), timeout=500)
            assert done.returncode == 0, done.stderr[-3000:]
            found.append(hone.Run(made["folder"]))
        else:
            found.append(hone.Trainer(hone.load_config(tmp_path / "config.yaml")).fit())
    for each in found:
        assert {row["step"]: row["version"] for row in each.rollouts} == {s: max(0, s - 1 - lag) for s in range(1, 5)}
        gaps = [row["mismatch/max"] for row in each.metrics if "mismatch/max" in row]
        assert max(gaps[: None if not lag else 1]) < 1e-3
        assert sum(row["guard/findings"] for row in each.metrics if "guard/findings" in row) == 0
    fields = ("step", "task", "reward", "segments")
    played = [[[row[name] for name in fields] for row in each.rollouts] for each in found]
    assert played[0] == played[1]
    weights = [checkpoint.load(each.checkpoints[-1])["policy"] for each in found]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-5)
