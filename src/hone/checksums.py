"""Checksums of weights: cheap, exact, and the same wherever they are computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksums(weights: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """Name to the sum of a tensor's bit patterns, read as integers: neither order nor device changes it."""
    sums = {name: _bits(weight.detach()).sum(dtype=torch.int64) for name, weight in weights}
    return {name: int(total) for name, total in sums.items()}  # read now, so that no device waits in between


def _bits(weight: Tensor) -> Tensor:
    return weight.contiguous().view(_BITS[weight.dtype.itemsize])
