"""Rows of segments as token tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hone.seats import Row


def encode(rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
    """Lay rows out as ``[B, T]`` tensors.

    Returns:
        ``input_ids``, ``position_ids`` (each branch goes on where its parent ends), ``previous`` (where the step before
        each step stands in its row; -1 before the first) and ``end`` (behind the last step of its row that continues
        it, 0 in the padding). A step is seen by the steps behind it up to its ``end``, and by no other.
    """
    width = max(map(len, rows))
    layout = torch.zeros(4, len(rows), width, dtype=torch.int64)
    layout[1] = torch.arange(width)  # in the padding too, where transformers would take a restart for a new sequence
    layout[2] = -1
    for b, row in enumerate(rows):
        for branch, (start, stop, end, position, previous) in zip(row.branches, spans(row), strict=True):
            actions = [action for segment in branch.segments for action in segment.actions]
            steps = torch.arange(stop - start)
            layout[0, b, start:stop] = torch.tensor(actions, dtype=torch.int64)
            layout[1, b, start:stop] = position + steps
            layout[2, b, start:stop] = start - 1 + steps
            layout[2, b, start : start + 1] = previous
            layout[3, b, start:stop] = end
    layout[1].clamp_(max=layout[1][layout[3] > 0].max())  # padding must not pass the last position of a model
    ids, positions, previous, end = layout.to(device)
    return {"input_ids": ids, "position_ids": positions, "previous": previous, "end": end}


def spans(row: Row) -> list[tuple[int, int, int, int, int]]:
    """Of each branch: its first step, behind its last, behind the last that continues it, position, step before it."""
    found: list[list[int]] = []
    for branch in row.branches:
        start = found[-1][1] if found else 0
        parent = found[branch.parent] if branch.parent >= 0 else None
        position = parent[3] + parent[1] - parent[0] if parent else 0
        stop = start + len(branch)
        found.append([start, stop, stop, position, parent[1] - 1 if parent else -1])
        above = branch.parent
        while above >= 0:
            found[above][2] = stop
            above = row.branches[above].parent
    return [tuple(each) for each in found]
