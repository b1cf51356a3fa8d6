"""The servers that a trainer speaks to: who answers, who is lost, and who has which weights."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from hone.samplers.vllm_compat import GENERATE, HEALTH, KEY, WEIGHTS
from hone.samplers.vllm_peer import Failure, Server
from hone.samplers.vllm_senders import Sender

log = logging.getLogger("hone")

FIRST, MOST = 0.5, 15.0
"""Seconds before the first further try at a lost server, doubled each time, and the most."""
PULSE = 5.0
"""Seconds between looks at a server's health, and for its answer."""
GRACE = 5.0
"""Seconds after ``patience`` for a server to say itself why it has not taken weights."""
TRIES = 5
"""How often a request may fail on servers that are there: then it is the request, or all of them."""


class Fleet:
    """Servers, from within one event loop. A lost one is tried again, and is given the weights of now if it returns.

    Args:
        urls: Of the servers.
        patience: Seconds for which there may be no server, and for which one may take weights; None for no limit.
        sender: How servers get their weights from here; None if somebody else gives them, and they are only asked.
    """

    def __init__(self, urls: Sequence[str], patience: float | None, sender: Sender | None) -> None:
        self.servers = [Server(url.rstrip("/")) for url in urls]
        self.patience, self.sender, self.version = patience, sender, ""
        self._check = False
        self._news = asyncio.Event()
        """Set when a server comes back, or when it is known that none will."""
        self._closed: Exception | None = None

    @property
    def longest(self) -> int:
        """Most tokens of a context and its continuation that every server takes."""
        return min((server.longest for server in self.servers if server.longest), default=0)

    async def __aenter__(self) -> Fleet:
        import aiohttp

        headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get(KEY)) else {}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=PULSE)
        self._session = aiohttp.ClientSession(headers=headers, timeout=limits, connector=aiohttp.TCPConnector(limit=0))
        self._watches = [asyncio.ensure_future(self._watch(server)) for server in self.servers]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = RuntimeError("sampler: it was closed while this sequence was under way")
        for watch in self._watches:
            watch.cancel()
        await self.withdraw()
        for server in self.servers:
            server.serves = False
        self._news.set()
        await self._session.close()

    async def give(self, version: str, check: bool) -> None:
        """Have every server take the weights of this name; at least one has to, the others get them when they can.

        Those that took the last are given these together. Who did not may keep others waiting: it takes them by itself
        meanwhile, and so does each of several that failed together, for the fault may be one's alone. Who does not give
        any waits for one that has them.

        Raises:
            TimeoutError: If there is none to take them for as long as ``patience``.
            PermissionError: If no server serves, for one does not take the key.
            RuntimeError: If no server serves, for one holds others than it was sent.
        """
        await self.withdraw()
        self.version, self._check = version, check
        for server in self.servers:
            server.serves, server.refused = False, None
        together = [server for server in self.servers if not server.vain]
        task = asyncio.ensure_future(self._take(together))
        for server in together:
            server.taking = task
        await task
        for server in sorted(self.servers, key=lambda server: server.vain):  # they may have to queue
            if not server.serves and not server.refused:
                self._alone(server)
        await self._anyone()

    async def withdraw(self) -> None:
        """Give no weights any more, for there are others soon."""
        self.version = ""
        taking = {server.taking for server in self.servers if server.taking}
        for task in taking:
            task.cancel()
        await asyncio.gather(*taking, return_exceptions=True)

    async def ask(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """One answer to a request by the weights of now, from whoever is the least busy; a lost server's is not taken.

        Where it failed once it is asked again only if there is no other.

        Raises:
            TimeoutError: If there is no server for as long as ``patience``.
            ValueError: If the servers refuse the request.
            OSError: If it failed ``TRIES`` times on servers that were there: with the last one's status and text.
        """
        failed: list[Server] = []
        while True:
            server = await self._anyone(failed)
            post = asyncio.ensure_future(self._json(server, "POST", GENERATE, body))
            server.posts.add(post)
            try:
                [answer] = (await post)["choices"]
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():
                    raise  # nobody waits any more; its server sees the connection close
                if server.failing:
                    await self._once_more(server, server.failing, failed)
                continue
            except Failure as failure:
                server.fail(failure)
                await self._once_more(server, failure, failed)
                continue
            except OSError as error:
                if isinstance(error, PermissionError):
                    raise
                server.lose(f"{type(error).__name__}: {error}")
                continue
            finally:
                server.posts.discard(post)
                post.cancel()
            spans = {span["version"] for span in answer["weight_versions"] or []}
            if spans - {self.version}:
                server.lose(f"it has the weights {', '.join(sorted(spans))}, not {self.version}")
            elif answer["finish_reason"] != "abort":  # as when another gives it weights
                server.failures, server.failing = 0, None
                return answer

    async def _once_more(self, server: Server, failure: Failure, failed: list[Server]) -> None:
        """Wait before a request is made again, twice as long each time; after the last try, raise."""
        failed.append(server)
        if len(failed) == TRIES:
            raise OSError(f"sampler: a request failed {TRIES} times, the last time on {server.url}: {failure}")
        await asyncio.sleep(FIRST * 2 ** (len(failed) - 1))

    async def _anyone(self, failed: Sequence[Server] = ()) -> Server:
        """The least busy of those that serve, of others than those where it failed if there are any; waits for one."""
        waiting = asyncio.get_running_loop().time()
        while not (able := [server for server in self.servers if server.serves]):
            if self._closed is not None:
                raise self._closed
            if all(server.refused for server in self.servers):  # there is nobody to wait for
                raise self.servers[0].refused
            try:
                left = None if self.patience is None else waiting + self.patience - asyncio.get_running_loop().time()
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                why = "; ".join(f"{server.url}: {server.why}" for server in self.servers)
                raise TimeoutError(
                    f"no server serves for {self.patience:g} s (sampler.vllm_server.patience): {why}; start one with "
                    "`hone serve CONFIG`"
                ) from None
            self._news.clear()
        return min(able, key=lambda server: (failed.count(server), len(server.posts)))

    async def _watch(self, server: Server) -> None:
        """Look after a server for as long as there is a trainer."""
        delay = FIRST
        while True:
            await asyncio.sleep(PULSE if server.serves else delay)
            delay = FIRST if server.serves else min(2 * delay, MOST)
            try:
                if server.serves:
                    await self._json(server, "GET", HEALTH, limit=PULSE)
                elif self.version:
                    await asyncio.wait([self._alone(server)])
            except Exception as error:
                server.lose(f"its health: {type(error).__name__}: {error}")

    def _alone(self, server: Server) -> asyncio.Task[None]:
        """Have one server serve again, unless that is under way."""

        async def take() -> None:
            try:
                await self._take([server])
            except Exception as error:
                if server.why != (why := f"{type(error).__name__}: {error}"):
                    log.warning("sampler: the server %s cannot be given weights: %s", server.url, why)
                server.why = why

        if server.taking is None or server.taking.done():
            server.taking = asyncio.ensure_future(take())
        return server.taking

    async def _take(self, servers: Sequence[Server]) -> None:
        """Give servers the weights of now, if they answer and have others."""
        wanted = self.version
        states = await asyncio.gather(*(self._tried(server, self._look(server, wanted)) for server in servers))
        lacking = []
        for server, state in zip(servers, states, strict=True):
            if state and state["version"] == wanted:
                self._serve(server, state, wanted)
            elif state:
                lacking.append((server, state))
        if not lacking:
            return
        async with self.sender.delivery(wanted, [state for _, state in lacking]) as (parts, fail):

            async def one(server: Server, state: Mapping[str, Any], part: Mapping[str, Any]) -> None:
                body = {"version": wanted, "check": self._check, **part}
                if await self._tried(server, self._post(server, body)):
                    self._serve(server, state, wanted)
                else:
                    fail(f"{server.url}: {server.why}")

            for server, _ in lacking:
                server.vain += 1
            await asyncio.gather(*(one(*each, part) for each, part in zip(lacking, parts, strict=True)))

    def _serve(self, server: Server, state: Mapping[str, Any], wanted: str) -> None:
        server.refused, server.longest, server.vain = None, state["longest"], 0
        server.serves = wanted == self.version
        if server.serves:
            self._news.set()

    async def _look(self, server: Server, wanted: str) -> Mapping[str, Any]:
        """What a server says of itself."""
        state = await self._json(server, "GET", WEIGHTS, limit=PULSE)
        more = ("workers", "device") if self.sender and self.sender.together else ()
        server.says(state, "version", "longest", *more)
        if self.sender is None and state["version"] != wanted:
            raise OSError("it has not taken the weights of now yet")
        own, other = self.sender and self.sender.transfer, state.get("transfer", "folder")
        if own not in (None, other):
            raise ValueError(f"sampler.vllm_server.transfer: {own}: {server.url} was started with {other}")
        return state

    async def _post(self, server: Server, body: Mapping[str, Any]) -> Mapping[str, Any]:
        limit = None if self.patience is None else self.patience + GRACE
        report = await self._json(server, "POST", WEIGHTS, body, limit=limit)
        server.says(report, "unlike", "compared")
        if report["unlike"]:
            some = f"{len(report['unlike'])} of {report['compared']} weights, such as {report['unlike'][0]}"
            raise RuntimeError(f"sampler: {some}, in {server.url} are not those it was sent")
        return report

    async def _tried(self, server: Server, work: Coroutine[Any, Any, Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """What a server answers; if that is an error, nothing, and the server has it."""
        try:
            return await work
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, PermissionError):
                server.why = f"{type(error).__name__}: {error}"
                server.vain += not isinstance(error, Failure)
                return None
            if server.why != str(error):
                log.warning("sampler: the server %s is left out: %s", server.url, error)
            server.refused, server.why, server.vain = error, str(error), 0
            self._news.set()
        return None

    async def _json(
        self, server: Server, method: str, path: str, body: Mapping[str, Any] | None = None, limit: float | None = None
    ) -> Any:
        """What a server answers; whatever may pass is an OSError.

        Raises:
            PermissionError: It does not take the key.
            ValueError: It does not take the request.
            Failure: It did not answer as one that is in order.
            OSError: It did not answer in time.
        """
        import aiohttp

        try:
            async with asyncio.timeout(limit), self._session.request(method, server.url + path, json=body) as response:
                if response.status in (401, 403):
                    raise PermissionError(f"{server.url} does not take the key; {KEY} is to be what `hone serve` had")
                if response.status in (400, 422):
                    raise ValueError(f"sampler: {server.url} refuses: {(await response.text())[:500]}")
                if response.status == 404:
                    raise OSError(f"it has no {path}; was it started with `hone serve`?")
                if not response.ok:
                    raise Failure(f"{response.status} from {path}: {(await response.text())[:500]}")
                return await response.json() if path != HEALTH else None
        except TimeoutError:
            raise OSError(f"no answer to {path} in time") from None
        except aiohttp.ClientError as error:
            raise OSError(str(error) or type(error).__name__) from None
