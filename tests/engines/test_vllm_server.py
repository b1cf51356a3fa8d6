"""Servers that `hone serve` starts, for real: samples, weights, keys; and one is killed in the middle of a batch."""

import asyncio
import os
import signal
import time
from pathlib import Path

import loop_parts as parts
import pytest
import torch
import yaml
from engine_parts import WIDE, context, run, tokens, train_as_one, worst_gap
from launchers import launched
from server_parts import KEY, free_port, started, synced

import hone
from hone.samplers import vllm_fleet
from hone.seats import SamplingParams

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def servers(tiny_folder, tmp_path_factory):
    with started(tiny_folder("llama", **WIDE), tmp_path_factory.mktemp("servers")) as made:
        yield made


@pytest.fixture
def sampler(servers, monkeypatch):
    """``sampler(policy, **settings)``: synced; it is closed after the test."""
    monkeypatch.setenv("HONE_API_KEY", KEY)
    with synced(servers) as make:
        yield make


def test_samples_as_the_policy_has_it(servers, sampler, vllm_policy, score_groups):
    policy = vllm_policy()
    made = sampler(policy)
    requests = [(context(3 + i % 5, seed=i % 5), SamplingParams(seed=2**62 + i, max_tokens=24)) for i in range(12)]
    completions = run(made, *requests)
    assert worst_gap(policy, score_groups, requests, completions) < 1e-4
    assert len(set(map(tokens, completions))) == 12
    assert list(map(tokens, run(made, *requests[:3]))) == list(map(tokens, completions[:3]))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    policy.advance()
    made.sync(policy)
    after = run(made, *requests)
    assert worst_gap(policy, score_groups, requests, completions) > 0.1
    assert worst_gap(policy, score_groups, requests, after) < 1e-4
    assert {completion.version for completion in after} == {policy.version}
    kept = [path.name for path in Path(servers.settings["exchange"]).iterdir() if not path.name.startswith("model-")]
    assert len(kept) == 1  # those of now


def test_a_server_that_stops_answering_is_given_up_until_it_does(servers, sampler, vllm_policy, monkeypatch, caplog):
    monkeypatch.setattr(vllm_fleet, "PULSE", 1.0)
    made = sampler(vllm_policy())
    requests = [(context(4, seed=i), SamplingParams(seed=i, max_tokens=300)) for i in range(16)]
    expected = list(map(tokens, run(made, *requests)))
    group = servers.processes[servers.ports[0]].pid

    async def freezing():
        tasks = [asyncio.ensure_future(made.sample([prompt], params)) for prompt, params in requests]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        os.killpg(group, signal.SIGSTOP)
        return await asyncio.wait_for(asyncio.gather(*tasks), 60)

    try:
        assert list(map(tokens, asyncio.run(freezing()))) == expected
        assert f"{servers.ports[0]} is lost: its health: OSError: no answer to /health in time" in caplog.text
    finally:
        os.killpg(group, signal.SIGCONT)
    until = time.monotonic() + 30
    while not made._fleet.servers[0].serves:
        assert time.monotonic() < until, made._fleet.servers[0].why
        time.sleep(0.1)


def test_a_server_that_is_killed_in_mid_batch_loses_no_sample(servers, sampler, vllm_policy, caplog):
    policy = vllm_policy()
    made = sampler(policy)
    requests = [(context(4, seed=i), SamplingParams(seed=i, max_tokens=300)) for i in range(48)]
    expected = list(map(tokens, run(made, *requests)))
    lost, kept = servers.ports
    busy = []

    async def killing():
        tasks = [asyncio.ensure_future(made.sample([prompt], params)) for prompt, params in requests]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        busy.extend(len(server.posts) for server in made._fleet.servers)
        servers.kill(lost)
        return await asyncio.wait_for(asyncio.gather(*tasks), 120)

    assert list(map(tokens, asyncio.run(killing()))) == expected
    assert min(busy) > 3  # both had work when it was killed
    assert f"the server http://127.0.0.1:{lost} is lost" in caplog.text
    policy.advance()
    made.sync(policy)  # the other goes on alone
    assert [server.serves for server in made._fleet.servers] == [False, True]

    servers.start(lost)  # and when it comes back, it is given the weights of now
    until = time.monotonic() + 80
    while not made._fleet.servers[0].serves:
        assert time.monotonic() < until, made._fleet.servers[0].why
        time.sleep(0.2)
    servers.kill(kept)
    assert list(map(tokens, run(made, *requests[:6]))) == expected[:6]
    servers.start(kept)


