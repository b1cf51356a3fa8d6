"""Shapers: what the update sees of kept groups, changed. Unjudged trajectories (reward None) are left alone."""

from collections.abc import Iterator, Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt

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
