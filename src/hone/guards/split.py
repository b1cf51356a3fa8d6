"""Whether the gradient depends on how a mini-batch is cut into micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor

from hone.guards.finding import Finding


def split(together: Tensor, apart: Tensor, *, limit: float) -> Finding | None:
    """Compare two gradients of the same trajectories.

    Args:
        together: ``[N]``, some entries of that of one micro-batch.
        apart: ``[N]``, the same entries, from a micro-batch for each trajectory.
        limit: Of the norm of the difference, as a share of the larger norm.
    """
    size = float(torch.maximum(together.norm(), apart.norm()))
    if not size > 1e-12:  # nothing to compare
        return None
    share = float((together - apart).norm()) / size
    if share <= limit:
        return None
    return Finding(
        "split",
        f"the gradient of the same answers changes by {share:.1%} with the split into micro-batches "
        f"(limit {limit:.1%})",
        "a loss that is divided within the micro-batch, padding that is attended to or counted, or a mask that leaks",
        "objective: its reduction must return a sum and its weight; model.share_context: false as a test",
    )
