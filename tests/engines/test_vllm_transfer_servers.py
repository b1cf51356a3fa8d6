"""Weights to real servers without a folder: one and two; one that is killed, also in mid-transfer; one that is late."""

import os
import time

import loop_parts as parts
import pytest
import torch
import yaml
from engine_parts import WIDE, context, run, worst_gap
from launchers import launched
from server_parts import KEY, Servers, started, synced

import hone
from hone.samplers import vllm_parcel, vllm_senders
from hone.samplers.vllm_broadcast import Broadcast
from hone.seats import SamplingParams

pytestmark = pytest.mark.vllm
REQUESTS = [(context(3 + i % 5, seed=i % 5), SamplingParams(seed=i, max_tokens=16)) for i in range(8)]


@pytest.fixture(scope="module")
def servers(tiny_folder, tmp_path_factory):
    with started(tiny_folder("llama", **WIDE), tmp_path_factory.mktemp("direct"), transfer="collective") as made:
        yield made


@pytest.fixture
def sampler(servers, monkeypatch):
    """``sampler(policy, **settings)``: synced, by buckets of 4 KiB, which makes many; it is closed after the test."""
    monkeypatch.setenv("HONE_API_KEY", KEY)
    monkeypatch.setattr(vllm_parcel, "SIZE", 4096)
    with synced(servers) as make:
        yield make


def move(policy, seed):
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    policy.advance()


def serving(sampler, *wanted, seconds=300):
    until = time.monotonic() + seconds
    while [server.serves for server in sampler._fleet.servers] != list(wanted):
        assert time.monotonic() < until, [server.why for server in sampler._fleet.servers]
        time.sleep(0.1)


def right(policy, sampler, score_groups, tolerance=1e-4):
    """Answers of every server that serves are by the policy's weights as they are now."""
    for server in sampler._fleet.servers:
        if server.serves:
            others = [each for each in sampler._fleet.servers if each.serves and each is not server]
            for each in others:
                each.serves = False
            made = run(sampler, *REQUESTS)
            for each in others:
                each.serves = True
            assert worst_gap(policy, score_groups, REQUESTS, made) < tolerance
            assert {completion.version for completion in made} == {policy.version}


@pytest.mark.parametrize("count", [1, 2])
def test_answers_behind_a_sync_are_by_the_new_weights(servers, sampler, vllm_policy, score_groups, count):
    policy = vllm_policy()
    made = sampler(policy, urls=servers.settings["urls"][:count], check_every=1)
    serving(made, *[True] * count)
    right(policy, made, score_groups)
    before = run(made, *REQUESTS)
    move(policy, 1)
    made.sync(policy)
    serving(made, *[True] * count)
    right(policy, made, score_groups)
    assert worst_gap(policy, score_groups, REQUESTS, before) > 0.1
    assert made.fingerprint() == policy.fingerprint()
    assert not (servers.folder / "exchange").exists()


def test_adapters_arrive_merged(servers, sampler, vllm_policy, score_groups):
    policy = vllm_policy(lora={"rank": 4})
    move(policy, 2)
    made = sampler(policy, check_every=1)
    right(policy, made, score_groups, tolerance=1e-3)


def test_damage_on_the_way_leaves_no_server_with_it(servers, sampler, vllm_policy, score_groups, monkeypatch):
    policy = vllm_policy()
    made = sampler(policy)
    move(policy, 3)
    pack = vllm_parcel.Parcel.pack

    def damaged(weights):
        parcel = pack(weights)
        parcel.buckets[2][5] ^= 8
        return parcel

    monkeypatch.setattr(vllm_senders.Parcel, "pack", damaged)
    with pytest.raises(RuntimeError, match=r"1 of 1 weights, such as model\..*, in http.* are not those it was sent"):
        made.sync(policy)
    monkeypatch.undo()
    monkeypatch.setenv("HONE_API_KEY", KEY)
    made.sync(policy)
    serving(made, True, True)
    right(policy, made, score_groups)


