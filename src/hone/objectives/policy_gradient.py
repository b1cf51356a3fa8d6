"""The clipped policy gradient and its relatives: one loss, with its parts given."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from hone.math.divergence import k3
from hone.math.reduce import token_mean
from hone.math.surrogate import clipped_steps, ppo_clip
from hone.seats import Policy, Reduction, StepField, Surrogate, reads_reference, settings
from hone.types import Batch, Loss, Scores


@settings
class PolicyGradient:
    """``reduce(surrogate * weights + penalties)`` over the trained steps.

    Attributes:
        surrogate: The loss of each step from its ratio and advantage.
        reduction: How steps are summed, and what the sum is divided by.
        weights: Multiply the surrogate: a mask of high-entropy steps, importance weights.
        penalties: Are added to it: a divergence from the reference, an entropy bonus.
    """

    surrogate: Surrogate = ppo_clip
    reduction: Reduction = token_mean
    weights: list[StepField] = field(default_factory=list)
    penalties: list[StepField] = field(default_factory=list)

    @property
    def reads_reference(self) -> bool:
        """Whether a part reads the reference policy's log-probabilities."""
        return any(reads_reference(part) for part in (*self.weights, *self.penalties))

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        """Score the batch and reduce its loss; metrics are over all trained steps, whatever the weights."""
        scores = policy.score(batch)
        old = scores.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        log_ratio = scores.logprobs - old
        losses = self.surrogate(log_ratio, batch.advantages, batch)
        for weight in self.weights:
            losses = losses * weight(scores, batch)
        for penalty in self.penalties:
            losses = losses + penalty(scores, batch)
        total, weight = self.reduction(losses, batch)
        return Loss(total, weight, self._metrics(scores, log_ratio.detach(), old, batch))

    @torch.no_grad()
    def _metrics(self, scores: Scores, log_ratio: Tensor, old: Tensor, batch: Batch) -> dict[str, tuple[float, float]]:
        mask = batch.mask
        count = float(mask.sum())
        if not count:
            return {}
        ratio = log_ratio[mask].exp()
        gap = (batch.sampled_logprobs - old)[mask]
        reference = old if batch.reference_logprobs is None else batch.reference_logprobs
        sums = {
            "entropy/mean": scores.entropy[mask].sum(),
            "ratio/mean": ratio.sum(),
            "ratio/max": ratio.max(),
            "clip/fraction": clipped_steps(self.surrogate, log_ratio, batch.advantages, batch),
            "kl/mean": k3(scores.logprobs, reference)[mask].sum(),
            "importance/mean": (-gap).exp().sum(),
            "importance/max": (-gap).exp().max(),
            "mismatch/mean": gap.sum(),
            "mismatch/abs": gap.abs().sum(),
            "mismatch/max": gap.abs().max(),
        }
        return {name: (float(value), count) for name, value in sums.items()}