def test_bad_input_gives_one_clear_line(servers, sampler, vllm_policy, monkeypatch):
    policy = vllm_policy()
    made = sampler(policy, urls=servers.settings["urls"][:1])
    [error] = run(made, (context(500), SamplingParams(max_tokens=20)), return_exceptions=True)
    assert str(error).endswith("need 520 positions; the engine has 512; set sampling.max_tokens to at most 12")
    [error] = run(made, (context(5), SamplingParams(temperature=2.5)), return_exceptions=True)
    assert "temperature must be in [0, 2]" in str(error)
    monkeypatch.setenv("HONE_API_KEY", "another")
    with pytest.raises(PermissionError, match="does not take the key; HONE_API_KEY is to be what `hone serve` had"):
        sampler(policy, urls=servers.settings["urls"][:1])
    with pytest.raises(TimeoutError, match=r"no server serves for 1 s .*Cannot connect.*; start one with `hone serve"):
        sampler(policy, urls=[f"http://127.0.0.1:{free_port()}"], patience=1)


@pytest.mark.parametrize("lag", [0, 2])
def test_a_run_learns(servers, tiny_folder, tmp_path, monkeypatch, lag):
    monkeypatch.setenv("HONE_API_KEY", KEY)
    settings = {"steps": 8, "prompts": 4, "siblings": 8, "hooks": [{"guard": {"every": 4}}], "gate": "everything"}
    settings["max_staleness"] = lag
    settings["sampler"] = {"vllm_server": servers.settings}
    config = hone.Config(**parts.settings(tiny_folder("llama", **WIDE), tmp_path / "run", **settings))
    run = hone.Trainer(config).fit()
    rewards = [row["reward/mean"] for row in run.metrics if "reward/mean" in row]
    assert rewards[-1] > rewards[0] + 0.1
    fresh = [row for row in run.metrics if "mismatch/max" in row][: None if not lag else 1]
    assert max(row["mismatch/max"] for row in fresh) < 1e-3
    versions = {row["step"]: row["version"] for row in run.rollouts}
    assert versions == {step: max(0, step - 1 - lag) for step in range(1, 9)}
    assert sum(row["guard/findings"] for row in run.metrics if "guard/findings" in row) == 0


@pytest.mark.parametrize(("engine", "lag"), [("ddp", 0), ("fsdp", 0), ("fsdp", 1)])
def test_several_processes_train_as_one_beside_servers(servers, tiny_folder, tmp_path, monkeypatch, engine, lag):
    """The first gives the servers its weights; each asks for the samples of its share."""
    monkeypatch.setenv("HONE_API_KEY", KEY)
    sampler = {"vllm_server": servers.settings}
    train_as_one(tiny_folder("llama", **WIDE), tmp_path, engine=engine, lag=lag, sampler=sampler)
    kept = [path.name for path in Path(servers.settings["exchange"]).iterdir() if not path.name.startswith("model-")]
    assert not kept  # each trainer took away what it had written


def test_what_servers_refuse_ends_every_trainer(servers, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HONE_API_KEY", "another")
    settings = {"tasks": "loop_parts:Letters", "verifier": "loop_parts:low"}
    settings["sampler"] = {"vllm_server": servers.settings}
    made = parts.settings(tiny_folder("llama", **WIDE), tmp_path / "run", **settings)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made))
    done = launched("torchrun", "train", str(tmp_path / "config.yaml"))
    assert done.returncode == 1
    assert "does not take the key; HONE_API_KEY is to be what `hone serve` had" in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") <= 2
