"""Divergence from the reference policy, and entropy: penalties that are added to the loss of each step.

A field that needs a reference policy says so by ``reads_reference = True``, one that needs the gradient of the entropy
by ``reads_entropy = True``; whoever holds the field looks for these attributes (on ``.func`` of a partial).
"""

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from hone.math.surrogate import MAX_LOG_RATIO
from hone.types import Batch, Scores

Estimator = Literal["k1", "k2", "k3"]


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """``log p - log p_ref``: unbiased for KL(policy || reference), of either sign, of high variance.

    This and the next two: J. Schulman, "Approximating KL divergence", 2020, for steps drawn from the policy.

    Args:
        logprobs: Any shape; of the steps under the policy, nats.
        reference_logprobs: Same shape, under the reference.

    Returns:
        Same shape, nats.
    """
    return logprobs - reference_logprobs


def k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """``(log p - log p_ref)^2 / 2``: biased, never negative, of low variance. Shapes as for :func:`k1`."""
    return 0.5 * (logprobs - reference_logprobs).square()


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """``p_ref / p - 1 - log(p_ref / p)``: unbiased, never negative, of low variance. Shapes as for :func:`k1`.

    GRPO's penalty (arXiv 2402.03300, equation 4). ``log(p_ref / p)`` is cut at ``MAX_LOG_RATIO``.
    """
    log_ratio = (reference_logprobs - logprobs).clamp(max=MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def kl_penalty(
    scores: Scores, batch: Batch, *, coefficient: NonNegativeFloat = 0.001, estimator: Estimator = "k3"
) -> Tensor:
    """``coefficient * KL(policy || reference)``, estimated step by step, for the loss.

    A good estimator need not be a good loss, since its gradient at fixed samples is another thing than the gradient of
    the divergence (arXiv 2510.01555). For steps drawn from the current policy: k2 has the right expected gradient; k3
    agrees with it to first order near the reference; **k1 has none**: its gradient is that of ``log p``, whose
    expectation is zero, so it only adds noise. To penalise by k1, use the shaper ``kl_reward``. No estimator here is
    corrected for steps drawn from older weights.

    Args:
        scores: Reads ``logprobs``.
        batch: Reads ``reference_logprobs``.
        coefficient: Loss per nat. GRPO sets 0.04, the public recipes of ProRL v2 1e-4 with k2, DAPO has no such term.
        estimator: Which estimator.

    Returns:
        ``[B, T]`` penalties, 0 outside the mask.

    Raises:
        ValueError: If the batch holds no reference log-probabilities.
    """
    if coefficient == 0:
        return torch.zeros_like(scores.logprobs)
    if batch.reference_logprobs is None:
        raise ValueError("kl_penalty needs batch.reference_logprobs, which is None: no reference policy was run")
    return coefficient * ESTIMATORS[estimator](scores.logprobs, batch.reference_logprobs)


kl_penalty.reads_reference = True


def entropy_bonus(scores: Scores, batch: Batch, *, coefficient: NonNegativeFloat) -> Tensor:
    """``-coefficient * entropy`` of each step: a penalty on certainty (arXiv 1602.01783, section 4).

    Args:
        scores: Reads ``entropy``, nats, with its gradient.
        batch: Not read.
        coefficient: Loss per nat.

    Returns:
        ``[B, T]`` penalties, 0 outside the mask.
    """
    return -coefficient * scores.entropy


entropy_bonus.reads_entropy = True
