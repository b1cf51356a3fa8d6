"""What is done to each layer of a transformers model: recomputed in the backward pass, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


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
