"""Who of several servers is asked: the fleet by itself, its connections played by hand."""

import asyncio

import pytest
from fleet_parts import AtHand

from hone.samplers import vllm_fleet
from hone.samplers.vllm_compat import GENERATE, HEALTH, WEIGHTS
from hone.samplers.vllm_fleet import TRIES, Fleet
from hone.samplers.vllm_peer import FAILURES, Failure
from hone.samplers.vllm_senders import Folder


class Played(AtHand):
    """Its servers answer here: each has a version, and what is wrong with it."""

    def __init__(self, urls, patience=5.0, slow=0.0, gives=True):
        super().__init__(urls, patience, Folder("nowhere") if gives else None)
        self.slow = slow
        self.has = dict.fromkeys(urls, "none")
        self.wrong, self.down, self.loads, self.asked = {}, set(), [], []
        self.poison = dict.fromkeys(urls, ())

    async def _json(self, server, method, path, body=None, limit=None):
        url = server.url
        if url in self.down:
            raise OSError("nobody is there")
        if isinstance(self.wrong.get(url), Exception) and path != HEALTH:
            raise self.wrong[url]
        if path == GENERATE:
            self.asked.append((url, body.get("prompt")))
            await asyncio.sleep(0.01)
            if body.get("prompt") in self.poison[url]:
                raise Failure(f"500 from {path}: no kernel for {body['prompt']}")
            spans = [{"version": self.has[url]}]
            return {"choices": [{"finish_reason": "stop", "weight_versions": spans, "url": url}]}
        if path == WEIGHTS and method == "POST":
            self.loads.append((url, body["version"]))
            await asyncio.sleep(self.slow)
            unlike = ["embedding"] if self.wrong.get(url) == "other weights" and body["check"] else []
            if not unlike:
                self.has[url] = body["version"]
            return {"unlike": unlike, "compared": 9}
        if self.wrong.get(url) == "no version":
            return {"longest": 100}
        return {"version": self.has[url], "longest": 100 if url == "a" else 50}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(vllm_fleet, "PULSE", 0.01)
    monkeypatch.setattr(vllm_fleet, "FIRST", 0.01)


def test_weights_are_taken_once_though_the_watch_looks_meanwhile():
    async def work():
        async with Played(["a", "b"], slow=0.2) as fleet:
            for version in ("v1", "v2"):
                await fleet.give(version, check=False)
            await asyncio.sleep(0.1)
            return sorted(fleet.loads), fleet.longest

    loads, longest = asyncio.run(work())
    assert loads == [("a", "v1"), ("a", "v2"), ("b", "v1"), ("b", "v2")]
    assert longest == 50  # what both take


def test_a_server_with_other_weights_than_it_was_sent_is_not_asked(caplog):
    async def work():
        async with Played(["a", "b"]) as fleet:
            fleet.wrong["a"] = "other weights"
            await fleet.give("v1", check=True)
            await asyncio.sleep(0.2)  # it is tried again, and is no better
            return {(await fleet.ask({}))["url"] for _ in range(8)}

    assert asyncio.run(work()) == {"b"}
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert len(told) == 1
    assert "1 of 9 weights, such as embedding" in told[0]


def test_one_that_refuses_does_not_end_the_wait_for_another():
    async def work():
        async with Played(["a", "b"]) as fleet:
            fleet.wrong["a"] = PermissionError("a does not take the key")
            await fleet.give("v1", check=False)
            fleet.down.add("b")
            await asyncio.sleep(0.05)
            asking = asyncio.ensure_future(fleet.ask({}))
            await asyncio.sleep(0.05)
            assert not asking.done()
            fleet.down.clear()
            return (await asking)["url"]

    assert asyncio.run(work()) == "b"


def test_one_that_does_not_say_what_it_has_is_told_so_and_looked_after(caplog):
    async def work():
        async with Played(["a", "b"]) as fleet:
            fleet.wrong["a"] = "no version"
            await fleet.give("v1", check=True)
            assert (await fleet.ask({}))["url"] == "b"
            await asyncio.sleep(0.1)
            fleet.wrong.clear()
            async with asyncio.timeout(10):
                while not fleet.servers[0].serves:
                    await asyncio.sleep(0.01)

    asyncio.run(work())
    assert "a does not say its version; start `hone serve` of this release" in caplog.text


def test_where_all_refuse_it_is_told_at_once():
    async def work():
        async with Played(["a"], patience=60.0) as fleet:
            fleet.wrong["a"] = PermissionError("a does not take the key")
            await fleet.give("v1", check=False)

    with pytest.raises(PermissionError, match="does not take the key"):
        asyncio.run(asyncio.wait_for(work(), 5))


