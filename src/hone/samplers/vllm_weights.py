"""Whether an engine holds the weights that it was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hone.checksums import checksums


def words(name: str, weight: Tensor, dtype: torch.dtype) -> dict[str, int]:
    """The checksum of a weight as an engine of this type holds it; nothing if it is not of whole 8-byte words."""
    held = weight.to(dtype)
    return {} if held.nbytes % 8 else checksums([(name, held)])


def unlike(model: torch.nn.Module, sent: Mapping[str, int], dtype: torch.dtype) -> tuple[list[str], int]:
    """The weights of vLLM's model that are not those that were sent, and the number of those that could be compared.

    Those that are quantised, and linear layers on a CPU, whose kernels keep them in a form of their own, are not.

    Args:
        model: Whole, on one device.
        sent: Checksums by :func:`words`, by the names of a checkpoint.
        dtype: The engine's.
    """
    held = checksums((name, weight) for name, weight in model.named_parameters() if weight.dtype == dtype)
    return compared(sent, held, getattr(model, "packed_modules_mapping", {}))


def compared(
    sent: Mapping[str, int], held: Mapping[str, int], packed: Mapping[str, Sequence[str]]
) -> tuple[list[str], int]:
    """Hold checksums of weights against those of an engine that keeps some of them together.

    A checksum adds up 8-byte words and wraps around, so that of weights that stand behind each other is the sum of
    theirs, and padding with zeros adds nothing.

    Args:
        sent: By the names of a checkpoint.
        held: By the engine's; 0 is of what it keeps elsewhere.
        packed: Name of a fused module to those of its parts.

    Returns:
        The engine's names of weights that differ, and how many were compared.
    """
    sums: dict[str, int] = {}
    for name, total in held.items():
        *before, module, kind = ["", *name.split(".")]
        parts = [".".join([*before, part, kind])[1:] for part in packed.get(module, [module])]
        if total and all(part in sent for part in parts):
            sums[name] = sum(sent[part] for part in parts)
    return [name for name, total in sums.items() if (held[name] - total) % 2**64], len(sums)
