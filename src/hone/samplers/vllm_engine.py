"""vLLM in the trainer's process: its engine samples, and takes the policy's weights in place after each update.

::

    sampler: {vllm: {memory: 0.4, engine: {enforce_eager: true, kv_cache_dtype: fp8}}}

Tokens go in and come out, and nothing is tokenised again. What the engine says of a token's probability is after
temperature, truncation and processors, and by its own kernels: in bfloat16 these differ from the trainer's by up to
tenths of a nat, so that training multiplies by an importance weight unless its objective has one (``correction``).
"""

from __future__ import annotations

import asyncio
import itertools
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from hone import hangs, launcher, ranks
from hone.samplers import vllm_compat
from hone.samplers.stepping import OneThread, Stepper
from hone.samplers.vllm_requests import Asking
from hone.samplers.vllm_settings import VLLMSettings
from hone.samplers.vllm_weights import words
from hone.seats import SamplingParams, settings
from hone.types import Completion, Segment

T = TypeVar("T")

WHERE = "sampler.vllm.engine"
PAUSE = 0.2
"""Seconds between two looks at whether another process has failed."""
_numbers = itertools.count()
"""Every process starts the same engines in the same order."""


@settings
class VLLMSampler(VLLMSettings):
    """An engine on the device of this process: of several training processes each has its own, and samples its share.

    For one engine over several devices start servers with `hone serve`, and take the sampler ``vllm_server``. The
    settings are those of :class:`~hone.samplers.vllm_settings.VLLMSettings`; on a GPU ``memory`` is given back while
    the policy is updated.
    """

    _policy: Any = field(default=None, init=False, repr=False, compare=False)
    _asleep: bool = field(default=False, init=False, repr=False, compare=False)
    _engine: Any = field(default=None, init=False, repr=False, compare=False)
    _thread: Any = field(default=None, init=False, repr=False, compare=False)
    _stepper: Any = field(default=None, init=False, repr=False, compare=False)

    # The weights

    def sync(self, policy: Any) -> None:
        """Give the engine the policy's weights as they are now; the first time, start it.

        Of several processes all have to call it; what one raises, all do.

        Raises:
            ImportError: If there is no vLLM that hone knows.
            ValueError: If the policy cannot give its weights, or the engine cannot run with these settings.
            RuntimeError: If sequences are under way, or the engine does not hold what it was sent.
            HangError: If it takes longer than ``patience``.
        """
        policy = policy.whole() if hasattr(policy, "whole") else policy
        ranks.each(lambda: self._prepare(policy))
        if self._policy is None:
            machines = ranks.each(platform.node)
            ranks.each(lambda: self._refuse_device(policy.device, machines.count(platform.node())))
            ranks.each(lambda: self._start(policy))
        ranks.each(lambda: self._give(policy))
        self._took(policy)

    def _prepare(self, policy: Any) -> None:
        """Go no further with a policy that cannot work, nor with an engine for another."""
        self.accept(policy)
        if self._stepper is not None and (under_way := self._stepper.under_way):
            raise RuntimeError(f"sampler: the weights cannot change while {under_way} sequences are under way")
        if self._policy is not None and policy.renderer is self._policy.renderer:  # the same, or a copy of it
            return
        self.close()
        vllm_compat.require()
        vllm_compat.refuse_unknown(self.engine, WHERE)

    def _start(self, policy: Any) -> None:
        """Start the engine; where that fails in another process, come back without, for that one says why."""
        arguments = self.arguments(str(policy.model.dtype).removeprefix("torch."))
        if policy.device.type == "cuda":
            arguments["enable_sleep_mode"] = True
        self._thread = OneThread("hone-vllm")
        failed = f"engine {next(_numbers)} failed"

        def start() -> vllm_compat.Engine:
            with tempfile.TemporaryDirectory(prefix="hone-vllm-") as folder:
                policy.outline(Path(folder))
                return vllm_compat.Engine(folder, arguments, joined=ranks.several())

        try:
            self._engine = self._call(start, "starting vLLM", lambda: ranks.several() and ranks.posted(failed))
        except BaseException:
            if ranks.several():
                with suppress(RuntimeError):  # the first process may have ended, and then all hear of that
                    ranks.post(failed, None)
            raise
        if self._engine is None:
            return
        self._policy, self.renderer, self._syncs = policy, policy.renderer, 0
        asking = Asking(policy.renderer, self.processors, self._engine.longest)
        self._stepper = Stepper(self._engine, self._thread, asking)

    def _refuse_device(self, device: Any, here: int) -> None:
        """Before weights are loaded a second time; ``here`` processes are on this machine."""
        own = launcher.local_place() if ranks.several() else 0
        if device.type not in ("cpu", "cuda") or device.index not in (None, own):
            raise ValueError(f"device = {device}: vLLM in this process runs on the CPU or the first GPU that it sees")
        for name, value in self.engine.items():
            if name == "distributed_executor_backend" or (name.endswith("_parallel_size") and value != 1):
                raise ValueError(
                    f"{WHERE}.{name}: an engine in this process has its one device; for one over several take sampler: "
                    "vllm_server, beside servers of `hone serve`"
                )
        free, total = vllm_compat.free_memory(device)
        engines = here if device.type == "cpu" else 1
        if engines * self.memory * total > free and "kv_cache_memory_bytes" not in self.engine:
            each = f" in each of {engines} processes" if engines > 1 else ""
            raise ValueError(
                f"sampler.vllm.memory = {self.memory}{each}: of the {total / 2**30:.1f} GiB of {device}, "
                f"{free / 2**30:.1f} GiB are free; set it to at most {int(100 * free / total / engines) / 100}"
            )

    def _give(self, policy: Any) -> None:
        for processor in self.processors:
            processor.bind(self.renderer)
        self._call(lambda: self._load(policy), "giving vLLM the weights")

    def _load(self, policy: Any) -> None:
        self._wake()
        due, sent = self._due, {}

        def sending() -> Iterator[tuple[str, Tensor]]:
            for name, weight in policy.weights():
                if due:
                    sent.update(words(name, weight, policy.model.dtype))
                yield name, weight

        self._engine.load(sending())
        if due:
            unlike, compared = self._engine.unlike(sent)
            if unlike:
                told = f"{len(unlike)} of {compared} weights in vLLM are not those it was sent"
                raise RuntimeError(f"sampler: {told}, such as {unlike[0]}")

    # Memory

    def rest(self) -> None:
        """Give the memory back until the next sync or sample, where the device can."""
        if self._engine is not None and self._policy.device.type == "cuda":
            ranks.each(self._sleep)

    def _sleep(self) -> None:
        if not self._asleep:
            self._call(self._engine.sleep, "putting vLLM to sleep")
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._engine.wake()
            self._asleep = False

    def close(self) -> None:
        """End the engine; sequences under way fail."""
        if self._engine is not None:
            self._stepper.close()
            self._call(self._engine.close, "ending vLLM")
        if self._thread is not None:
            self._thread.end()
        self._engine = self._policy = self._thread = self._stepper = None

    def _call(self, work: Callable[[], T], what: str, given_up: Callable[[], bool] | None = None) -> T | None:
        """What a function gives in the engine's thread; None once it is ``given_up``."""
        done, began = self._thread.submit(work), time.monotonic()
        while not wait([done], self.patience if given_up is None else PAUSE).done:
            if given_up is not None and given_up():
                return None
            if self.patience is not None and time.monotonic() - began >= self.patience:
                self._engine = None  # it is not to be waited for again
                raise hangs.told(what, self.patience, "sampler.vllm.patience")
        return done.result()

    async def sample(self, context: Sequence[Segment], params: SamplingParams) -> Completion:
        """Continue ``context`` until a stop token, a stop string or ``max_tokens``.

        Raises:
            ValueError: If the context is empty, or the engine has no room for it and ``max_tokens`` more.
            RuntimeError: Before ``sync``.
        """
        if self._stepper is None:
            raise RuntimeError("sampler: there is no policy; call sync(policy) first")
        if self._asleep:
            await asyncio.wrap_future(self._thread.submit(self._wake))
        return await self._stepper.sample(context, params, self._version)
