"""The embedded sampler: a decode loop over the policy's own weights, with no engine beside it.

Contexts are computed once and branched to their siblings; a finished sequence leaves the batch at once and a waiting
one takes its slot; each token's noise is keyed by (seed, position), so a sample does not depend on its neighbours.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from hone.checksums import checksums
from hone.samplers.burst import Burst
from hone.samplers.decode import Decoder, cache_keyword
from hone.samplers.draw import Rules, draw, fetched
from hone.samplers.graphs import KEYS, Graphs, current
from hone.samplers.prefill import Prefill, Prefix
from hone.samplers.prepacked import Prepacked
from hone.samplers.segments import segments
from hone.samplers.slots import GROW, ROOM, Slots
from hone.seats import Processor, SamplingParams, settings
from hone.types import Completion, Segment, Stop


@dataclass(eq=False)
class Request:
    """One sequence, from its context to its last token."""

    context: tuple[int, ...]
    params: SamplingParams
    done: asyncio.Future[Completion]
    version: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    forced: set[int] = field(default_factory=set)
    """Positions of the tokens that a processor has imposed."""

    @property
    def length(self) -> int:
        """Steps in the cache before the coming one: all but the newest token."""
        return len(self.context) + len(self.tokens) - 1


@settings
class NativeSampler:
    """Samples from the policy's weights in place; any attention-only causal model of transformers.

    Attributes:
        max_sequences: Most sequences decoded together; the others wait for a slot.
        prefill_tokens: Most context tokens computed in one pass.
        graphs: On a GPU, capture decode steps as CUDA graphs and replay them. The cache then stays between rounds.
        processors: Change the logits before each draw, or what was drawn.
    """

    max_sequences: int = Field(64, ge=1)
    prefill_tokens: int = Field(4096, ge=1)
    graphs: bool = True
    processors: list[Processor] = field(default_factory=list)

    renderer: Any = field(default=None, init=False, repr=False, compare=False)
    _policy: Any = field(default=None, init=False, repr=False, compare=False)
    _keeps_slots: bool = field(default=False, init=False, repr=False, compare=False)
    _waiting: deque[Request] = field(default_factory=deque, init=False, repr=False, compare=False)
    _running: list[Request] = field(default_factory=list, init=False, repr=False, compare=False)
    _prefixes: dict[tuple[int, ...], Prefix] = field(default_factory=dict, init=False, repr=False, compare=False)
    _slots: Slots | None = field(default=None, init=False, repr=False, compare=False)
    _decoder: Decoder | None = field(default=None, init=False, repr=False, compare=False)
    _burst: Burst | None = field(default=None, init=False, repr=False, compare=False)
    _prepacked: Prepacked | None = field(default=None, init=False, repr=False, compare=False)
    _rules: Rules | None = field(default=None, init=False, repr=False, compare=False)
    _driver: Any = field(default=None, init=False, repr=False, compare=False)

    def sync(self, policy: Any) -> None:
        """Bind the policy; its weights are read where they are, so later updates need no copy.

        Of one that is sharded the whole copy is read, which every process has to ask for.

        Raises:
            ValueError: If the policy's model cannot be decoded with an explicit attention mask.
        """
        policy = policy.whole() if hasattr(policy, "whole") else policy
        if not getattr(policy, "takes_masks", False):
            raise ValueError("sampler: the native sampler needs a model whose layers are all attention")
        if policy is not self._policy:
            self._slots = self._decoder = self._burst = self._prepacked = None
        self._policy, self.renderer = policy, policy.renderer
        self._keeps_slots = self.graphs and policy.device.type == "cuda"
        for processor in self.processors:
            if hasattr(processor, "bind"):
                processor.bind(self.renderer)

    def fingerprint(self) -> dict[str, int]:
        """Checksums of the weights that it decodes with."""
        return checksums((n, w) for n, w in self._policy.model.named_parameters() if w.requires_grad)

    def rest(self) -> None:
        """Give back the weights that were prepacked."""
        self._prepacked = None

    def close(self) -> None:
        """Forget the policy; sequences under way fail."""
        self._policy = self._slots = self._decoder = self._burst = self._prepacked = None

    async def sample(self, context: Sequence[Segment], params: SamplingParams) -> Completion:
        """Continue ``context`` until a stop token, a stop string or ``max_tokens``.

        Raises:
            ValueError: If the context is empty, or the model has too few positions for it and ``max_tokens`` more.
            RuntimeError: Before ``sync``.
        """
        actions = tuple(action for segment in context for action in segment.actions)
        if not actions:
            raise ValueError("sampler: the context is empty; there is nothing to continue")
        if self._policy is None:
            raise RuntimeError("sampler: there is no policy; call sync(policy) first")
        self._check_room(len(actions), params.max_tokens)
        loop = asyncio.get_running_loop()
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not loop:
            self._forget()  # what a loop that was stopped midway has left
            self._driver = loop.create_task(self._drive())
        request = Request(actions, params, loop.create_future(), self._policy.version)
        self._waiting.append(request)
        return await request.done  # whoever cancels this cancels the future, and the driver drops the request

    def _check_room(self, context: int, most: int) -> None:
        """Refuse what may outgrow the model: there some fail, and those with rotary positions go on in nonsense."""
        limit = getattr(self._policy.text_config, "max_position_embeddings", None)
        if limit and context + most > limit:
            way = f"set sampling.max_tokens to at most {limit - context}" if context < limit else "shorten the context"
            raise ValueError(
                f"sampler: a context of {context} tokens and sampling.max_tokens: {most} need {context + most} "
                f"positions; the model has {limit} (max_position_embeddings in its config.json); {way}"
            )

    async def _drive(self) -> None:
        """Decode until nobody waits; an error goes to everybody who does."""
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # let siblings and other groups line up, so that the first prefill serves them all
            while self._waiting or self._running:
                if self._policy is None:
                    raise RuntimeError("sampler: it was closed while this sequence was under way")
                with torch.inference_mode(), current(self._policy.device), self._weights().used():
                    self._enter()
                    self._decode()
                await asyncio.sleep(0)
        except Exception as error:
            self._slots = self._decoder = self._burst = None  # not a number times a weight of 0 is none either
            for request in (*self._waiting, *self._running):
                if not request.done.done():
                    request.done.set_exception(error)
        finally:
            for request in (*self._waiting, *self._running):
                request.done.cancel()  # does nothing to those that have their error
            self._forget()

    def _weights(self) -> Prepacked:
        """Those of the policy, prepacked; nothing updates them while sequences are running."""
        version = self._policy.version
        if not self._running and self._prepacked and not self._prepacked.fresh(version):
            self._prepacked = None
        if self._prepacked is None:
            self._prepacked = Prepacked(self._policy.causal_lm, version)
        return self._prepacked

    def _forget(self) -> None:
        self._waiting.clear()
        self._prefixes.clear()
        self._running, self._rules = [], None
        if not self._keeps_slots:
            self._slots = self._decoder = None
        elif self._burst:
            self._burst.steps = 0

    def _decode(self) -> None:
        """Give each running sequence its next token, or have it given one and look later."""
        if not self._running:
            return
        if self._burst and not self.processors:
            return self._on()
        tokens = [request.tokens[-1] for request in self._running]
        logits = self._decoder(tokens, [request.length for request in self._running])
        self._rules = self._rules or Rules.stack([r.params for r in self._running], self._policy.device)
        self._extend(self._running, logits, self._rules)

    def _on(self) -> None:
        """Launch a step, and look at what was drawn if an end was near."""
        if self._rules is None:
            self._rules = self._burst.load(self._running)
        self._burst.step()
        if self._burst.look():
            self._collect()

    def _collect(self) -> None:
        """Give each running sequence what was drawn for it; those that are finished leave."""
        if self._burst and self._burst.steps:
            for request, drawn in zip(self._running, self._burst.collect(), strict=True):
                request.tokens += drawn.tokens
                request.logprobs += drawn.logprobs
                request.entropies += drawn.entropies
            self._leave()

    def _extend(self, requests: Sequence[Request], logits: Tensor, rules: Rules) -> None:
        """Draw each request's next token; those that it finishes leave."""
        for processor in self.processors:
            logits = processor(requests, logits)
        position = torch.tensor([len(request.tokens) for request in requests], device=rules.seed.device)
        drawn, logprobs, entropies = fetched(draw(logits, rules, position))
        for processor in self.processors:
            if hasattr(processor, "replace"):
                for row, token in processor.replace(requests, drawn).items():
                    drawn[row] = token
                    requests[row].forced.add(len(requests[row].tokens))
        for request, token, logprob in zip(requests, drawn, logprobs, strict=True):
            request.tokens.append(token)
            request.logprobs.append(logprob)
        for request, entropy in zip(requests, entropies, strict=bool(entropies)):
            request.entropies.append(entropy)
        self._leave()

    def _leave(self) -> None:
        """Answer finished requests and drop cancelled ones; the last running sequence moves into a freed slot."""
        for slot in reversed(range(len(self._running))):
            request = self._running[slot]
            stop = self._stop(request)
            if stop is None and not request.done.cancelled():
                continue
            if not request.done.done():
                request.done.set_result(self._completion(request, stop))
            last = self._running.pop()
            if last is not request:
                self._running[slot] = last
                self._slots.move(len(self._running), slot, last.length)
            self._rules = None

    def _stop(self, request: Request) -> Stop | None:
        if request.tokens[-1] in self.renderer.stop_tokens:
            return "eos"
        if request.params.stop:
            # A token has at least one byte or ends a character, so this tail holds any stop string that just ended.
            tail = self.renderer.decode(request.tokens[-4 * max(map(len, request.params.stop)) :])
            if any(string in tail for string in request.params.stop):
                return "stop"
        return "length" if len(request.tokens) >= request.params.max_tokens else None

    def _completion(self, request: Request, stop: Stop) -> Completion:
        # Of a distribution that was cut or processed, the entropy is not the policy's.
        whole = request.params.entropies and not (request.params.truncated or self.processors)
        entropies = request.entropies if whole else ()
        made = segments(request.tokens, request.logprobs, request.forced, self.renderer.decode, entropies)
        return Completion(made, stop, request.version)

    def _enter(self) -> None:
        """Give free slots to waiting requests, and each of them its first token."""
        if self._waiting and len(self._running) < self.max_sequences:
            self._collect()
        entering = []
        while self._waiting and len(self._running) + len(entering) < self.max_sequences:
            request = self._waiting.popleft()
            if not request.done.cancelled():
                entering.append(request)
        if not entering:
            return
        places = {request.context: i for i, request in reversed(list(enumerate(entering)))}
        entering.sort(key=lambda request: places[request.context])  # siblings side by side
        first = len(self._running)
        self._running += entering  # at once, so that an error reaches them
        self._rules = None
        new = {request.context for request in entering} - self._prefixes.keys()
        self._prefixes |= Prefill(self._policy, cache_keyword(self._policy.backbone))(new, self.prefill_tokens)
        prefixes = [self._prefixes[request.context] for request in entering]
        if self._slots is None:
            wanted = self.max_sequences if self._keeps_slots else len(entering) + len(self._waiting)
            count = min(self.max_sequences, wanted)
            grow = ROOM if self._keeps_slots else GROW
            length = max(len(request.context) + min(request.params.max_tokens, grow) for request in entering)
            length = -(-length // KEYS) * KEYS if self._keeps_slots else length
            self._slots = Slots(count, length, prefixes[0].layers, grow)
            graphs = Graphs(self._slots, self._policy.device) if self._keeps_slots else None
            self._decoder = Decoder(self._policy, self._slots, graphs)
            self._burst = Burst(self._decoder, self.renderer.stop_tokens) if graphs else None
        self._slots.ensure(len(self._running))
        for prefix, alike in groupby(enumerate(prefixes, start=first), key=lambda each: each[1]):
            taken = [slot for slot, _ in alike]
            self._slots.fill(slice(taken[0], taken[-1] + 1), prefix)
        wanted = {request.context for request in self._waiting}
        self._prefixes = {context: p for context, p in self._prefixes.items() if context in wanted}
        logits = torch.stack([prefix.logits for prefix in prefixes])
        self._extend(entering, logits, Rules.stack([r.params for r in entering], logits.device))
