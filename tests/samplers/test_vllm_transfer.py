"""Weights from process to process: parcels, meetings, broadcasts, and what a fleet makes of them; without vLLM."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fleet_parts import AtHand

import hone
from hone.samplers import vllm_fleet, vllm_parcel, vllm_senders
from hone.samplers.vllm_broadcast import Broadcast
from hone.samplers.vllm_compat import HEALTH, WEIGHTS
from hone.samplers.vllm_meeting import Meeting, _kept, address
from hone.samplers.vllm_parcel import Damaged, Parcel, arriving, unpacked
from hone.samplers.vllm_peer import Failure
from hone.samplers.vllm_senders import Direct
from hone.samplers.vllm_server import VLLMServers
from hone.samplers.vllm_worker import TakesWeights
from hone.serving import serve

CPU = torch.device("cpu")


def some_weights(seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a": (7, 3), "b": (40,), "scale": (), "c": (5, 2, 4), "none": (0, 3)}
    made = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return {**made, "half": made["a"].bfloat16(), "bits": torch.tensor([True, False, True])}


@pytest.fixture
def small(monkeypatch):
    """Buckets of 128 bytes."""
    monkeypatch.setattr(vllm_parcel, "SIZE", 128)


@pytest.fixture
def opened():
    """``opened(size, limit=10.0)``: a meeting, which is closed after the test."""
    made = []

    def make(size, limit=10.0):
        made.append(Meeting.opened("127.0.0.1", 0, size, limit))
        return made[-1]

    yield make
    for meeting in made:
        meeting.close()


def same(found, weights):
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight)


def test_a_parcel_holds_every_weight_in_buckets_of_limited_size(small):
    weights = some_weights()
    parcel = Parcel.pack(weights.items())
    # a: 84 -> 96 bytes; b: 160, alone; scale 4 -> 16; c: 160, alone; none: 0; half: 42 -> 48, bits: 3 -> 16
    assert [len(bucket) for bucket in parcel.buckets] == [96, 160, 16, 160, 64]
    assert [entry["bytes"] for entry in parcel.outline] == [96, 160, 16, 160, 64]
    assert json.loads(json.dumps(parcel.outline)) == parcel.outline
    assert parcel.outline[2]["weights"] == [["scale", "float32", []]]
    found = {}
    for bucket, entry in zip(parcel.buckets, parcel.outline, strict=True):
        found |= dict(unpacked(bucket, entry))
    same(found, weights)
    weights["a"].zero_()
    assert found["a"].abs().sum() > 0  # it is a copy


class Replayed:
    def __init__(self, buckets):
        self.buckets = iter(buckets)

    def receive(self, size):
        return next(self.buckets)


@pytest.mark.parametrize("damaged", range(5))
def test_one_bit_that_changed_on_the_way_is_noticed(small, damaged):
    parcel = Parcel.pack(some_weights().items())
    same(dict(arriving(Replayed(parcel.buckets), parcel.outline)), some_weights())
    parcel.buckets[damaged][3] ^= 4
    came = []
    with pytest.raises(Damaged) as caught:
        came.extend(name for name, _ in arriving(Replayed(parcel.buckets), parcel.outline))
    assert caught.value.names == [name for name, _, _ in parcel.outline[damaged]["weights"]]
    assert came == [name for entry in parcel.outline[:damaged] for name, _, _ in entry["weights"]]


def test_all_of_a_meeting_receive_what_one_sends(small, opened):
    weights, meeting = some_weights(), opened(4)
    parcel = Parcel.pack(weights.items())

    def work(rank):
        channel = Broadcast(Meeting.joined(meeting.told), rank, "gloo", CPU)
        return dict(arriving(channel, parcel.outline))

    with ThreadPoolExecutor(3) as workers:
        others = [workers.submit(work, rank) for rank in (1, 2, 3)]
        channel = Broadcast(meeting, 0, "gloo", CPU)
        for bucket in parcel.buckets:
            channel.send(bucket)
        for other in others:
            same(other.result(10), weights)


def test_who_does_not_come_is_waited_for_no_longer_than_the_limit(opened):
    began = time.monotonic()
    with pytest.raises(
        TimeoutError, match=r"2 workers meeting the trainer took more than 0.3 s .*vllm_server.patience"
    ):
        Broadcast(opened(3, limit=0.3), 0, "gloo", CPU)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("met", [False, True])
def test_a_reason_to_give_up_reaches_who_waits(opened, met):
    """In the middle of a broadcast that does not end too."""
    meeting = opened(2 if met else 3)
    with ThreadPoolExecutor(1) as workers:
        other = workers.submit(lambda: Broadcast(Meeting.joined(meeting.told), 1, "gloo", CPU).receive(8))
        channel = Broadcast(meeting, 0, "gloo", CPU) if met else None
        time.sleep(0.1)
        meeting.give_up("a server has caught fire")
        meeting.give_up("there is smoke")  # which is no news
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="caught fire"):
            other.result(10)
        assert time.monotonic() - began < 3
        del channel


@pytest.mark.parametrize("limit", [30.0, None])
def test_while_a_group_connects_a_reason_to_give_up_is_heard(opened, limit):
    """One of three has come and connects to nobody."""
    meeting = opened(3, limit=limit)
    meeting.count("here", 1)
    with ThreadPoolExecutor(2) as workers:
        others = [
            workers.submit(lambda: Broadcast(Meeting.joined(meeting.told), 1, "gloo", CPU)),
            workers.submit(lambda: Broadcast(meeting, 0, "gloo", CPU)),
        ]
        while meeting.count("here") < 3:
            time.sleep(0.01)
        time.sleep(0.2)
        meeting.give_up("the third is stuck")
        began = time.monotonic()
        for other in others:
            with pytest.raises(ConnectionError, match=r"connecting trainer and servers was .*the third is stuck"):
                other.result(10)
        assert time.monotonic() - began < 3


def test_who_comes_when_there_is_another_meeting_at_that_place_does_not_stay(opened):
    with pytest.raises(ConnectionError, match="it has another meeting by now"):
        Meeting.joined(opened(2).told | {"name": "of before"})


def test_who_gives_up_behind_the_end_is_not_heard_and_has_no_error():
    meeting = Meeting.opened("127.0.0.1", 0, 2, 1.0)
    meeting.close()
    meeting.give_up("too late")


def test_a_store_that_does_not_come_up_leaves_no_socket():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        file, port = listening.fileno(), listening.getsockname()[1]
        with pytest.raises(ConnectionError, match="the store of a transfer"):
            _kept(listening, "127.0.0.1", port ^ 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_a_trainer_that_is_gone_is_not_waited_for(opened):
    meeting = opened(3)
    with ThreadPoolExecutor(1) as workers:
        other = workers.submit(lambda: Broadcast(Meeting.joined(meeting.told), 1, "gloo", CPU))
        while meeting.count("here") < 1:
            time.sleep(0.01)
        meeting.close()
        with pytest.raises(ConnectionError, match="the trainer"):
            other.result(3)


def test_a_meeting_is_opened_at_one_address_alone(opened):
    port = opened(2).told["port"]
    with pytest.raises(OSError, match=rf"sampler.vllm_server.meet: cannot listen at 127.0.0.1:{port}: .*in use"):
        Meeting.opened("127.0.0.1", port, 2, 1.0)
    with pytest.raises(ConnectionError, match=r"the trainer at 127\.0\.0\.2"):
        Meeting.joined({"host": "127.0.0.2", "port": port, "name": "n", "size": 2, "limit": 0.5})


def test_a_worker_that_is_killed_in_mid_transfer_ends_it_for_all(small, opened):
    """In processes, of which one is killed by the system; what it has begun does not hang anybody."""
    parcel = Parcel.pack(some_weights().items())
    meeting = opened(3, limit=60.0)
    told = json.dumps(meeting.told | {"outline": parcel.outline, "backend": "gloo"})
    command = [sys.executable, str(Path(__file__).with_name("transfer_worker.py")), told]
    pipe = {"stdout": subprocess.PIPE, "text": True}
    kept, lost = (subprocess.Popen([*command, str(rank), "cpu"], **pipe) for rank in (1, 2))
    try:
        channel = Broadcast(meeting, 0, "gloo", CPU)
        channel.send(parcel.buckets[0])
        assert json.loads(lost.stdout.readline()) == "a bucket"
        lost.kill()
        lost.wait()
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=r"bucket 2 of the weights: .*Connection"):  # noqa: PT012
            channel.send(parcel.buckets[1])
            channel.send(parcel.buckets[1])
        meeting.give_up("a worker is gone")
        last = kept.communicate(timeout=20)[0].splitlines()[-1]
        assert "Connection" in json.loads(last)
        assert time.monotonic() - began < 10
    finally:
        for each in (kept, lost):
            each.kill()
            each.wait()


class Worker(TakesWeights):
    """Of a server without vLLM, which holds what it is given as it comes."""

    def __init__(self, place=0, of=1):
        self.parallel_config = SimpleNamespace(data_parallel_index=0, world_size=of, rank=place)
        self.device, self.model_config = CPU, SimpleNamespace(dtype=torch.float32)
        self.held, self.model_runner = {}, self

    def get_model(self):
        return SimpleNamespace(named_parameters=self.held.items)

    def reload_weights(self, weights_iterator):
        self.held = {name: weight.clone() for name, weight in weights_iterator}


class Hosted(AtHand):
    """Its servers are here: each has workers, and a version."""

    def __init__(self, sizes, sender):
        super().__init__(list(sizes), 10.0, sender)
        self.workers = {url: [Worker(place, of) for place in range(of)] for url, of in sizes.items()}
        self.has, self.down, self.hung, self.posts = dict.fromkeys(sizes, "none"), set(), set(), []

    async def _json(self, server, method, path, body=None, limit=None):
        url = server.url
        if url in self.down:
            raise OSError("nobody is there")
        if path == HEALTH:
            return None
        assert path == WEIGHTS
        if method == "GET":
            more = {"workers": len(self.workers[url]), "device": "cpu", "transfer": "collective"}
            return {"version": self.has[url], "longest": 100, **more}
        meeting = json.loads(json.dumps(body["meeting"]))
        self.posts.append((url, meeting["size"]))
        if url in self.hung:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), limit)
            except TimeoutError:
                raise OSError("no answer") from None
        jobs = (asyncio.to_thread(worker.receive_weights, meeting, body["check"]) for worker in self.workers[url])
        reports = await asyncio.gather(*jobs, return_exceptions=True)  # vLLM waits for all as well
        if broken := next((report for report in reports if isinstance(report, Exception)), None):
            raise Failure(str(broken))
        wrong = [report for report in reports if report["unlike"]]
        if not wrong and (failed := next((report["failed"] for report in reports if report["failed"]), None)):
            raise Failure(failed)
        if not wrong:
            self.has[url] = body["version"]
        return (wrong or reports)[0]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(vllm_fleet, "PULSE", 0.05)
    monkeypatch.setattr(vllm_fleet, "FIRST", 0.05)


def give(sizes, steps, limit=10.0):
    """``await steps(fleet, sender)`` with a fleet, which is then looked at."""

    async def work():
        sender = Direct("collective", "127.0.0.1", limit)
        async with Hosted(sizes, sender) as fleet:
            await steps(fleet, sender)
            return fleet

    return asyncio.run(asyncio.wait_for(work(), 30))


async def until(done):
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.01)


def test_every_worker_of_every_server_has_them_by_one_broadcast(small):
    async def steps(fleet, sender):
        for seed in (0, 1):
            await fleet.give(sender.put(some_weights(seed).items(), seed), check=True)
            sender.settled()
            for workers in fleet.workers.values():
                for worker in workers:
                    same(worker.held, some_weights(seed))

    fleet = give({"a": 1, "b": 2, "c": 1}, steps)
    assert sorted(fleet.posts[:3]) == [("a", 5), ("b", 5), ("c", 5)]
    assert all(server.serves for server in fleet.servers)


def test_tied_weights_travel_once(small, quick):
    async def steps(fleet, sender):
        tied = torch.ones(4)
        await fleet.give(sender.put([("embed", tied), ("head", tied)], 0), check=False)
        assert list(fleet.workers["a"][0].held) == ["embed"]

    give({"a": 1}, steps)


def test_one_that_comes_late_gets_the_weights_of_the_sync_though_they_have_changed(small, quick):
    async def steps(fleet, sender):
        fleet.down.add("b")
        weights = some_weights()
        await fleet.give(sender.put(weights.items(), 0), check=True)
        assert [server.serves for server in fleet.servers] == [True, False]
        for weight in weights.values():
            weight.zero_()
        fleet.down.clear()
        await until(lambda: fleet.servers[1].serves)
        same(fleet.workers["b"][0].held, some_weights())

    assert give({"a": 1, "b": 1}, steps).posts == [("a", 2), ("b", 2)]


def test_one_that_fails_in_the_middle_does_not_keep_the_others_from_theirs(small, quick):
    """All fail with it at first, and each is then tried by itself."""

    async def steps(fleet, sender):
        def breaks(weights_iterator):
            next(weights_iterator)
            raise OSError("out of memory")

        fleet.workers["b"][1].reload_weights = breaks
        began = time.monotonic()
        await fleet.give(sender.put(some_weights().items(), 0), check=True)
        await until(lambda: fleet.servers[0].serves and fleet.servers[2].serves)
        assert time.monotonic() - began < 8  # and not the limit of 10
        await until(lambda: "out of memory" in fleet.servers[1].why)
        assert not fleet.servers[1].serves
        for url in ("a", "c"):
            same(fleet.workers[url][0].held, some_weights())

    posts = give({"a": 1, "b": 2, "c": 1}, steps).posts
    assert posts[:3] == [("a", 5), ("b", 5), ("c", 5)]
    assert {("a", 2), ("c", 2)} <= set(posts[3:])


def test_one_that_hangs_keeps_the_others_waiting_once(small, quick, monkeypatch):
    """Afterwards it is given weights by itself, behind the others, and not for longer than there are no newer ones."""
    monkeypatch.setattr(vllm_fleet, "GRACE", 0.1)

    async def steps(fleet, sender):
        a, hung, c = fleet.servers
        fleet.patience = 2.0
        fleet.hung.add("hung")
        await fleet.give(sender.put(some_weights(0).items(), 0), check=False)
        await until(lambda: a.serves and c.serves)
        for seed in (1, 2):
            await until(lambda: fleet.posts[-1] == ("hung", 2))  # which holds the turn
            fleet.posts.clear()
            began = time.monotonic()
            await fleet.give(sender.put(some_weights(seed).items(), seed), check=False)
            assert time.monotonic() - began < 1.5
            assert a.serves
            assert c.serves
            assert sorted(fleet.posts[:2]) == [("a", 3), ("c", 3)]
        fleet.hung.clear()
        await until(lambda: hung.serves)
        same(fleet.workers["hung"][0].held, some_weights(2))
        fleet.posts.clear()
        await fleet.give(sender.put(some_weights(3).items(), 3), check=False)
        assert sorted(fleet.posts) == [("a", 4), ("c", 4), ("hung", 4)]  # all are sound again

    give({"a": 1, "hung": 1, "c": 1}, steps, limit=2.0)


def test_who_was_given_weights_in_vain_most_often_comes_last(small, quick):
    async def steps(fleet, sender):
        for server, vain in zip(fleet.servers, (3, 1, 2), strict=True):
            server.vain = vain
        await fleet.give(sender.put(some_weights().items(), 0), check=False)
        await until(lambda: all(server.serves for server in fleet.servers))
        assert [server.vain for server in fleet.servers] == [0, 0, 0]

    assert give({"a": 1, "b": 1, "c": 1}, steps).posts == [("b", 2), ("c", 2), ("a", 2)]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), ValueError("a handle"), OSError("gone")])
def test_whatever_fails_in_a_worker_vllm_comes_to_its_end(error):
    def breaks():
        yield "a", torch.ones(2)
        raise error

    worker, told = Worker(), []
    report = worker._take(breaks(), True, told.append)
    assert list(worker.held) == ["a"]  # `reload_weights` returned
    assert report == {"unlike": [], "compared": 0, "failed": f"{type(error).__name__}: {error}"}
    assert told == [report["failed"]]


def test_a_late_server_is_not_given_other_weights_under_the_name_of_those_before(small):
    async def work():
        sender = Direct("collective", "127.0.0.1", 5.0)
        before = sender.put(some_weights(0).items(), 0)
        sender.put(some_weights(1).items(), 1)
        async with sender.delivery(before, [{"workers": 1, "device": "cpu"}]):
            pass

    with pytest.raises(OSError, match="other weights to give"):
        asyncio.run(work())


def test_there_is_one_copy_of_the_weights_and_not_two(monkeypatch):
    sender = Direct("collective", "127.0.0.1", 5.0)
    sender.put(some_weights(0).items(), 0)
    before = weakref.ref(sender._parcel)
    pack = Parcel.pack

    def packing(weights):
        assert before() is None
        return pack(weights)

    monkeypatch.setattr(vllm_senders.Parcel, "pack", packing)
    sender.put(some_weights(1).items(), 1)


def test_damage_on_the_way_is_told_with_what_it_hit(small, quick):
    async def steps(fleet, sender):
        name = sender.put(some_weights().items(), 0)
        sender._parcel.buckets[3][0] ^= 1
        with pytest.raises(RuntimeError, match="1 of 1 weights, such as c, in a are not those it was sent"):
            await fleet.give(name, check=False)
        assert list(fleet.workers["a"][0].held) == ["a", "b", "scale"]

    give({"a": 1}, steps)


def test_a_trainer_that_cannot_go_on_tells_its_servers(small, quick, monkeypatch):
    class Broken(Broadcast):
        def send(self, bucket):
            raise RuntimeError("CUDA error")

    monkeypatch.setattr(vllm_senders, "Broadcast", Broken)

    async def steps(fleet, sender):
        fleet.patience = 0.5
        with pytest.raises(
            TimeoutError, match=r"no server serves for 0.5 s .*(RuntimeError in the trainer: CUDA error|closed)"
        ):
            await fleet.give(sender.put(some_weights().items(), 0), check=False)

    give({"a": 1}, steps)


def test_servers_that_were_started_for_another_way_are_told_apart(quick):
    async def steps(fleet, sender):
        sender.transfer = "ipc"
        with pytest.raises(ValueError, match="transfer: ipc: a was started with collective"):
            await fleet.give("v", check=False)

    give({"a": 1}, steps)


def test_memory_of_a_gpu_wants_one_where_the_server_is(tiny_model_path):
    from loop_parts import Letters, low

    sampler = {"vllm_server": {"transfer": "ipc"}}
    config = hone.Config(
        model={"path": tiny_model_path, "dtype": "float32"}, tasks=Letters(), verifier=low, sampler=sampler
    )
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="transfer: ipc goes through a GPU's memory, and there is none here"):
            serve(config, "127.0.0.1", 8000)


def test_memory_of_a_gpu_wants_a_policy_on_one():
    with pytest.raises(ValueError, match="transfer: ipc goes through a GPU's memory, and the policy is on cpu; take"):
        Direct("ipc", "127.0.0.1", 1.0).put(some_weights().items(), 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"transfer": "folder"}, "exchange: name a folder that trainer and servers share, or set transfer: collective"),
        ({"transfer": "collective", "exchange": "/x"}, "exchange: is of transfer: folder; leave it out"),
        ({"exchange": "/x", "meet": "10.0.0.1"}, "meet: is of transfer: collective"),
        ({"transfer": "collective", "urls": ["http://gpu:80"]}, "meet: http://gpu:80 cannot come to 127.0.0.1; set"),
        ({"transfer": "collective", "meet": "here:port"}, "meet: should be the trainer's address .*, not 'here:port'"),
        ({"transfer": "collective", "meet": "0.0.0.0"}, "meet: should be the trainer's address"),
        ({"transfer": "collective", "meet": "[::1]:port"}, "meet: should be the trainer's address"),
        ({"transfer": "collective", "meet": "[::1"}, "meet: should be the trainer's address"),
        ({"transfer": "collective", "meet": "1:2:3"}, "meet: should be the trainer's address"),
        ({"transfer": "mail"}, "'folder', 'collective' or 'ipc'"),
        ({"engine": {"data_parallel_size": 2}}, "engine.data_parallel_size: 2: start as many servers instead"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_its_name(settings, told):
    with pytest.raises(ValueError, match=told):
        VLLMServers(**settings)


def test_what_goes_together_is_taken():
    assert VLLMServers(exchange="/x", urls=["http://gpu7:8000"]).way == "folder"
    assert VLLMServers().way == "collective"
    VLLMServers(transfer="collective", meet="10.0.0.1:7000", urls=["http://gpu7:8000"])
    assert address("10.0.0.1:7000") == ("10.0.0.1", 7000)
    assert address("trainer") == ("trainer", 0)
    assert address("::1") == ("::1", 0)
    assert address("[::1]") == ("::1", 0)
    assert address("[::1]:7000") == ("::1", 7000)


def test_what_follows_from_the_settings_is_not_written_into_them():
    """A run that is resumed with an ``exchange`` is not one that asked for another way."""
    assert VLLMServers().transfer is None
    assert VLLMServers(exchange="/x").transfer is None
