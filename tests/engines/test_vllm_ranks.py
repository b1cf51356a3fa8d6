"""vLLM in each of several training processes, for real: engines of their own, and the answers and weights of one."""

import os
from pathlib import Path

import joined
import pytest
import torch
from engine_parts import ENGINE, WIDE, train_as_one
from launchers import launched

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
    sampler = {"vllm": {"engine": ENGINE}}
    train_as_one(tiny_folder("llama", **WIDE), tmp_path, engine=engine, lag=lag, sampler=sampler)
