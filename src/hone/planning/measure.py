"""What this machine's CPU does, measured in a few seconds: rates of products and copies, and what a layer costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hone.planning.hardware import Hardware

SIDE = 2048
"""Of the square product."""
COPIED = 2**28
"""Bytes, which fit in no cache."""
LIKE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
"""A model whose layers are all overhead."""
BESIDE = 3.0
"""A layer of a decode step also writes its cache and looks through a mask: so many bare ones, as was measured."""


def measured(like: Hardware) -> Hardware:
    """The table's entry for a CPU with this machine's own peaks; the shares of them are the entry's."""
    square = {name: _products(getattr(torch, name)) for name in ("bfloat16", "float32")}
    return replace(
        like,
        title=f"this machine, {torch.get_num_threads()} threads",
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        flops=square,
        bandwidth=_copied(),
        layer=_layer(),
    )


def _best(work: Callable[[], Any], seconds: float = 1.0) -> float:
    """The shortest of the repetitions that fit, after one that warms up."""
    work()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _products(dtype: torch.dtype) -> float:
    """FLOP/s."""
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return 2 * SIDE**3 / _best(lambda: left @ right)


def _copied() -> float:
    """Bytes/s, read and written counted."""
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * COPIED / _best(lambda: target.copy_(source))


@torch.inference_mode()
def _layer() -> float:
    """Seconds."""
    from transformers import LlamaConfig, LlamaModel

    with torch.random.fork_rng(devices=[]):
        model = LlamaModel(LlamaConfig(**LIKE)).eval()
    token = torch.zeros(1, 1, dtype=torch.int64)
    return BESIDE * _best(lambda: model(input_ids=token, use_cache=False)) / LIKE["num_hidden_layers"]
