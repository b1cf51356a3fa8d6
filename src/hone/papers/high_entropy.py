"""High-entropy tokens: the policy gradient of the uncertain minority of steps.

S. Wang et al., "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM
Reasoning", NeurIPS 2025 (arXiv 2506.01939). Base recipe: DAPO (arXiv 2503.14476), ``configs/dapo.yaml``.

Claim: the fifth of the tokens at which the policy is least certain, where a chain of thought forks, carries the gain
of reinforcement learning. Training on it alone is about as good as DAPO at 8B and better at 14B and 32B; training on
the rest alone hurts.

Section 2.1 and equation 6, for the steps t of the responses i of a batch B::

    H_t = -sum_v p_tv log p_tv,    p_t = softmax(z_t / T),    T the temperature of sampling, by the policy as it is now

    J_B = sum_it I[H_it >= tau_B] min(r_it A_it, clip(r_it) A_it) / sum_it I[H_it >= tau_B]

with tau_B such that the share ``keep`` of all trained steps of the batch is kept. An objective divides by the number
of *all* trained steps, n, once for a whole mini-batch. So a kept step has the weight n / kept here, and any other 0;
under ``token_mean`` that is the mean over the kept.

Differs from the paper in:

- The text says "batch" in one place and "(micro-)batch" in another; the authors' code takes one micro-batch of one
  process. The default here is the mini-batch of an optimiser step, over all its micro-batches and processes, for then
  the selection depends on neither.
- That pool has to be known before the gradient of its first part. While on-policy, the entropies are those that the
  native sampler saw when it drew the tokens, with the very weights that are updated: H_t by its kernels. In float32
  that keeps the same steps, in bfloat16 98 % of them (BENCHMARKS.md). Where it recorded none (another sampler,
  ``top_p``, a processor), at stale weights, and from the second optimiser step on, a further forward pass tells, which
  ``pool: micro_batch`` does not need.
- The text keeps all steps at the threshold; the authors' code keeps an exact number, k = max(1, ceil(keep n)), and so
  does the default. Ties are broken by trajectory and step, in this order, never by layout: several processes choose as
  one would.
- ``keep`` is taken as the decimal number that it is written as: 0.07 of 100 steps are 7, where floating point says 8.
- With ``pool: micro_batch``, micro-batches count by their steps in the mean; in the authors' code, by their sequences.
- ``normaliser: all`` is TRL's reading: at the same learning rate its step is smaller, by a factor of about ``keep``.
- ``side: bottom`` is the paper's ablation; ``side: random`` and ``softness`` are not in it.

Together with other parts:

- Only steps in ``batch.mask`` are in the pool: under reflect-retry the reflections, in several turns what was sampled.
- KL penalties and entropy bonuses are added behind the weights and stay on all trained steps, as in the authors' code.
  The metrics of the objective, too, are over all trained steps.
- Other weights multiply. A step that IcePop drops stays in the pool and in n.
- A surrogate with one ratio a trajectory (``gspo``) has its average over all steps, and with it a gradient at each of
  them: there the field weighs trajectories by how much of them is kept, and the others' gradient is not zero.
- Under ``sequence_mean`` and ``constant``, too, kept steps weigh n / kept: a trajectory then counts by the share of it
  that is kept. With ``pool: response`` and ``sequence_mean`` each counts the same, by the mean over its kept steps.
- Several optimiser steps in a round: entropy is that of the weights before each one, so the selection moves on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from fractions import Fraction
from math import ceil
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hone import ranks
from hone.keys import key
from hone.seats import settings
from hone.types import Batch, Scores


@settings
class HighEntropy:
    """A weight: large on the steps of highest entropy, 0 on the others.

    ::

        objective: {policy_gradient: {weights: [{high_entropy: {keep: 0.2}}]}}

    Each step of the run logs, in nats, ``entropy/threshold``, the last entropy that is kept (a mean over steps), and
    ``entropy/kept`` and ``entropy/dropped``, the mean entropy of either kind; and as shares, ``entropy/share`` of the
    trained steps that are kept, and ``entropy/untouched`` of the trajectories of which no step is.

    Attributes:
        keep: Share of the steps; the paper's 0.2, of which its ablation tries 0.1, 0.5, and 0.8 of the bottom. With 1
            every weight is exactly 1.
        pool: The steps that are compared: the mini-batch of an optimiser step over all its micro-batches and processes,
            a micro-batch, or a response.
        rule: An exact number of steps, or all that reach the threshold, ties included.
        normaliser: The loss is a mean over the steps that are kept, or over all trained ones.
        side: The most uncertain steps, the most certain, or as many drawn at random, anew for each optimiser step.
        softness: Nats; None is the paper's hard choice. Else the weight falls as ``sigmoid((H - edge) / softness)``,
            with the edge midway between the last entropy that the rule keeps and the first that it drops; with the
            normaliser "kept", weights are divided by their mean. Such weights are said to tame the gradients of a hard
            choice under GRPO without DAPO's clip (a third party's note, unverified).
    """

    keep: float = Field(0.2, gt=0, le=1)
    pool: Literal["batch", "micro_batch", "response"] = "batch"
    rule: Literal["top_k", "threshold"] = "top_k"
    normaliser: Literal["kept", "all"] = "kept"
    side: Literal["top", "bottom", "random"] = "top"
    softness: float | None = Field(None, gt=0)

    _thresholds: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    """Of each pool of the last call, the last entropy that is kept."""

    def __post_init__(self) -> None:
        if self.softness is not None and self.side == "random":
            raise ValueError("softness: follows the entropy, which side 'random' does not read; leave one of them out")

    @property
    def pooled(self) -> bool:
        """Whether the weights of a micro-batch depend on the others; not if everything is kept."""
        return self.pool == "batch" and self.keep < 1

    @property
    def layout_matters(self) -> bool:
        """Whether the weights depend on how the mini-batch is cut into micro-batches."""
        return self.pool == "micro_batch" and self.keep < 1

    def __call__(self, scores: Scores, batch: Batch) -> Tensor:
        """``[B, T]`` weights of a mini-batch that is this one batch; 0 outside the mask."""
        return self.over([scores], [batch])[0]

    @torch.no_grad()
    def over(self, scores: Sequence[Scores], batches: Sequence[Batch]) -> list[Tensor]:
        """``[B, T]`` weights of each micro-batch; with the pool "batch", all processes must call it, even with none."""
        self._thresholds.clear()
        if self.pooled:
            return self._weigh(scores, batches)
        return [self._weigh([s], [b])[0] for s, b in zip(scores, batches, strict=True)]

    def _weigh(self, scores: Sequence[Scores], batches: Sequence[Batch]) -> list[Tensor]:
        """The weights of micro-batches whose steps may compete, by way of an order that no layout changes."""
        parts = [s.entropy[b.mask].float() for s, b in zip(scores, batches, strict=True)]
        entropy = torch.cat(parts) if parts else torch.zeros(0)
        # A diverged model's NaN counts as the largest entropy, so that it shows in the loss and not in the choice.
        entropy = entropy.nan_to_num(nan=torch.finfo(torch.float32).max)
        owners = torch.cat([b.trajectory[b.mask] for b in batches]) if batches else entropy.long()
        order = owners.argsort(stable=True)  # a trajectory lies in one row, its steps in a row
        weights = torch.empty_like(entropy)
        seed, alike = (batches[0].seed, batches[0].processes) if batches else (0, 1)
        weights[order] = self._chosen(entropy[order], owners[order], seed, alike)
        pieces = weights.split([len(part) for part in parts])
        return [
            torch.zeros_like(s.entropy).masked_scatter(b.mask, piece.to(s.entropy.dtype))
            for s, b, piece in zip(scores, batches, pieces, strict=True)
        ]

    def _chosen(self, entropy: Tensor, owners: Tensor, seed: int, alike: int) -> Tensor:
        """The weights of steps ``[N]`` in order, each within its pool; so many processes have the same steps."""
        if self.pooled:
            parts, every = ranks.gather(entropy, alike), torch.cat(ranks.gather(owners, alike))
            order = every.argsort(stable=True)  # a trajectory is in one process, or in those that are alike
            weights = torch.empty_like(every, dtype=entropy.dtype)
            weights[order] = self._choose(torch.cat(parts)[order], key(seed, "pool"))
            return weights.split([len(part) for part in parts])[ranks.index() // alike]
        names, counts = owners.unique_consecutive(return_counts=True)
        if self.pool != "response":
            names, counts = names[:1], counts.sum()[None]
        pools = zip(names.tolist(), entropy.split(counts.tolist()), strict=True) if len(entropy) else ()
        return torch.cat([entropy[:0], *(self._choose(pool, key(seed, "pool", name)) for name, pool in pools)])

    def _choose(self, entropy: Tensor, seed: int) -> Tensor:
        """The weights ``[N]`` of one pool, whose mean is 1 with the normaliser "kept"."""
        n = len(entropy)
        if not n:
            return entropy
        merit = {"top": entropy, "bottom": -entropy}.get(self.side)
        if merit is None:
            merit = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(entropy.device)
        ranked, places = merit.sort(descending=True, stable=True)
        kept = ceil(Fraction(str(self.keep)) * n)  # at least 1
        if self.side != "random":
            self._thresholds.append(entropy[places[kept - 1]])
        if kept == n:
            return torch.ones_like(entropy)
        if self.softness is not None:
            edge = ranked[kept - 1] / 2 + ranked[kept] / 2
            weights = ((merit - edge) / self.softness).sigmoid()
        elif self.rule == "threshold":
            weights = (merit >= ranked[kept - 1]).float()
        else:
            weights = torch.zeros_like(entropy).index_fill(0, places[:kept], 1.0)
        return weights * (n / float(weights.sum())) if self.normaliser == "kept" else weights

    @torch.no_grad()
    def measure(self, values: Tensor, scores: Scores, batch: Batch) -> dict[str, tuple[float, float]]:
        """Metrics of a micro-batch, from its weights by the last call, as (sum, count)."""
        weights, entropy, owners = values[batch.mask], scores.entropy[batch.mask], batch.trajectory[batch.mask]
        if not len(weights):
            return {}
        kept = weights > 0
        trajectories, touched = len(owners.unique()), len(owners[kept].unique())
        found = {
            "entropy/share": (float(kept.sum()), float(len(kept))),
            "entropy/kept": (float((weights * entropy).sum()), float(weights.sum())),
            "entropy/dropped": (float(entropy[~kept].sum()), float((~kept).sum())),
            "entropy/untouched": (float(trajectories - touched), float(trajectories)),
        }
        if self._thresholds:
            found["entropy/threshold"] = (float(torch.stack(self._thresholds).mean()) * len(kept), float(len(kept)))
        return found
