"""What torchrun or ``accelerate launch`` tells a process of the others, before it has joined them and without torch."""

from __future__ import annotations

import os

SEVERAL = ("train", "resume", "eval", "mine", "synth")
"""The commands that run in several processes."""
NO_DEEPSPEED = (
    "accelerate was told to use DeepSpeed, and hone shards by torch itself: launch without it (--multi_gpu), and give "
    "engine=fsdp for ZeRO's stages, with model.offload=true for what it would offload"
)


def launched() -> int:
    """How many processes were started for one run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def place() -> int:
    """Of this process among all."""
    return int(os.environ.get("RANK", "0"))


def local_place() -> int:
    """Of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def deepspeed() -> bool:
    """Whether ``accelerate launch`` was told to use DeepSpeed, by its configuration or by an option."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("1", "true", "yes", "on")


def refusal(command: str) -> str | None:
    """Why a command does not run as it was launched; None if it does."""
    if deepspeed():
        return NO_DEEPSPEED
    if launched() > 1 and command not in SEVERAL:
        told = f"`hone {command}` runs in one process, and the launcher started {launched()}"
        return f"{told}; of several run {', '.join(SEVERAL)}"
    return None
