"""One decode step: from the newest token of every running sequence to the logits of its next one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hone import masks
from hone.samplers.slots import Slots

NARROW, WIDER = 256, 512
"""Fixed steps attend to so many keys at least, and beyond that to a multiple of so many."""


def cache_keyword(backbone: Any) -> str:
    """By which a model takes a cache; before transformers 5.24 it was another."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


class Decoder:
    """Decodes the first slots of a cache.

    Each step launches the model's kernels one by one, for as many sequences and keys as there are. On a GPU that takes
    longer than the work itself. Fixed steps come in a few shapes, with idle sequences and masked keys to spare; each is
    captured as a CUDA graph when it is first asked for, and then replayed with other contents. Weights are read where
    they are, so a graph outlives an update; it does not outlive a cache that has moved.

    Args:
        policy: A causal language model that takes masks.
        slots: Where its keys and values are.
        fixed: Whether shapes are few.
    """

    def __init__(self, policy: Any, slots: Slots, fixed: bool) -> None:
        self.policy, self.slots, self.fixed = policy, slots, fixed
        self._keyword = cache_keyword(policy.backbone)
        self._steps: dict[tuple[int, int], FixedStep] = {}
        self._moves = slots.moves

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``[n, V]`` logits behind the newest tokens of the first n slots, which go to the given positions."""
        width = max(positions) + 1
        if not self.fixed:
            self.slots.reserve(width)
            inputs = torch.tensor([tokens, positions], device=self.policy.device)
            return self.forward(*inputs, width)
        rows, width = self._shape(len(tokens), width)
        self.slots.reserve(width)
        if self._moves != self.slots.moves:
            self._steps.clear()
            self._moves = self.slots.moves
        if (rows, width) not in self._steps:
            self._steps[rows, width] = FixedStep(self, rows, width)
        return self._steps[rows, width](tokens, positions)

    def forward(self, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
        """The step itself, for ``[n]`` tokens and positions, over ``width`` keys."""
        self.slots.aim(positions, width)
        queries, keys = positions[:, None], torch.arange(width, device=positions.device)[None]
        allowed = queries[:, :, None] >= keys[:, None, :]
        hidden = self.policy.backbone(
            input_ids=tokens[:, None],
            position_ids=queries,
            attention_mask=masks.by_layer(self.policy.text_config, allowed, queries, keys),
            use_cache=True,
            **{self._keyword: self.slots.cache},
        ).last_hidden_state
        return self.policy.logits(hidden[:, 0])

    def _shape(self, rows: int, width: int) -> tuple[int, int]:
        """The next of few shapes: a power of two, or all slots; and a round number of keys."""
        rows = min(1 << (rows - 1).bit_length(), self.slots.count)
        return rows, NARROW if width <= NARROW else -(-width // WIDER) * WIDER


class FixedStep:
    """A step of one shape, whose inputs stay where they are. Idle rows write to the beginning of slots not in use."""

    def __init__(self, decoder: Decoder, rows: int, width: int) -> None:
        self._forward = decoder.forward
        self._inputs = torch.zeros(2, rows, dtype=torch.int64, device=decoder.policy.device)
        self._width, self._graph = width, None
        if self._inputs.is_cuda:
            self._capture()

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """As the decoder; the logits hold until the next step."""
        self._inputs.zero_()
        self._inputs[:, : len(tokens)].copy_(torch.tensor([tokens, positions]))
        if self._graph is None:
            self._logits = self._forward(*self._inputs, self._width)
        else:
            self._graph.replay()
        return self._logits[: len(tokens)]

    def _capture(self) -> None:
        beside = torch.cuda.Stream(self._inputs.device)
        beside.wait_stream(torch.cuda.current_stream(self._inputs.device))
        with torch.cuda.stream(beside):  # libraries set themselves up in the first calls, which cannot be captured
            for _ in range(2):
                self._forward(*self._inputs, self._width)
        torch.cuda.current_stream(self._inputs.device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # an update may run in another
            self._logits = self._forward(*self._inputs, self._width)
