"""Surrogates: the policy-gradient loss of each step, to be minimised.

``log_ratio`` is ``log p - log p_old`` of each step's action, so its gradient is that of ``log p``; it and the
advantages are 0 outside the mask. Below, ``r = exp(log_ratio)`` and ``A`` is the advantage.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from hone.math.reduce import trajectory_sums
from hone.seats import Surrogate
from hone.types import Batch

MAX_LOG_RATIO = 20.0
"""Nats. Log ratios are cut here before they are exponentiated: beyond, the value is constant and the gradient 0, where
float32 would overflow and turn a clipped step's gradient into ``0 * inf``. verl cuts at the same number."""


def ppo_clip(
    log_ratio: Tensor,
    advantages: Tensor,
    batch: Batch,
    *,
    low: NonNegativeFloat = 0.2,
    high: NonNegativeFloat = 0.2,
    dual: Annotated[float, Field(gt=1)] | None = None,
) -> Tensor:
    """``-min(r A, clip(r, 1 - low, 1 + high) A)``: PPO (arXiv 1707.06347, equation 7).

    With ``dual``, a step of negative advantage loses at most ``-dual * A``, and beyond has no gradient: dual clip
    (arXiv 1912.09729, which sets 3).

    Args:
        log_ratio: ``[B, T]``, nats.
        advantages: ``[B, T]``.
        batch: Not read.
        low: How far below 1 the ratio may fall while that still lowers the loss.
        high: How far above 1 it may rise. DAPO's clip-higher is 0.28 (arXiv 2503.14476, equation 10).
        dual: The constant of the dual clip, or None for none.

    Returns:
        ``[B, T]`` losses.
    """
    ratio = _ratio(log_ratio)
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    if dual is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual * advantages), objective)
    return -objective


def gspo(
    log_ratio: Tensor,
    advantages: Tensor,
    batch: Batch,
    *,
    low: NonNegativeFloat = 3e-4,
    high: NonNegativeFloat = 4e-4,
) -> Tensor:
    """:func:`ppo_clip` with one ratio a trajectory, ``s = exp(mean of log_ratio over its trained steps)``: GSPO.

    arXiv 2507.18071, equations 5 and 7. Every step carries its trajectory's loss, so ``sequence_mean`` gives the
    paper's objective; under other reductions a trajectory weighs in proportion to its length.

    Args:
        log_ratio: ``[B, T]``, nats.
        advantages: ``[B, T]``, the same on all steps of a trajectory.
        batch: Reads ``mask`` and ``trajectory``.
        low: As in :func:`ppo_clip`, of ``s``; the paper's number, of another order since ``s`` is a geometric mean.
        high: Likewise.

    Returns:
        ``[B, T]`` losses.
    """
    sums, counts, index = trajectory_sums(log_ratio, batch)
    return ppo_clip((sums / counts)[index], advantages, batch, low=low, high=high)


def cispo(
    log_ratio: Tensor,
    advantages: Tensor,
    batch: Batch,
    *,
    low: NonNegativeFloat = 1.0,
    high: NonNegativeFloat = 5.0,
) -> Tensor:
    """``-sg(clip(r, 1 - low, 1 + high)) A log p``: CISPO of MiniMax-M1 (arXiv 2506.13585, equations 4 and 5).

    The importance weight is clipped, not the step: every step keeps a gradient. ``log p`` is written as ``log_ratio``,
    which differs from it by a constant: the gradient is the paper's, the value is 0 while on-policy.

    Args:
        log_ratio: ``[B, T]``, nats.
        advantages: ``[B, T]``.
        batch: Not read.
        low: The weight is at least ``1 - low``; 1 sets no lower bound, as in the paper.
        high: The weight is at most ``1 + high``. The paper tunes it and gives no number; 5 is unverified.

    Returns:
        ``[B, T]`` losses.
    """
    weight = _ratio(log_ratio.detach()).clamp(1 - low, 1 + high)
    return -weight * advantages * log_ratio


def reinforce(log_ratio: Tensor, advantages: Tensor, batch: Batch) -> Tensor:
    """``-r A``: the importance-weighted policy gradient, without a clip (arXiv 1707.06347, equation 6).

    While on-policy its gradient is ``-A * grad log p``, that of REINFORCE.

    Args:
        log_ratio: ``[B, T]``, nats.
        advantages: ``[B, T]``.
        batch: Not read.

    Returns:
        ``[B, T]`` losses.
    """
    return -_ratio(log_ratio) * advantages


def clipped_steps(surrogate: Surrogate, log_ratio: Tensor, advantages: Tensor, batch: Batch) -> Tensor:
    """Count the trained steps that a surrogate clips, for the logs.

    A step is clipped when its gradient has stopped following its ratio: a slight shift of every log ratio, up or down,
    leaves it as it was. That is a gradient of zero for :func:`ppo_clip`, the same on a whole trajectory for
    :func:`gspo`, a weight at its bound for :func:`cispo`, and never for :func:`reinforce` (short of
    ``MAX_LOG_RATIO``). Steps without advantage have no gradient to clip and are not counted.

    Args:
        surrogate: Any surrogate, its settings bound.
        log_ratio: ``[B, T]``, nats.
        advantages: ``[B, T]``.
        batch: The batch; divide by the size of its ``mask`` for a fraction.

    Returns:
        Scalar int64.
    """

    def gradient(shift: float) -> Tensor:
        shifted = (log_ratio.detach() + shift).requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(surrogate(shifted, advantages, batch).sum(), shifted)[0]

    here, above, below = gradient(0.0), gradient(1e-5), gradient(-1e-5)
    stuck = (here == above) | (here == below)
    return (stuck & (advantages != 0) & batch.mask).sum()


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()
