"""Advantages: how much better a trajectory did than its siblings.

Each function writes ``advantage`` on every judged trajectory and leaves unjudged ones (reward None) out of every mean
and untouched. A group whose rewards are all equal gets exactly 0.0: :mod:`statistics` sums in exact arithmetic, so the
mean of equal numbers is that number.
"""

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveFloat

from hone.types import Group, Trajectory


def zscore(groups: Sequence[Group], *, eps: PositiveFloat = 1e-6, unbiased: bool = True) -> None:
    """``A_i = (r_i - mean r) / (std r + eps)`` within each group: GRPO (arXiv 2402.03300, section 4.1.2).

    Args:
        groups: The groups of one update.
        eps: Added to the standard deviation, in units of the reward. Not in the paper.
        unbiased: Divide the squared deviations by G - 1 (as TRL and verl do; the paper does not say) rather than G.
    """
    for group in groups:
        for trajectory, centred_reward in _centre(group):
            trajectory.advantage = centred_reward / (_std(group.rewards, unbiased) + eps)


def centred(groups: Sequence[Group]) -> None:
    """``A_i = r_i - mean r`` within each group: Dr. GRPO (arXiv 2503.20783, section 3), zscore without its bias."""
    for group in groups:
        for trajectory, centred_reward in _centre(group):
            trajectory.advantage = centred_reward


def leave_one_out(groups: Sequence[Group]) -> None:
    """``A_i = r_i - mean of the other rewards``: RLOO (arXiv 2402.14740).

    Equal to ``G / (G - 1)`` times :func:`centred`. A judged trajectory without judged siblings gets 0.
    """
    for group in groups:
        size = len(group.rewards)
        for trajectory, centred_reward in _centre(group):
            trajectory.advantage = centred_reward * size / max(size - 1, 1)


def raw(groups: Sequence[Group]) -> None:
    """``A_i = r_i``: REINFORCE (Williams, 1992), for rewards that bring a baseline of their own.

    Such a reward is a difference already (to a blind retry, to another player); a group's mean would cancel what its
    members have in common.
    """
    for group in groups:
        for trajectory in group:
            if trajectory.reward is not None:
                trajectory.advantage = float(trajectory.reward)


def batch_whitened(
    groups: Sequence[Group], *, eps: PositiveFloat = 1e-6, per: Literal["trajectory", "step"] = "trajectory"
) -> None:
    """``A_i = (c_i - mean c) / (std c + eps)`` over the whole batch, with ``c_i = r_i - mean r`` within each group.

    REINFORCE++ with baseline (arXiv 2501.03262). The standard deviation is the population's. ``groups`` must be all
    groups of the update, over all ranks.

    Args:
        groups: The groups of one update.
        eps: Added to the standard deviation, in units of the reward.
        per: What the batch's mean and standard deviation count: each trajectory once, or once per trained step, as the
            public token-level implementations do (OpenRLHF, NeMo-RL).
    """
    pairs = [pair for group in groups for pair in _centre(group)]
    counts = [trajectory.trained if per == "step" else 1 for trajectory, _ in pairs]
    total = max(sum(counts), 1)
    mean = sum(n * c for n, (_, c) in zip(counts, pairs, strict=True)) / total
    variance = sum(n * (c - mean) ** 2 for n, (_, c) in zip(counts, pairs, strict=True)) / total
    for trajectory, centred_reward in pairs:
        trajectory.advantage = (centred_reward - mean) / (variance**0.5 + eps)


def _centre(group: Group) -> list[tuple[Trajectory, float]]:
    """Pair each judged trajectory with its reward less their mean."""
    judged = [trajectory for trajectory in group if trajectory.reward is not None]
    mean = statistics.mean(group.rewards) if judged else 0.0
    return [(trajectory, float(trajectory.reward - mean)) for trajectory in judged]


def _std(rewards: list[float], unbiased: bool) -> float:
    """Return the standard deviation; 0 for a single reward."""
    return statistics.stdev(rewards) if unbiased and len(rewards) > 1 else statistics.pstdev(rewards)
