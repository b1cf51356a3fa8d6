"""Weights that correct for steps drawn by other numerics than the trainer's.

A sampler's kernels, precision or stale weights give its steps other probabilities than the trainer would. Each weight
is built from ``w = p_old / p_sampled``: ``p_old`` by the trainer at the start of the update (``batch.old_logprobs``, or
the current scores while on-policy), ``p_sampled`` as drawn. No gradient flows through a weight.

At level "token" each step has its own ``w``; at level "sequence" all steps of a trajectory share the product of theirs,
which is the unbiased weight of the whole sequence, and of far higher variance.
"""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from hone.math.reduce import trajectory_sums
from hone.types import Batch, Scores

Level = Literal["token", "sequence"]


def truncated_importance(scores: Scores, batch: Batch, *, cap: PositiveFloat = 2.0, level: Level = "token") -> Tensor:
    """``min(w, cap)``: truncated importance sampling, TIS.

    F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025. The cap of 2 is the
    customary one, unverified against that text.

    Args:
        scores: Reads ``logprobs`` where the batch has no old ones.
        batch: Reads ``mask``, ``sampled_logprobs``, ``old_logprobs`` and, by sequence, ``trajectory``.
        cap: Largest weight.
        level: Whose probabilities are compared.

    Returns:
        ``[B, T]`` weights, ``min(1, cap)`` outside the mask.
    """
    return _ratio(scores, batch, level).clamp(max=cap)


def masked_importance(
    scores: Scores,
    batch: Batch,
    *,
    low: NonNegativeFloat = 0.5,
    high: PositiveFloat = 5.0,
    level: Level = "token",
) -> Tensor:
    """``w`` where ``low <= w <= high``, otherwise 0: IcePop, of Ring-1T (Ling team, 2025).

    Steps too far off are dropped, yet still counted in the weight of a reduction. The bounds are those of the public
    recipes of ProRL v2 (NeMo-RL, OpenRLHF), unverified against IcePop's own text.

    Args:
        scores: Reads ``logprobs`` where the batch has no old ones.
        batch: Reads ``mask``, ``sampled_logprobs``, ``old_logprobs`` and, by sequence, ``trajectory``.
        low: Smallest ``w`` that is kept.
        high: Largest ``w`` that is kept.
        level: Whose probabilities are compared.

    Returns:
        ``[B, T]`` weights.
    """
    ratio = _ratio(scores, batch, level)
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


truncated_importance.corrects_sampling = masked_importance.corrects_sampling = True


def _ratio(scores: Scores, batch: Batch, level: Level) -> Tensor:
    """``w`` ``[B, T]``, 1 outside the mask."""
    old = scores.logprobs if batch.old_logprobs is None else batch.old_logprobs
    log_ratio = torch.where(batch.mask, old.detach() - batch.sampled_logprobs, 0.0)
    if level == "sequence":
        sums, _, index = trajectory_sums(log_ratio, batch)
        log_ratio = sums[index]
    return log_ratio.exp()
