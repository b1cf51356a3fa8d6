"""The clipped policy gradient and its relatives: one loss, with its parts given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial

import torch
from torch import Tensor

from hone import ranks
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

    @property
    def reads_entropies(self) -> bool:
        """Whether entropies that the sampler records spare a pass; see :meth:`survey`."""
        return bool(self._pooled())

    @torch.no_grad()
    def survey(self, policy: Policy, batches: Sequence[Batch]) -> None:
        """Show a whole mini-batch to the fields that pool over it, before the gradient of its first part.

        What the sampler saw with the same weights is what they are shown, where it has recorded it all. Otherwise that
        costs a forward pass, unless the mini-batch is one micro-batch: then each field sees it whole anyhow.
        """
        pooled = self._pooled()
        if not pooled:
            return
        scores = [_as_sampled(batch) for batch in batches]
        [missing] = ranks.summed(float(None in scores))
        if missing and len(batches) == 1 and not ranks.several():
            return
        if missing:
            scores = [policy.score(batch) for batch in batches]
        for place, part in pooled.items():
            for batch, values in zip(batches, part.over(scores, batches), strict=True):
                batch.fields[place] = values

    def __call__(self, policy: Policy, batch: Batch) -> Loss:
        """Score the batch and reduce its loss; metrics are over all trained steps, whatever the weights."""
        scores = policy.score(batch)
        old = scores.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        log_ratio = scores.logprobs - old
        terms = {"surrogate": self.surrogate(log_ratio, batch.advantages, batch)}
        metrics: dict[str, tuple[float, float]] = {}
        for place, part in self._fields().items():
            values = batch.fields.pop(place) if place in batch.fields else part(scores, batch)
            if measure := getattr(part, "measure", None):
                metrics |= measure(values, scores, batch)
            if place.startswith("weight"):
                terms["surrogate"] = terms["surrogate"] * values
            else:
                terms[place] = values
        losses, *penalties = terms.values()
        for values in penalties:
            losses = losses + values
        total, weight = self.reduction(losses, batch)
        if penalties:
            metrics |= self._contributions(terms, batch)
        return Loss(total, weight, metrics | self._metrics(scores, log_ratio.detach(), old, batch))

    def _pooled(self) -> dict[str, StepField]:
        """The fields that pool over a mini-batch, by their places."""
        return {place: part for place, part in self._fields().items() if getattr(part, "pooled", False)}

    def _fields(self) -> dict[str, StepField]:
        """Every field by its place: the weights, and behind them the penalties, each with its name."""
        weights = {f"weight {i}": part for i, part in enumerate(self.weights)}
        return weights | {f"penalty {i} {_name(part)}": part for i, part in enumerate(self.penalties)}

    @torch.no_grad()
    def _contributions(self, terms: Mapping[str, Tensor], batch: Batch) -> dict[str, tuple[float, float]]:
        """What the surrogate and each penalty contribute to the loss: they add up to it."""
        found: dict[str, tuple[float, float]] = {}
        for place, losses in terms.items():
            total, weight = self.reduction(losses.detach(), batch)
            name = f"loss/{place.split()[-1]}"
            found[name] = (found.get(name, (0.0, 0.0))[0] + float(total), weight)
        return found

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
            "importance/square": (-2 * gap).exp().sum(),
            "mismatch/mean": gap.sum(),
            "mismatch/abs": gap.abs().sum(),
            "mismatch/max": gap.abs().max(),
        }
        return {name: (float(value), count) for name, value in sums.items()}

    @staticmethod
    def follow(metrics: Mapping[str, float]) -> dict[str, float]:
        """What follows from the means over an update: the effective sample size of the importance weights, as a share.

        With n weights w, ``(sum w)^2 / (n sum w^2)`` (Kish 1965): 1 if all weigh the same.
        """
        square = metrics.get("importance/square")
        if not square:
            return {}
        return {"importance/ess": metrics["importance/mean"] ** 2 / square if math.isfinite(square) else 0.0}


def _as_sampled(batch: Batch) -> Scores | None:
    """What the sampler saw, if it has recorded it, and with the weights that the update has."""
    if batch.sampled_entropies is None or batch.old_logprobs is not None:
        return None
    return Scores(batch.sampled_logprobs, batch.sampled_entropies)


def _name(part: StepField) -> str:
    function = part.func if isinstance(part, partial) else part
    return getattr(function, "__name__", type(part).__name__.lower())
