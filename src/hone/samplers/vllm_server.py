"""vLLM in servers of its own, one or many, which `hone serve` starts: across GPUs and hosts, beside the trainer.

::

    sampler: {vllm_server: {urls: [http://127.0.0.1:8000], exchange: /dev/shm/hone}}

`hone serve CONFIG` reads the same file. A server binds to the loopback unless it is told otherwise; it asks for the key
in HONE_API_KEY, if there is one in its environment, and the trainer has it in its own. Weights go through ``exchange``,
a folder that trainer and servers share, or without one from process to process, by ``transfer``. A server that is lost
is tried again; what was asked of it is asked of the others, and no answer is taken that is by other weights than those
of now. Of several training processes the first gives the weights, and each asks for its own share of the samples.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field

from hone import hangs, ranks
from hone.samplers.vllm_fleet import Fleet
from hone.samplers.vllm_meeting import address, is_loopback
from hone.samplers.vllm_requests import Asking
from hone.samplers.vllm_senders import Direct, Folder
from hone.samplers.vllm_settings import VLLMSettings
from hone.seats import SamplingParams, settings
from hone.types import Completion, Segment

T = TypeVar("T")


@settings
class VLLMServers(VLLMSettings):
    """Servers that were started with `hone serve`; they need not be there yet when a run begins.

    Further settings are those of :class:`~hone.samplers.vllm_settings.VLLMSettings`, for each server.

    Attributes:
        urls: Of the servers.
        transfer: How weights go: "folder"; "collective", a broadcast to all workers of all servers, by NCCL between
            GPUs and else by gloo; or "ipc", through a GPU's memory to servers of the trainer's host. Without a folder
            the trainer's host keeps a copy of the weights. None is "folder" if there is an ``exchange``, else
            "collective".
        exchange: The folder, for "folder" alone; it has to be the servers', and hold the weights twice. What a
            trainer that was killed has left in it can be deleted.
        meet: Without a folder the address of the trainer as the servers reach it, ``host`` or ``host:port``; loopback
            if none is given. Nothing there asks for the key: it has to be a network of one's own.
        patience: Seconds for which there may be no server, and for which one may take weights; None for no limit.
    """

    urls: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["http://127.0.0.1:8000"])
    transfer: Literal["folder", "collective", "ipc"] | None = None
    exchange: str | None = None
    meet: str | None = None
    memory: float = Field(0.9, gt=0, le=1)

    _sender: Any = field(default=None, init=False, repr=False, compare=False)
    _fleet: Any = field(default=None, init=False, repr=False, compare=False)
    _loop: Any = field(default=None, init=False, repr=False, compare=False)
    _under_way: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (several := self.engine.get("data_parallel_size", 1)) != 1:  # vLLM tells only what the first of them says
            raise ValueError(
                f"engine.data_parallel_size: {several}: start as many servers instead, and name them in urls"
            )
        if self.way == "folder":
            if self.exchange is None:
                raise ValueError("exchange: name a folder that trainer and servers share, or set transfer: collective")
            if self.meet is not None:
                raise ValueError("meet: is of transfer: collective; weights go through the folder exchange")
        elif self.exchange is not None:
            raise ValueError(f"exchange: is of transfer: folder; leave it out, {self.way} needs none")
        else:
            self._refuse_place(self.meet or LOOPBACK)

    @property
    def way(self) -> str:
        """``transfer``, or what it is by itself."""
        return self.transfer or ("collective" if self.exchange is None else "folder")

    def _refuse_place(self, meet: str) -> None:
        try:
            host, _ = address(meet)
        except ValueError as error:
            raise ValueError(f"meet: {error}") from None
        far = next((url for url in self.urls if not is_loopback(urlsplit(url).hostname or "")), None)
        if far and is_loopback(host) and self.way == "collective":
            raise ValueError(f"meet: {far} cannot come to {host}; set the trainer's address as servers reach it")

    def sync(self, policy: Any) -> None:
        """Have the servers take the policy's weights as they are now; of several processes all have to call it.

        Raises:
            ImportError: If there is no aiohttp.
            ValueError: If the policy cannot give its weights, or the servers refuse them.
            PermissionError: If they do not take the key.
            RuntimeError: If samples are under way, or a server holds others than it was sent.
            TimeoutError: If there is no server for as long as ``patience``; HangError if one does not come back.
        """
        policy = policy.whole() if hasattr(policy, "whole") else policy
        name = ranks.each(lambda: self._prepare(policy))[0]  # nobody is sampling any more, once all are here
        try:
            for gives in (True, False):  # who only asks finds a server that has them
                ranks.each(lambda gives=gives: self._give(name) if gives == self._gives else None)
        finally:
            if self._gives:
                self._sender.settled()
        self._took(policy)

    @property
    def _gives(self) -> bool:
        return ranks.index() == 0

    def _prepare(self, policy: Any) -> str:
        """Make ready to give or to get weights; in the first process, their name."""
        self.accept(policy)
        if self._under_way:
            raise RuntimeError(f"sampler: the weights cannot change while {self._under_way} sequences are under way")
        if self._fleet is None:
            self._open()
        self.renderer = policy.renderer
        for processor in self.processors:
            processor.bind(self.renderer)
        if not self._gives:
            return ""
        self._call(self._fleet.withdraw(), "ending what is given to late servers")
        return self._sender.put(policy.weights(), policy.version)

    def _give(self, name: str) -> None:
        self._call(self._fleet.give(name, self._due), "giving weights")

    def _open(self) -> None:
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise ImportError("sampler: vllm_server needs aiohttp; pip install hone-rl[servers]") from None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hone-servers", daemon=True).start()
        if self._gives:
            direct = self.way != "folder"
            way = Direct(self.way, self.meet or LOOPBACK, self.patience) if direct else Folder(self.exchange)
            self._sender = way

        async def fleet() -> Fleet:
            return await Fleet(self.urls, self.patience, self._sender).__aenter__()

        self._fleet = self._call(fleet(), "opening connections")

    def close(self) -> None:
        """Leave the servers as they are; samples under way fail."""
        if self._fleet is not None:
            self._call(self._fleet.__aexit__(), "closing connections")
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._sender is not None:
            self._sender.close()
        self._fleet = self._loop = self._sender = None
        self._syncs = 0

    def _call(self, work: Coroutine[Any, Any, T], what: str) -> T:
        """What a coroutine gives in the loop of the connections; the fleet keeps its own time, this is for the rest."""
        limit = None if self.patience is None else 2 * self.patience + 60
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result(limit)
        except TimeoutError:
            if done.done():  # it is an error of what was called
                raise
            raise hangs.told(what, limit, "sampler.vllm_server.patience") from None

    async def sample(self, context: Sequence[Segment], params: SamplingParams) -> Completion:
        """Continue ``context`` until a stop token, a stop string or ``max_tokens``.

        Raises:
            ValueError: If the context is empty, or the servers have no room for it and ``max_tokens`` more.
            RuntimeError: Before ``sync``.
            TimeoutError: If there is no server for as long as ``patience``.
            OSError: If it fails again and again on servers that are well otherwise.
        """
        if self._fleet is None:
            raise RuntimeError("sampler: there is no policy; call sync(policy) first")
        asking = Asking(self.renderer, self.processors, self._fleet.longest)
        tokens, version = asking.context(context, params), self._version
        body = {"token_ids": tokens, "sampling_params": asking.of(params)}
        self._under_way += 1
        try:
            work = asyncio.run_coroutine_threadsafe(self._fleet.ask(body), self._loop)
            answer = await asyncio.wrap_future(work)
        finally:
            self._under_way -= 1
        chosen = [float(step["logprob"]) for step in answer["logprobs"]["content"]]
        if min(chosen, default=0.0) <= LOWEST:
            chosen = [float("nan")]
        return asking.completion(answer["token_ids"], chosen, answer["finish_reason"], params, version)


LOOPBACK = "127.0.0.1"
LOWEST = -9999.0
"""What a server writes for a log-probability that is no number."""
