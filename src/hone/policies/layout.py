"""Rows of segments as token tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hone.seats import Row


def encode(rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
    """Lay rows out as ``[B, T]`` tensors.

    Returns:
        ``input_ids``, ``position_ids`` (they restart behind the context for every branch), ``branch`` (0 context,
        1, 2, ... branches, -1 padding) and ``previous`` (where the step before each step stands in its row).
    """
    width = max(map(len, rows))
    layout = torch.zeros(4, len(rows), width, dtype=torch.int64)
    layout[1] = torch.arange(width)  # in the padding too, where transformers would take a restart for a new sequence
    layout[2] = -1
    for b, row in enumerate(rows):
        context = [a for segment in row.context for a in segment.actions]
        start = len(context)
        layout[:, b, :start] = _steps(context, position=0, start=0, branch=0, previous=-1)
        at = start
        for i, branch in enumerate(row.branches):
            actions = [a for segment in branch for a in segment.actions]
            layout[:, b, at : at + len(actions)] = _steps(
                actions, position=start, start=at, branch=i + 1, previous=start - 1
            )
            at += len(actions)
    layout[1].clamp_(max=layout[1][layout[2] >= 0].max())  # padding must not pass the last position of a model
    ids, positions, branch, previous = layout.to(device)
    return {"input_ids": ids, "position_ids": positions, "branch": branch, "previous": previous}


def _steps(actions: Sequence[int], *, position: int, start: int, branch: int, previous: int) -> Tensor:
    """The ``[4, n]`` layout of consecutive steps: ids, positions, branch, and where the step before each one stands."""
    n = len(actions)
    steps = torch.arange(n)
    before = start + steps - 1
    if n:
        before[0] = previous
    return torch.stack([torch.tensor(actions, dtype=torch.int64), position + steps, steps * 0 + branch, before])
