"""Where a run computes: device and processes."""

from __future__ import annotations

import os

import torch


def device(name: str) -> torch.device:
    """The device that ``name`` asks for; "auto" is the first CUDA GPU, then Apple's, then the CPU.

    Raises:
        ValueError: If the device is not here, or the launcher started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "this version trains in one process, and the launcher started WORLD_SIZE="
            f"{os.environ['WORLD_SIZE']}; start it without torchrun or accelerate launch"
        )
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device: {name!r} cannot be used here ({str(error).splitlines()[0]})") from None
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
