"""vLLM in the trainer's process: its engine samples, and takes the policy's weights in place after each update.

::

    sampler: {vllm: {memory: 0.4, engine: {enforce_eager: true, kv_cache_dtype: fp8}}}

Tokens go in and come out, and nothing is tokenised again. What the engine says of a token's probability is after
temperature, truncation and processors, and by its own kernels: in bfloat16 these differ from the trainer's by up to
tenths of a nat, so that training multiplies by an importance weight unless its objective has one (``correction``).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from hone import hangs, ranks
from hone.samplers import vllm_compat
from hone.samplers.stepping import OneThread, Stepper
from hone.samplers.vllm_requests import Asking
from hone.samplers.vllm_settings import VLLMSettings
from hone.samplers.vllm_weights import words
from hone.seats import SamplingParams, settings
from hone.types import Completion, Segment

T = TypeVar("T")

WHERE = "sampler.vllm.engine"


@settings
class VLLMSampler(VLLMSettings):
    """One engine, on one device; for several, start servers with `hone serve` and take the sampler ``vllm_server``.

    Its settings are those of :class:`~hone.samplers.vllm_settings.VLLMSettings`; on a GPU ``memory`` is given back
    while the policy is updated.
    """

    _policy: Any = field(default=None, init=False, repr=False, compare=False)
    _asleep: bool = field(default=False, init=False, repr=False, compare=False)
    _engine: Any = field(default=None, init=False, repr=False, compare=False)
    _thread: Any = field(default=None, init=False, repr=False, compare=False)
    _stepper: Any = field(default=None, init=False, repr=False, compare=False)

    # The weights

    def sync(self, policy: Any) -> None:
        """Give the engine the policy's weights as they are now; the first time, start it.

        Raises:
            ImportError: If there is no vLLM that hone knows.
            ValueError: If the policy cannot give its weights, or the engine cannot run with these settings.
            RuntimeError: If sequences are under way, or the engine does not hold what it was sent.
            HangError: If it takes longer than ``patience``.
        """
        self.accept(policy)
        if self._stepper is not None and (under_way := self._stepper.under_way):
            raise RuntimeError(f"sampler: the weights cannot change while {under_way} sequences are under way")
        if self._policy is None or policy.renderer is not self._policy.renderer:  # and no copy of the same
            self.close()
            self._start(policy)
        for processor in self.processors:
            processor.bind(self.renderer)
        self._call(lambda: self._load(policy), "giving vLLM the weights")
        self._took(policy)

    def _start(self, policy: Any) -> None:
        vllm_compat.require()
        vllm_compat.refuse_unknown(self.engine, WHERE)
        self._refuse_device(policy.device)
        arguments = self.arguments(str(policy.model.dtype).removeprefix("torch."))
        if policy.device.type == "cuda":
            arguments["enable_sleep_mode"] = True
        self._thread = OneThread("hone-vllm")

        def start() -> vllm_compat.Engine:
            with tempfile.TemporaryDirectory(prefix="hone-vllm-") as folder:
                policy.outline(Path(folder))
                return vllm_compat.Engine(folder, arguments)

        self._engine = self._call(start, "starting vLLM")
        self._policy, self.renderer, self._syncs = policy, policy.renderer, 0
        asking = Asking(policy.renderer, self.processors, self._engine.longest)
        self._stepper = Stepper(self._engine, self._thread, asking)

    def _refuse_device(self, device: Any) -> None:
        """Before weights are loaded a second time."""
        if ranks.several():
            raise ValueError(
                "sampler: vLLM in this process samples for one training process, and this run has several; take "
                "sampler: vllm_server, beside servers of `hone serve`"
            )
        if device.type not in ("cpu", "cuda") or device.index:
            raise ValueError(f"device = {device}: vLLM in this process runs on the CPU or the first GPU that it sees")
        if self.engine.get("tensor_parallel_size", 1) > 1:
            raise ValueError(f"{WHERE}.tensor_parallel_size: this process has one device; see `hone serve`")
        free, total = vllm_compat.free_memory(device)
        if self.memory * total > free and "kv_cache_memory_bytes" not in self.engine:
            raise ValueError(
                f"sampler.vllm.memory = {self.memory}: of the {total / 2**30:.1f} GiB of {device}, "
                f"{free / 2**30:.1f} GiB are free; set it to at most {int(100 * free / total) / 100}"
            )

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
        if self._engine is not None and self._policy.device.type == "cuda" and not self._asleep:
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

    def _call(self, work: Callable[[], T], what: str) -> T:
        """What a function gives in the engine's thread."""
        done = self._thread.submit(work)
        try:
            return done.result(self.patience)
        except TimeoutError:
            if done.done():  # it is an error of what was called
                raise
            self._engine = None  # it is not to be waited for again
            raise hangs.told(what, self.patience, "sampler.vllm.patience") from None

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