def ask(poison, prompts, urls=("a", "b")):
    """Answers or errors of requests made at once, and the fleet, with how each server was when the last was there."""

    async def work():
        async with Played(list(urls)) as fleet:
            fleet.poison |= poison
            await fleet.give("v1", check=False)
            found = await asyncio.gather(*(fleet.ask({"prompt": p}) for p in prompts), return_exceptions=True)
            return found, fleet

    return asyncio.run(asyncio.wait_for(work(), 20))


def test_a_request_that_always_fails_ends_with_what_the_server_said():
    [error, *others], fleet = ask({"a": ["x"], "b": ["x"]}, ["x", *range(6)])
    assert type(error) is OSError
    told = f"sampler: a request failed {TRIES} times, the last time on a: 500 from {GENERATE}: no kernel for x"
    assert str(error) == told
    assert [url for url, prompt in fleet.asked if prompt == "x"] == ["a", "b", "a", "b", "a"]
    assert all(isinstance(answer, dict) for answer in others)
    assert all(server.serves for server in fleet.servers)  # there is nothing wrong with them


def test_where_one_server_fails_another_is_asked():
    [answer], fleet = ask({"a": ["x"]}, ["x"])
    assert answer["url"] == "b"
    assert fleet.asked == [("a", "x"), ("b", "x")]


def test_a_server_that_fails_each_request_is_lost_though_it_says_that_it_is_well(caplog):
    prompts = list(range(40))
    found, fleet = ask({"a": prompts}, prompts)
    assert [answer["url"] for answer in found] == ["b"] * 40
    assert f"the server a is lost: {FAILURES} requests failed in a row, the last with 500 from" in caplog.text
    assert sum(url == "a" for url, _ in fleet.asked) == 20  # no request twice


def test_where_all_fail_each_request_it_is_told_soon_however_many_there_are():
    prompts = list(range(100))
    found, fleet = ask({"a": prompts}, prompts, urls=["a"])
    assert all("no kernel for" in str(error) and type(error) is OSError for error in found)
    assert len(fleet.asked) <= TRIES * 100


def test_a_failure_now_and_then_loses_no_server():
    """Whatever was answered in between begins the count anew."""

    async def work():
        async with Played(["a"]) as fleet:
            fleet.poison["a"] = ["x"]
            await fleet.give("v1", check=False)
            for _ in range(3):
                for count in range(1, FAILURES):
                    asking = asyncio.ensure_future(fleet.ask({"prompt": "x"}))
                    while fleet.servers[0].failures < count:
                        await asyncio.sleep(0)
                    asking.cancel()
                assert fleet.servers[0].failures == FAILURES - 1
                await fleet.ask({"prompt": "y"})
                assert fleet.servers[0].failures == 0
            return fleet.servers[0].serves

    assert asyncio.run(work())


def test_a_real_server_says_why_a_request_fails():
    web = pytest.importorskip("aiohttp.web")
    seen = []

    async def answer(request):
        seen.append(request.path)
        if request.path == GENERATE:
            return web.Response(status=500, text="CUDA error: an illegal memory access")
        return web.json_response({"version": "v1", "longest": 100})

    async def work():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        fleet = await Fleet([f"http://127.0.0.1:{port}"], 5.0, Folder("nowhere")).__aenter__()
        try:
            await fleet.give("v1", check=False)
            await fleet.ask({"token_ids": [1]})
        finally:
            await fleet.__aexit__()
            await runner.cleanup()

    with pytest.raises(OSError, match=rf"failed {TRIES} times, .*: 500 from {GENERATE}: CUDA error: an illegal"):
        asyncio.run(asyncio.wait_for(work(), 20))
    assert seen.count(GENERATE) == TRIES


def test_who_gives_no_weights_waits_for_servers_that_have_them():
    async def work():
        async with Played(["a", "b"], gives=False) as fleet:
            giving = asyncio.ensure_future(fleet.give("v1", check=True))
            await asyncio.sleep(0.05)
            assert not giving.done()
            assert fleet.servers[0].why == "OSError: it has not taken the weights of now yet"
            fleet.has["b"] = "v1"  # somebody else's doing
            await giving
            found = {(await fleet.ask({}))["url"] for _ in range(4)}
            fleet.has["a"] = "v1"
            async with asyncio.timeout(10):
                while not fleet.servers[0].serves:
                    await asyncio.sleep(0.01)
            return fleet.loads, found

    assert asyncio.run(work()) == ([], {"b"})
