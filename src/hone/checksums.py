"""Checksums of weights: cheap, exact, and the same wherever they are computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksums(weights: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """Name to the sum of a tensor's bit patterns, read as integers: neither order nor device changes it."""
    sums = {name: _words(weight.detach()).sum(dtype=torch.int64) for name, weight in weights}
    return {name: int(total) for name, total in sums.items()}  # read now, so that no device waits in between


def _words(weight: Tensor) -> Tensor:
    """The bits as integers, eight bytes each where that comes out even: their sum wraps around, and is fast."""
    flat = weight.contiguous().flatten()
    return flat.view(torch.int64 if not flat.nbytes % 8 else _BITS[flat.dtype.itemsize])
