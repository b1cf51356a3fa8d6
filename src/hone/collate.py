"""Groups to rows to micro-batches.

A row holds one context and several trajectories that continue it, so that a context is computed once for its
siblings; nothing behind a trajectory's last trained step is computed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from hone.seats import Row
from hone.types import Batch, Group, Segment

KNEE = 4096
"""Steps of a row at which its attention, masked pairs included, costs as much as its matrix products. That is about
6 x width for a transformer; this is the number of models between 0.1B and 1B, and the choice is flat around it."""


def rows(groups: Sequence[Group], *, shares_context: bool, tokens: int) -> list[Row]:
    """Lay the trained trajectories of an update out in rows.

    Args:
        groups: Of one update; the position of a group and of a trajectory (counted through) become their ids.
        shares_context: Whether a row may hold more than one trajectory.
        tokens: Most steps of a row that does.

    Raises:
        ValueError: If the first step of a trajectory is to be trained: nothing precedes it.
    """
    laid: list[Row] = []
    first = 0
    for g, group in enumerate(groups):
        context = group.context
        start = sum(map(len, context))
        members = [
            (first + i, trajectory)
            for i, trajectory in enumerate(group)
            if trajectory.trained and trajectory.reward is not None
        ]
        first += len(group)
        branches = [_until_last_trained(trajectory.segments[len(context) :]) for _, trajectory in members]
        if not start and any(branch[0].train for branch in branches):
            raise ValueError(f"task {group.task.id!r}: the first step of a trajectory cannot be trained")
        fits = _siblings_per_row(start, [sum(map(len, b)) for b in branches], tokens) if shares_context else 1
        for at in range(0, len(members), fits):
            chosen = slice(at, at + fits)
            laid.append(
                Row(
                    context=context,
                    branches=branches[chosen],
                    trajectories=[index for index, _ in members[chosen]],
                    group=g,
                    advantages=[trajectory.advantage or 0.0 for _, trajectory in members[chosen]],
                )
            )
    return laid


def _until_last_trained(segments: Sequence[Segment]) -> list[Segment]:
    """All but empty segments, up to the last trained one."""
    kept = [segment for segment in segments if len(segment)]
    while not kept[-1].train:
        kept.pop()
    return kept


def _siblings_per_row(context: int, lengths: Sequence[int], tokens: int) -> int:
    """The number of siblings to a row that costs least: fewer contexts against more masked attention."""

    def cost(siblings: int) -> float:
        steps = context + siblings * sum(lengths) / len(lengths)
        return ceil(len(lengths) / siblings) * steps * (1 + steps / KNEE)

    fit = (n for n in range(1, len(lengths) + 1) if n == 1 or context + n * max(lengths) <= tokens)
    return min(fit, key=cost, default=1)


def micro_batches(laid: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Put rows of similar length together, at most ``tokens`` steps with padding, but always one row."""
    batches: list[list[Row]] = []
    for row in sorted(laid, key=len, reverse=True):
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def batch(laid: Sequence[Row], encode: Callable[[Sequence[Row]], Mapping[str, Any]], *, temperature: float) -> Batch:
    """One micro-batch: the policy's inputs, and beside them the per-step tensors that objectives read."""
    inputs = encode(laid)
    width = max(map(len, laid))
    device = next(value.device for value in inputs.values() if isinstance(value, Tensor))
    fields = {name: torch.zeros(len(laid), width) for name in ("mask", "advantages", "sampled", "reference")}
    ids = {name: torch.full((len(laid), width), -1) for name in ("trajectory", "group")}
    has_reference = False
    for b, row in enumerate(laid):
        for at, segment, branch in _trained(row):
            steps = slice(at, at + len(segment))
            fields["mask"][b, steps] = 1
            fields["advantages"][b, steps] = row.advantages[branch]
            fields["sampled"][b, steps] = _per_step(segment, segment.logprobs)
            ids["trajectory"][b, steps] = row.trajectories[branch]
            ids["group"][b, steps] = row.group
            fields["reference"][b, steps] = _per_step(segment, segment.reference_logprobs)
            has_reference |= bool(segment.reference_logprobs)
    fields = {name: value.to(device) for name, value in fields.items()}
    ids = {name: value.to(device) for name, value in ids.items()}
    return Batch(
        inputs=inputs,
        mask=fields["mask"].bool(),
        advantages=fields["advantages"],
        sampled_logprobs=fields["sampled"],
        trajectory=ids["trajectory"],
        group=ids["group"],
        temperature=temperature,
        reference_logprobs=fields["reference"] if has_reference else None,
    )


def _per_step(segment: Segment, values: Sequence[float]) -> Tensor:
    """The values; where a segment has none, NaN, so that whatever reads them cannot go wrong in silence."""
    if values and len(values) != len(segment):
        raise ValueError(f"segment {segment.name!r} has {len(segment)} steps but {len(values)} log-probabilities")
    return torch.tensor(values or [torch.nan] * len(segment))


def _trained(row: Row) -> Iterator[tuple[int, Segment, int]]:
    """Where in the row each trained segment starts, and the branch that it belongs to."""
    at = sum(map(len, row.context))
    for branch, segments in enumerate(row.branches):
        for segment in segments:
            if segment.train:
                yield at, segment, branch
            at += len(segment)


def spread(values: Tensor, made: Batch) -> dict[int, list[float]]:
    """Undo :func:`batch` for a ``[B, T]`` tensor: each trajectory's values at its trained steps, in order."""
    values, owners = values[made.mask].tolist(), made.trajectory[made.mask].tolist()
    found: dict[int, list[float]] = {}
    for value, owner in zip(values, owners, strict=True):
        found.setdefault(owner, []).append(value)
    return found
