"""What is asked of vLLM for a sample, and what its answer is as a completion: the same in process and by a server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from hone.samplers.segments import segments
from hone.seats import Processor, Renderer, SamplingParams
from hone.types import Completion, Segment, Stop


@dataclass(frozen=True)
class Asking:
    """The part of a request that is the same for all of a sampler's.

    Attributes:
        renderer: Its stop tokens end a sample, and nothing else does; vLLM's own end tokens are switched off.
        processors: Each with an adapter for vLLM: an attribute ``vllm``, which is the name of its settings in a request
            and the adapter's address, and ``marks(tokens, params)``, which finds what was imposed.
        longest: Most tokens of a context and its continuation together.
    """

    renderer: Renderer
    processors: Sequence[Processor]
    longest: int

    def context(self, segments: Sequence[Segment], params: SamplingParams) -> tuple[int, ...]:
        """The token ids that a sample continues.

        Raises:
            ValueError: If there are none, or the engine has no room for them and ``max_tokens`` more.
        """
        actions = tuple(action for segment in segments for action in segment.actions)
        if not actions:
            raise ValueError("sampler: the context is empty; there is nothing to continue")
        if len(actions) + params.max_tokens > self.longest:
            most = self.longest - len(actions)
            way = f"set sampling.max_tokens to at most {most}" if most > 0 else "shorten the context"
            raise ValueError(
                f"sampler: a context of {len(actions)} tokens and sampling.max_tokens: {params.max_tokens} need "
                f"{len(actions) + params.max_tokens} positions; the engine has {self.longest}; {way}"
            )
        return actions

    def of(self, params: SamplingParams) -> dict[str, Any]:
        """The fields of vLLM's ``SamplingParams``, as plain data. The seed is the sample's own, from its key."""
        asked = {name: getattr(params, name) for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens")}
        asked |= {"seed": params.seed, "logprobs": 0, "ignore_eos": True}
        asked |= {"stop_token_ids": sorted(self.renderer.stop_tokens), "detokenize": bool(params.stop)}
        if params.stop:
            asked |= {"stop": list(params.stop), "include_stop_str_in_output": True}
        if self.processors:
            asked["extra_args"] = {processor.vllm[0]: _settings(processor) for processor in self.processors}
        return asked

    def completion(
        self, tokens: Sequence[int], logprobs: Sequence[float], reason: str, params: SamplingParams, version: int
    ) -> Completion:
        """The sample.

        Raises:
            FloatingPointError: If a log-probability is no number.
            RuntimeError: If the engine did not finish it.
        """
        if not all(map(math.isfinite, logprobs)):
            raise FloatingPointError("sampler: the log-probabilities are not finite; blame the weights or a processor")
        stop: Stop = "length"
        if reason == "stop":
            stop = "eos" if tokens[-1] in self.renderer.stop_tokens else "stop"
        elif reason != "length":
            raise RuntimeError(f"sampler: vLLM gave a request up ({reason})")
        if stop == "stop":
            tokens = self._cut(tokens, params.stop)
            logprobs = logprobs[: len(tokens)]
        marks = [processor.marks(tokens, params) for processor in self.processors]
        forced = {i for mark in marks for i, imposed in enumerate(mark) if imposed}
        return Completion(segments(tokens, logprobs, forced, self.renderer.decode), stop, version)

    def _cut(self, tokens: Sequence[int], stops: Sequence[str]) -> Sequence[int]:
        """Without what came behind a stop string in the same step: speculation draws several tokens at once."""

        def has_ended(count: int) -> bool:
            text = self.renderer.decode(tokens[:count])
            return any(string in text for string in stops)

        while len(tokens) > 1 and has_ended(len(tokens) - 1):
            tokens = tokens[:-1]
        return tokens


def _settings(processor: Any) -> dict[str, Any]:
    """Those that a user gives."""
    return {each.name: getattr(processor, each.name) for each in fields(processor) if each.init}
