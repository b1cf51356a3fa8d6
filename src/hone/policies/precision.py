"""In which precision a model computes."""

from __future__ import annotations

import time
from functools import cache

import torch


def dtype(name: str, device: torch.device) -> torch.dtype:
    """The type that ``name`` asks for; "auto" is bfloat16 where the device multiplies faster in it, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = _gains_from_bfloat16(device.type)
    return torch.bfloat16 if native else torch.float32


@cache
def _gains_from_bfloat16(device: str) -> bool:
    """Whether products as in decoding take clearly less time: without instructions for it, they take several times as
    long, and with them about half.
    """  # fmt: skip

    def seconds(kind: torch.dtype) -> float:
        steps, weight = (torch.ones(rows, 1024, dtype=kind, device=device) for rows in (64, 1024))
        times = []
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(4):
                product = steps @ weight
            product[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - started)
        return min(times)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