def test_one_that_is_killed_between_syncs_gets_the_weights_of_now_when_it_returns(
    servers, sampler, vllm_policy, score_groups
):
    policy = vllm_policy()
    made = sampler(policy)
    lost = servers.ports[0]
    servers.kill(lost)
    move(policy, 4)
    made.sync(policy)
    serving(made, False, True)
    right(policy, made, score_groups)
    servers.start(lost)
    serving(made, True, True)
    right(policy, made, score_groups)


@pytest.mark.parametrize("gone", ["killed", "stopped"])
def test_one_that_is_gone_in_mid_transfer_hangs_nobody(servers, sampler, vllm_policy, score_groups, monkeypatch, gone):
    """The other has broken off in the middle then, and takes all weights anew, by itself."""
    import signal

    policy = vllm_policy()
    made = sampler(policy, patience=300 if gone == "killed" else 10)
    serving(made, True, True)
    move(policy, 5)
    lost = servers.ports[0]
    group = servers.processes[lost].pid
    send, sizes = Broadcast.send, []

    def losing(self, bucket):
        sizes.append(self._meeting.size)
        if len(sizes) == 4:
            servers.kill(lost) if gone == "killed" else os.killpg(group, signal.SIGSTOP)
        return send(self, bucket)

    monkeypatch.setattr(Broadcast, "send", losing)
    began = time.monotonic()
    try:
        made.sync(policy)
        took = time.monotonic() - began
        serving(made, False, True)
        assert took < 60
        assert {3, 2} <= set(sizes)  # both, and then one by itself
        right(policy, made, score_groups)
    finally:
        servers.start(lost) if gone == "killed" else os.killpg(group, signal.SIGCONT)
    serving(made, True, True)
    right(policy, made, score_groups)


def test_a_trainer_of_another_way_is_told(servers, sampler, vllm_policy):
    with pytest.raises(ValueError, match=r"transfer: folder: http.* was started with collective"):
        sampler(vllm_policy(), transfer="folder", exchange=str(servers.folder / "exchange"))


def test_several_processes_train_beside_them(servers, tiny_folder, tmp_path, monkeypatch):
    """The first of them gives the weights, and comes to the meetings."""
    monkeypatch.setenv("HONE_API_KEY", KEY)
    settings = {"steps": 3, "prompts": 4, "siblings": 4, "hooks": [{"guard": {"every": 1}}], "gate": "everything"}
    settings |= {"tasks": "loop_parts:Letters", "verifier": "loop_parts:low", "engine": "ddp"}
    settings["sampler"] = {"vllm_server": servers.settings}
    made = parts.settings(tiny_folder("llama", **WIDE), tmp_path / "run", **settings)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made))
    done = launched("torchrun", "train", str(tmp_path / "config.yaml"), timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = hone.Run(made["folder"])
    assert {row["step"]: row["version"] for row in found.rollouts} == {step: step - 1 for step in (1, 2, 3)}
    assert max(row["mismatch/max"] for row in found.metrics if "mismatch/max" in row) < 1e-3
    assert sum(row["guard/findings"] for row in found.metrics if "guard/findings" in row) == 0


def test_every_worker_of_a_server_takes_its_part(tiny_folder, tmp_path, sampler, tiny_policy, score_groups):
    """Two, by tensor parallelism, and heads for both of them."""
    wide = WIDE | {"num_key_value_heads": 2}
    made = Servers(tiny_folder("llama", **wide), tmp_path, transfer="collective")
    made.settings["engine"] = {**made.settings["engine"], "tensor_parallel_size": 2}
    made.settings["urls"] = made.settings["urls"][:1]
    made.write()
    try:
        made.start(made.ports[0])
        policy = tiny_policy(config=wide)
        synced = sampler(policy, **made.settings)
        right(policy, synced, score_groups)
        move(policy, 6)
        synced.sync(policy)
        right(policy, synced, score_groups)
    finally:
        for port in list(made.processes):
            made.kill(port)
