"""Who of several servers is asked: the fleet by itself, its connections played by hand."""

import asyncio

import pytest

from hone.samplers import vllm_fleet
from hone.samplers.vllm_compat import GENERATE, HEALTH, WEIGHTS
from hone.samplers.vllm_fleet import Fleet


class Played(Fleet):
    """Its servers answer here: each has a version, and what is wrong with it."""

    def __init__(self, urls, patience=5.0, slow=0.0):
        super().__init__(urls, patience)
        self.slow = slow
        self.has = dict.fromkeys(urls, "none")
        self.wrong, self.down, self.loads = {}, set(), []

    async def __aenter__(self):
        self._watches = [asyncio.ensure_future(self._watch(server)) for server in self.servers]
        return self

    async def __aexit__(self, *_):
        for watch in self._watches:
            watch.cancel()

    async def _json(self, server, method, path, body=None, limit=None):
        url = server.url
        if url in self.down:
            raise OSError("nobody is there")
        if isinstance(self.wrong.get(url), Exception) and path != HEALTH:
            raise self.wrong[url]
        if path == GENERATE:
            spans = [{"version": self.has[url]}]
            return {"choices": [{"finish_reason": "stop", "weight_versions": spans, "url": url}]}
        if path == WEIGHTS and method == "POST":
            self.loads.append((url, body["version"]))
            await asyncio.sleep(self.slow)
            unlike = ["embedding"] if self.wrong.get(url) == "other weights" and body["check"] else []
            if not unlike:
                self.has[url] = body["version"]
            return {"unlike": unlike, "compared": 9}
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


def test_where_all_refuse_it_is_told_at_once():
    async def work():
        async with Played(["a"], patience=60.0) as fleet:
            fleet.wrong["a"] = PermissionError("a does not take the key")
            await fleet.give("v1", check=False)

    with pytest.raises(PermissionError, match="does not take the key"):
        asyncio.run(asyncio.wait_for(work(), 5))
