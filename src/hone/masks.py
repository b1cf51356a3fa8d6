"""Which step may look at which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"

TREE = "hone_tree"
"""Name, among transformers' implementations of attention, of the one in :mod:`hone.policies.tree`."""


def tree(end: Tensor) -> Tensor:
    """The mask of rows that hold prefix trees, each branch right behind what it continues.

    A step sees those before it that it continues; a padded step sees itself, so that no softmax is empty.

    Args:
        end: ``[B, T]`` int64: behind the last step of the row that continues each step; 0 in the padding.

    Returns:
        ``[B, T, T]`` bool, queries by keys.
    """
    steps = torch.arange(end.shape[1], device=end.device)
    before = steps[None, :] <= steps[:, None]
    return (before & (steps[:, None] < end[:, None, :])) | torch.eye(len(steps), dtype=torch.bool, device=end.device)


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
    if config._attn_implementation in ("sdpa", TREE):
        return allowed
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)
