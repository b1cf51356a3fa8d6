"""Where a run computes: device and processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from hone import ranks
from hone.hangs import EndedElsewhere
from hone.launcher import NO_DEEPSPEED, SEVERAL, deepspeed, launched, local_place

LONGEST = timedelta(days=30)
"""For what has no limit: torch wants one."""
SPARE = 120.0
"""Seconds beyond a limit, in which whoever passed it says what hung; those that wait for it hear of it."""


@contextmanager
def joined(name: str, *limits: float | None) -> Iterator[None]:
    """Join the processes that torchrun or ``accelerate launch`` has started, if it has.

    Gradients on a GPU travel by NCCL, everything else by gloo.

    Args:
        name: Of the device, as :func:`device` takes it.
        limits: Seconds for the longest things that processes do by themselves; None for no limit.

    Raises:
        ValueError: If there are fewer GPUs here than processes, or the launcher was told to use DeepSpeed.
        EndedElsewhere: If what failed here did so because another process had failed before.
    """
    if deepspeed():
        raise ValueError(NO_DEEPSPEED)
    if launched() < 2 or distributed.is_initialized():
        yield
        return
    gpus = 0 if name == "cpu" else torch.cuda.device_count()
    if gpus:
        if local_place() >= gpus:
            raise ValueError(
                f"the launcher started a process for GPU {local_place()}, and there are {gpus} here, from 0"
            )
        torch.cuda.set_device(local_place())
    longest = LONGEST if None in limits else timedelta(seconds=max(limits, default=0.0) + SPARE)
    ranks.connect("cpu:gloo,cuda:nccl" if gpus else "gloo", longest)
    try:
        yield
    except Exception as error:
        if getattr(error, "elsewhere", None) is not None:
            raise EndedElsewhere(str(error)) from error
        if (told := ranks.blame(error)) is None:
            if "peer" in str(error):
                error.add_note("another process of the run has ended without a word: it may have been killed")
            raise
        if type(error) in (RuntimeError, distributed.DistBackendError) or str(error) in told:
            raise EndedElsewhere(told) from error
        raise
    distributed.destroy_process_group()


def limits(config: Any) -> list[float | None]:
    """Seconds for the longest things that a process of a run does by itself; None for no limit."""
    found = [config.limits.sampling, config.limits.update]
    for variant in config.every_variant().values():
        patience = getattr(variant.sampler, "patience", 0.0)
        found.append(patience and 2 * patience)  # until there is a server, and until it has its weights
    return found


def device(name: str) -> torch.device:
    """The device that ``name`` asks for; "auto" is the first CUDA GPU, then Apple's, then the CPU.

    Of several processes each takes the GPU of its place.

    Raises:
        ValueError: If the device is not here, or the launcher started several processes for what runs in one.
    """
    if launched() > 1 and not ranks.several():
        raise ValueError(
            f"the launcher started {launched()} processes, and only `hone {'`, `'.join(SEVERAL)}` run in several; "
            "start this without torchrun or accelerate launch"
        )
    if ranks.several() and ":" in name:
        raise ValueError(f"device: {name!r} is one for {ranks.count()} processes; give 'cuda', and each has its own")
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device: {name!r} cannot be used here ({str(error).splitlines()[0]})") from None
        return torch.device(name, local_place()) if name == "cuda" and ranks.several() else torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", local_place() if ranks.several() else 0)
    return torch.device("mps" if torch.backends.mps.is_available() and not ranks.several() else "cpu")
