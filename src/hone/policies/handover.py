"""What an engine beside the policy needs of it: its shape, and its weights by the names that a checkpoint has."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def outline(config: Any, folder: Path, architecture: type | None = None) -> None:
    """Write a model's configuration, for an engine that is given the weights later.

    Args:
        config: From transformers.
        folder: Where to.
        architecture: The class of the model, where it is known; else the one that a causal model of this kind has.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = copy.deepcopy(config)
    if architecture is not None or not config.architectures:  # one that was made from a configuration alone has none
        config.architectures = [(architecture or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]).__name__]
    config.save_pretrained(folder)


def weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight as a checkpoint names it, adapters merged, one at a time.

    In bfloat16 merging rounds: of an adapter's update, what is below a 256th of a weight is lost to whoever takes it.

    Args:
        model: A transformers model, possibly with peft's layers inside.

    Raises:
        ValueError: If an adapter belongs to a weight that a checkpoint has under another name.
    """
    from transformers.core_model_loading import revert_weight_conversion

    adapted = _adapted(model)
    held = {_plain(name): weight for name, weight in model.state_dict().items() if ".lora_" not in name}
    named = revert_weight_conversion(model, held)
    if lost := adapted.keys() - named.keys():
        raise ValueError(f"model.lora: the adapter of {min(lost)} cannot be merged for an engine beside the policy")
    for name, weight in named.items():
        yield name, _merged(weight, adapted[name]) if name in adapted else weight


def _adapted(model: Any) -> dict[str, Any]:
    """The layers with an adapter, by the names of their weights."""
    layers = ((name, layer) for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight"))
    return {f"{_plain(name)}.weight": layer for name, layer in layers}


@torch.no_grad()
def _merged(weight: Tensor, layer: Any) -> Tensor:
    delta = sum(layer.get_delta_weight(name).float() for name in layer.active_adapters)
    return (weight.float() + delta).to(weight.dtype)


def _plain(name: str) -> str:
    """A name without what peft puts in between."""
    return name.replace(".base_layer.", ".")
