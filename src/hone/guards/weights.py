"""Whether sampler and policy hold the same weights, and whether these are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from hone.guards.finding import Finding
from hone.shards import full


def stale(versions: Iterable[int], now: int) -> Finding | None:
    """Answers that were sampled by other weights than those of ``now``, which were to sample them."""
    old = sorted({version for version in versions if version != now})
    if not old:
        return None
    told = f"answers were sampled by the weights of update {old[0]}, and were to be by those of update {now}"
    return Finding("weights", told, "stale weights: the sampler was not synced behind an update", "sampler, its sync()")


def alike(policy: Mapping[str, int], sampler: Mapping[str, int]) -> Finding | None:
    """Compare the checksums of the trained weights (:mod:`hone.checksums`)."""
    lost = sorted(policy.keys() - sampler.keys())
    other = sorted(name for name in policy.keys() & sampler.keys() if policy[name] != sampler[name])
    if not lost and not other:
        return None
    told = f"{len(other)} of {len(policy)} trained weights differ between policy and sampler" + (
        f", such as {other[0]}" if other else ""
    )
    told += f"; the sampler has no {lost[0]} (and {len(lost) - 1} more)" if lost else ""
    cause = "stale weights: an update, a restored checkpoint or an adapter did not reach the sampler"
    return Finding("weights", told, cause, "sampler, its sync(); model, its advance()")


@torch.no_grad()
def finite(parameters: Iterable[Tensor]) -> Finding | None:
    """No weight is NaN or infinite."""
    held = list(parameters)
    sums = [full(weight.sum(dtype=torch.float32)) for weight in held]
    bad = sum(not math.isfinite(total) for total in map(float, sums))
    if not bad:
        return None
    told = f"{bad} of {len(held)} trained tensors are not finite"
    cause = "an update that diverged, a broken checkpoint, or weights that were written from outside"
    return Finding(
        "weights", told, cause, "optimizer.lr, optimizer.max_grad_norm, model.dtype; update.on_bad: rollback"
    )
