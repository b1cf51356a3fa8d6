"""Which step may look at which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"


def tree(branch: Tensor) -> Tensor:
    """The mask of rows that hold a context and independent branches behind it.

    A step sees the context before it and its own branch before it; a padded step sees itself, so that no softmax is
    empty.

    Args:
        branch: ``[B, T]`` int64: 0 for the context, 1, 2, ... for the branches, -1 for padding.

    Returns:
        ``[B, T, T]`` bool, queries by keys.
    """
    query, key = branch[:, :, None], branch[:, None, :]
    steps = torch.arange(branch.shape[1], device=branch.device)
    before = steps[None, :] <= steps[:, None]
    allowed = before & ((key == 0) | (key == query)) & (query >= 0) & (key >= 0)
    return allowed | torch.eye(len(steps), dtype=torch.bool, device=branch.device)


def by_layer(config: Any, allowed: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
    """The mask in the form that a transformers decoder takes, sliding windows included.

    Boolean where torch's own attention computes; for models without it, whose "eager" attention adds the mask to its
    scores, 0 where a query may see a key and the lowest number elsewhere.

    Args:
        config: The text model's configuration.
        allowed: ``[B, Q, K]`` bool.
        queries: ``[B, Q]`` int64, their positions.
        keys: ``[B, K]`` int64, or ``[1, K]`` where all rows agree.

    Returns:
        ``[B, 1, Q, K]``, or one such mask by kind of layer for models that mix them.

    Raises:
        ValueError: If a layer is neither full nor sliding attention: no mask here would keep its steps apart.
    """
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ())
    if strange := kinds - {FULL, SLIDING}:
        raise ValueError(f"layers of the kinds {sorted(strange)} do not take these masks")
    full = _form(config, allowed[:, None])
    window = getattr(config, "sliding_window", None)
    if window is None or kinds == {FULL} or getattr(config, "use_sliding_window", True) is False:
        return full
    sliding = _form(config, (allowed & (queries[:, :, None] - keys[:, None, :] < window))[:, None])
    return {FULL: full, SLIDING: sliding} if len(kinds) > 1 else sliding


def _form(config: Any, allowed: Tensor) -> Tensor:
    if config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)
