"""The few trajectories on which a check computes something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from hone.types import Group

MOST = 2
"""Trajectories."""


def few(groups: Sequence[Group]) -> list[Group]:
    """The judged, trained trajectory with the fewest steps and that with the most, of the first group that has two."""
    for group in sorted(groups, key=lambda group: len(group) < 2):
        able = sorted((t for t in group if t.trained and t.reward is not None), key=lambda t: t.trained)
        if able:
            chosen = [able[0], *islice(reversed(able[1:]), MOST - 1)]
            return [Group(group.task, chosen)]
    return []


def uneven(group: Group) -> Group:
    """With advantages of 1, so that gradients do not cancel, and the first cut, so that a mean of means shows."""
    first, *rest = (replace(t, advantage=1.0) for t in group)
    at = max(i for i, segment in enumerate(first.segments) if segment.train)
    half = -(-len(first.segments[at]) // 2)
    arrays = ("actions", "logprobs", "reference_logprobs", "entropies")
    cut = {name: getattr(first.segments[at], name)[:half] for name in arrays}
    segments = [*first.segments[:at], replace(first.segments[at], **cut)]
    return Group(group.task, [replace(first, segments=segments), *rest])
