"""vLLM in servers of its own, one or many, which `hone serve` starts: across GPUs and hosts, beside the trainer.

::

    sampler: {vllm_server: {urls: [http://127.0.0.1:8000], exchange: /dev/shm/hone}}

`hone serve CONFIG` reads the same file. A server binds to the loopback unless it is told otherwise; it asks for the key
in HONE_API_KEY, if there is one in its environment, and the trainer has it in its own. Weights go through ``exchange``,
a folder that trainer and servers share. A server that is lost is tried again; what was asked of it is asked of the
others, and no answer is taken that is by other weights than those of now. Of several training processes the first
gives the weights, and each asks the servers for its own share of the samples.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field
from torch import Tensor

from hone import hangs, ranks
from hone.samplers.vllm_fleet import Fleet
from hone.samplers.vllm_requests import Asking
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
        exchange: The folder through which weights go; it has to be the servers', and hold the weights twice. What a
            trainer that was killed has left in it can be deleted.
        patience: Seconds for which there may be no server, and for which one may take weights; None for no limit.
    """

    urls: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["http://127.0.0.1:8000"])
    exchange: str
    memory: float = Field(0.9, gt=0, le=1)

    _written: Any = field(default=None, init=False, repr=False, compare=False)
    _fleet: Any = field(default=None, init=False, repr=False, compare=False)
    _loop: Any = field(default=None, init=False, repr=False, compare=False)
    _under_way: int = field(default=0, init=False, repr=False, compare=False)

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
        before = self._written
        name = ranks.each(lambda: self._prepare(policy))[0]  # nobody is sampling any more, once all are here
        try:
            for gives in (True, False):  # who only asks finds a server that has them
                ranks.each(lambda gives=gives: self._give(name) if gives == self._gives else None)
        finally:
            if before is not None:
                shutil.rmtree(before, ignore_errors=True)
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
        self._written = _write(policy.weights(), Path(self.exchange), policy.version)
        return self._written.name

    def _give(self, name: str) -> None:
        self._call(self._fleet.give(name, self._due), "giving weights")

    def _open(self) -> None:
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise ImportError("sampler: vllm_server needs aiohttp; pip install hone-rl[servers]") from None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hone-servers", daemon=True).start()

        async def fleet() -> Fleet:
            return await Fleet(self.urls, self.patience, self._gives).__aenter__()

        self._fleet = self._call(fleet(), "opening connections")

    def close(self) -> None:
        """Leave the servers as they are; samples under way fail."""
        if self._fleet is not None:
            self._call(self._fleet.__aexit__(), "closing connections")
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._written is not None:
            shutil.rmtree(self._written, ignore_errors=True)
        self._fleet = self._loop = self._written = None
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


LOWEST = -9999.0
"""What a server writes for a log-probability that is no number."""


def _write(weights: Any, exchange: Path, version: int) -> Path:
    """Write weights into a new folder, which appears whole or not at all."""
    from safetensors.torch import save_file

    exchange.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=exchange, prefix="."))
    held: dict[tuple[int, tuple[int, ...]], tuple[str, Tensor]] = {}
    for name, weight in weights:  # of two that are tied the first; all are kept, so that no address comes twice
        held.setdefault((weight.data_ptr(), tuple(weight.shape)), (name, weight))
    plain = {name: weight.detach().cpu().contiguous() for name, weight in held.values()}
    whole = {n: w if w.untyped_storage().nbytes() == w.nbytes else w.clone() for n, w in plain.items()}
    save_file(whole, scratch / "model.safetensors")
    folder = exchange / f"{version}-{secrets.token_hex(8)}"
    scratch.rename(folder)
    return folder
