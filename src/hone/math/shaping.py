"""Shapers: what the update sees of kept groups, changed. Unjudged trajectories (reward None) are left alone."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from hone.math.divergence import ESTIMATORS, Estimator
from hone.types import Group, Segment, Trajectory


def overlong(
    groups: Sequence[Group], *, max_length: PositiveInt, buffer: PositiveInt, factor: NonNegativeFloat = 1.0
) -> None:
    """Add a penalty that grows with length: the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13).

    It is 0 up to ``max_length - buffer`` sampled steps, falls linearly to ``-factor`` at ``max_length``, and stays
    there. The part is logged as ``scores["overlong"]``.

    Args:
        groups: The kept groups.
        max_length: Steps; the paper sets 20480.
        buffer: Steps; the paper sets 4096.
        factor: Largest penalty, in units of the reward.

    Raises:
        ValueError: If ``buffer`` exceeds ``max_length``.
    """
    if buffer > max_length:
        raise ValueError(f"overlong: buffer ({buffer}) must not exceed max_length ({max_length})")
    for trajectory in _judged(groups):
        remaining = max_length - buffer - trajectory.sampled
        penalty = factor * min(0.0, max(-1.0, remaining / buffer))
        trajectory.reward += penalty
        trajectory.scores["overlong"] = penalty


def mask_truncated(groups: Sequence[Group]) -> None:
    """Withdraw the trajectories that ran out of length: DAPO's overlong filtering (arXiv 2503.14476, section 3.4).

    Their rewards still count for the baseline of their group.
    """
    for trajectory in _judged(groups):
        if trajectory.stop == "length":
            trajectory.withdraw()


def stop_properly(groups: Sequence[Group], *, factor: Annotated[float, Field(ge=0, le=1)] = 0.0) -> None:
    """Multiply the reward of a trajectory that ran out of length: the stop-properly penalty of ProRL v2.

    The paper (arXiv 2505.24864, appendix E) penalises what does not end, without a formula; this one, and the factor of
    0, are those of the public v2 recipes (NeMo-RL, OpenRLHF). The change is logged as ``scores["stop_properly"]``.

    Args:
        groups: The kept groups.
        factor: What is left of the reward. Of a negative one too: it is meant for rewards that are not.
    """
    for trajectory in _judged(groups):
        judged = trajectory.reward
        if trajectory.stop == "length":
            trajectory.reward = factor * judged
        trajectory.scores["stop_properly"] = trajectory.reward - judged


def cosine_length(
    groups: Sequence[Group],
    *,
    max_length: PositiveInt,
    low: float,
    high: float,
    active: PositiveInt = 100,
    idle: NonNegativeInt = 500,
) -> None:
    """Add ``low + (high - low) (1 + cos(pi L / max_length)) / 2``, now and then: the scheduled penalty of ProRL v2.

    It falls from ``high`` for an empty answer to ``low`` at ``max_length`` sampled steps, and stays there. **The
    formula is unverified**: the authors' notes on v2 name its variables and show it as a picture that could not be
    read; this is the cosine that fits the names. The windows are theirs: on for 100 optimiser steps, off for 500. The
    part is logged as ``scores["cosine_length"]``.

    Args:
        groups: The kept groups.
        max_length: Steps, L_max.
        low: Added to the longest, in units of the reward; eta_min. Below 0 it is a penalty.
        high: Added to the shortest; eta_max.
        active: Optimiser steps in which it acts, by the version of the weights that sampled; it begins with these.
        idle: Optimiser steps in which it does not, after each such window.

    Raises:
        ValueError: If ``low`` exceeds ``high``, which would pay for length.
    """
    if low > high:
        raise ValueError(f"cosine_length: low ({low}) must not exceed high ({high})")
    for trajectory in _judged(groups):
        part = 0.0
        if trajectory.version % (active + idle) < active:
            share = min(1.0, trajectory.sampled / max_length)
            part = low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * share))
        trajectory.reward += part
        trajectory.scores["cosine_length"] = part


def kl_reward(groups: Sequence[Group], *, coefficient: NonNegativeFloat = 0.001, estimator: Estimator = "k1") -> None:
    """Subtract ``coefficient * KL(policy || reference)``, summed over the trained policy steps, from the reward.

    The classical place of the penalty (arXiv 1909.08593, equation 2), where k1 is the right estimator (arXiv
    2510.01555). The sum is logged as ``scores["kl"]``, in nats, before the coefficient.

    Args:
        groups: The kept groups, with reference log-probabilities.
        coefficient: Reward per nat.
        estimator: Which estimator, applied to log-probabilities as sampled.

    Raises:
        ValueError: If a trained policy segment lacks the log-probabilities of either policy.
    """
    if not coefficient:
        return
    for trajectory in _judged(groups):
        kl = sum(_kl(s, estimator) for s in trajectory.segments if s.train and s.source == "policy")
        trajectory.reward -= coefficient * kl
        trajectory.scores["kl"] = float(kl)


kl_reward.reads_reference = True


def _kl(segment: Segment, estimator: Estimator) -> float:
    """Sum the estimator over a segment, nats."""
    for name in ("logprobs", "reference_logprobs"):
        held = len(getattr(segment, name))
        if held != len(segment):
            raise ValueError(f"kl_reward: segment {segment.name!r} has {len(segment)} steps but {held} {name}")
    policy, reference = torch.tensor([segment.logprobs, segment.reference_logprobs], dtype=torch.float64)
    return ESTIMATORS[estimator](policy, reference).sum().item()


def _judged(groups: Sequence[Group]) -> Iterator[Trajectory]:
    return (trajectory for group in groups for trajectory in group if trajectory.reward is not None)
