"""Copies of a model, to be sampled from or compared with while it learns on."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hone.shards import full


def copied(model: nn.Module) -> nn.Module:
    """A model of its own with the same weights; those that are not trained are the very same tensors."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters() if not weight.requires_grad})


@torch.no_grad()
def refresh(model: nn.Module, original: nn.Module) -> None:
    """Give a copy, in place, the trained weights that the original has now."""
    own = dict(model.named_parameters())
    for name, weight in original.named_parameters():
        if weight.requires_grad:
            own[name].copy_(full(weight))
