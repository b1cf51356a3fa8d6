"""Talking to the other processes of a run."""

from __future__ import annotations

from torch import distributed


def several() -> bool:
    """Whether the run has more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
