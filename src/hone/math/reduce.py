"""Reductions: a sum of per-step losses over the mask, and the weight that it is to be divided by.

Both numbers add up over any split of a batch that keeps trajectories whole, so the mean over an update does not depend
on micro-batches, packing or ranks. Losses outside the mask are never read, not even as ``0 * nan``.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor

from hone.types import Batch


def token_mean(losses: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Every trained step counts the same: DAPO (arXiv 2503.14476, equation 12).

    Args:
        losses: ``[B, T]``.
        batch: The batch; reads ``mask``.

    Returns:
        The scalar sum over the mask, and the number of steps in it.
    """
    return _masked(losses, batch).sum(), float(batch.mask.sum())


def sequence_mean(losses: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Every trajectory counts the same, by the mean of its steps: GRPO (arXiv 2402.03300, equation 3).

    Args:
        losses: ``[B, T]``.
        batch: The batch; reads ``mask`` and ``trajectory``.

    Returns:
        The scalar sum over trajectories of their mean loss, and the number of trajectories with a trained step.
    """
    sums, counts, _ = trajectory_sums(losses, batch)
    return (sums / counts).sum(), _trajectories(batch)


def constant(losses: Tensor, batch: Batch, *, length: PositiveInt) -> tuple[Tensor, float]:
    """Every step counts the same whatever the lengths in the batch: Dr. GRPO (arXiv 2503.20783, section 3).

    The paper drops GRPO's division by each response's length; its code divides by the constant ``length`` instead.

    Args:
        losses: ``[B, T]``.
        batch: The batch; reads ``mask`` and ``trajectory``.
        length: Steps; the longest response that sampling allows.

    Returns:
        The scalar sum over the mask divided by ``length``, and the number of trajectories with a trained step.
    """
    return _masked(losses, batch).sum() / length, _trajectories(batch)


def trajectory_sums(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Sum values over the trained steps of each trajectory, wherever in the batch they lie.

    Args:
        values: ``[B, T]``.
        batch: The batch; reads ``mask`` and ``trajectory``.

    Returns:
        ``sums`` ``[K]``, ``counts`` ``[K]`` and ``index`` ``[B, T]``: the slot of each step, so that ``sums[index]``
        gives every step its trajectory's sum. Steps outside the mask, if any, share a slot of their own; its sum is 0.
    """
    ids = torch.where(batch.mask, batch.trajectory, -1)
    slots, index, counts = ids.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(slots)).index_add(0, index.flatten(), _masked(values, batch).flatten())
    return sums, counts, index


def _masked(values: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.mask, values, 0.0)


def _trajectories(batch: Batch) -> float:
    return float(len(batch.trajectory[batch.mask].unique()))
