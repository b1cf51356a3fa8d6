"""Functions through torch.compile, on devices where that works and pays: on a GPU, and not on a CPU (BENCHMARKS)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

log = logging.getLogger("hone")

VARIANTS = 64
"""Of one function that may be compiled: with and without gradients, for one row or several, a window or none. Beyond
its limit torch goes on with what is not compiled."""


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function, for a GPU compiled for shapes of any size; elsewhere, or where nothing can be compiled, as it is.

    Compiled once, whoever asks for it.
    """
    return anywhere(function) if works(device.type) else function


@cache
def anywhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, whatever the device."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return torch.compile(function, dynamic=True, recompile_limit=VARIANTS)  # in all threads
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    return torch.compile(function, dynamic=True)


@cache
def works(kind: str) -> bool:
    """Whether a kind of device has a compiler; that a GPU has none is said once, for it is slower by far."""
    if kind != "cuda":
        return False
    try:
        torch.compile(torch.Tensor.double)(torch.ones(2, device=kind))
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        log.warning("nothing can be compiled for the GPU, and hone is slower for it: %s", reason)
        return False
    return True
