"""What is done to each layer of a transformers model: recomputed in the backward pass, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hone import compiling, masks

FUSED = ("Norm", "MLP")
"""How the names of those modules of transformers end whose small operations become one kernel when compiled."""


def fuse(model: nn.Module, wanted: bool) -> None:
    """Compile norms and feed-forward parts, and layers whole where they score trees; what they compute stays the same.

    Elsewhere layers have a cache and masks of many kinds, each of which would be compiled anew. torch's own modules are
    one kernel as they are.
    """
    if not wanted:
        return
    for module in model.modules():
        own = type(module)
        if own.__name__.endswith(FUSED) and not own.__module__.startswith("torch."):
            module.__class__ = _fused(own)
    for layer in blocks(model):
        layer.__class__ = _fused(type(layer), over_trees=True)


@cache
def _fused(own: type, over_trees: bool = False) -> type:
    """A class of modules whose forward pass is compiled; of one class they share one compilation, as of one method
    each they would not.
    """  # fmt: skip
    plain, compiled = own.forward, compiling.anywhere(own.forward)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        chosen = plain if over_trees and kwargs.get(masks.TREE) is None else compiled
        return chosen(self, *args, **kwargs)

    return type(own.__name__, (own,), {"forward": forward, "is_fused": True, "__module__": own.__module__})


def recompute(model: nn.Module) -> None:
    """Give up each layer's activations and recompute them in the backward pass.

    Transformers' own switch works in training mode only, where some models draw dropout. A bound method in a partial
    follows its layer when the model is copied.
    """
    for layer in blocks(model):
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The transformer layers of a model."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return (layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer))
