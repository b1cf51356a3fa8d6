"""What torchrun or ``accelerate launch`` tells a process of the others, before it has joined them and without torch."""

from __future__ import annotations

import os

SEVERAL = ("train", "resume", "eval")
"""The commands that run in several processes."""


def launched() -> int:
    """How many processes were started for one run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def place() -> int:
    """Of this process among all."""
    return int(os.environ.get("RANK", "0"))


def local_place() -> int:
    """Of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))
