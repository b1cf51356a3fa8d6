"""Contexts to keys and values: each once, and what all of a batch begin with once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from hone import masks

Context = tuple[int, ...]

WORTH = 128
"""A pass of its own for the common beginning must spare this many tokens: a pass costs something by itself."""


class Prefix:
    """A context that was computed once, for all the sequences that continue it.

    Attributes:
        layers: Keys and values, each ``[heads, length, width]``.
        logits: ``[V]`` for the step after the context.
        length: Of the context.
    """

    def __init__(self, cache: DynamicCache, row: int, length: int, logits: Tensor) -> None:
        self.layers = [(layer.keys[row, :, :length], layer.values[row, :, :length]) for layer in cache.layers]
        self.logits = logits
        self.length = length


class Prefill:
    """Computes contexts by a policy's model.

    Args:
        policy: A causal language model that takes masks.
        keyword: By which its backbone takes a cache.
    """

    def __init__(self, policy: Any, keyword: str) -> None:
        self.policy, self.keyword = policy, keyword

    def __call__(self, contexts: Iterable[Context], most: int) -> dict[Context, Prefix]:
        """Compute distinct contexts, those of similar length together, at most ``most`` tokens in a pass."""
        found = {}
        for batch in _batches(contexts, most):
            found |= zip(batch, self._batch(batch), strict=True)
        return found

    def _batch(self, contexts: list[Context]) -> list[Prefix]:
        cache = DynamicCache()
        shared = _common(contexts)
        if shared * (len(contexts) - 1) < WORTH:
            shared = 0
        else:
            self._read([contexts[0][:shared]], cache, 0)
            cache.batch_repeat_interleave(len(contexts))
        hidden = self._read([context[shared:] for context in contexts], cache, shared)
        ends = torch.tensor([len(context) - shared - 1 for context in contexts], device=hidden.device)
        logits = self.policy.logits(hidden[torch.arange(len(contexts), device=hidden.device), ends])
        return [Prefix(cache, row, len(context), logits[row]) for row, context in enumerate(contexts)]

    def _read(self, rows: Sequence[Context], cache: DynamicCache, start: int) -> Tensor:
        """Read rows that go on at position ``start``, into the cache; hidden states ``[rows, steps, D]``."""
        device, width = self.policy.device, max(map(len, rows))
        positions = torch.arange(start, start + width, device=device)[None]
        mask = None  # otherwise plain causal attention is right: padding comes last and is seen by nobody
        if start:
            keys = torch.arange(start + width, device=device)[None]
            allowed = positions[:, :, None] >= keys[:, None, :]
            mask = masks.by_layer(self.policy.text_config, allowed, positions, keys)
        return self.policy.backbone(
            input_ids=torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device),
            position_ids=positions.expand(len(rows), -1),
            attention_mask=mask,
            use_cache=True,
            **{self.keyword: cache},
        ).last_hidden_state


def _batches(contexts: Iterable[Context], most: int) -> Iterator[list[Context]]:
    batch: list[Context] = []
    for context in sorted(contexts, key=lambda context: (len(context), context)):
        if batch and len(context) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(context)
    if batch:
        yield batch


def _common(contexts: Sequence[Context]) -> int:
    """With how many tokens all begin alike, leaving each at least one."""
    first, last = min(contexts), max(contexts)  # in alphabetical order, so that the others lie between
    alike = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(alike, min(map(len, contexts)) - 1)
