"""One decode step: from the newest token of every running sequence to the logits of its next one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hone import masks
from hone.samplers.graphs import Graphs, shape
from hone.samplers.slots import Slots


def cache_keyword(backbone: Any) -> str:
    """By which a model takes a cache; before transformers 5.24 it was another."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


class Decoder:
    """Decodes the first slots of a cache.

    Args:
        policy: A causal language model that takes masks.
        slots: Where its keys and values are.
        graphs: Of steps of a few shapes, with idle sequences and masked keys to spare; None launches each step for as
            many sequences and keys as there are.
    """

    def __init__(self, policy: Any, slots: Slots, graphs: Graphs | None = None) -> None:
        self.policy, self.slots, self.graphs = policy, slots, graphs
        self._keyword = cache_keyword(policy.backbone)
        if graphs:
            self._inputs = torch.zeros(2, slots.count, dtype=torch.int64, device=policy.device)
        self._logits: Tensor | None = None

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """``[n, V]`` logits behind the newest tokens of the first n slots, which go to the given positions.

        Those of a fixed step hold until the next.
        """
        width, inputs = max(positions) + 1, torch.tensor([tokens, positions])
        if self.graphs is None:
            self.slots.reserve(width)
            return self.forward(*inputs.to(self.policy.device), width)
        rows, width = shape(len(tokens), width, self.slots)
        self._inputs.zero_()
        self._inputs[:, : len(tokens)].copy_(inputs)
        if self._logits is None:
            made = self.forward(*self._inputs[:, :rows], width)
            self._logits = made.new_empty(self.slots.count, made.shape[1])
        self.graphs(("logits", rows, width), lambda: self._fixed(rows, width))
        return self._logits[: len(tokens)]

    def _fixed(self, rows: int, width: int) -> None:
        self._logits[:rows] = self.forward(*self._inputs[:, :rows], width)

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
