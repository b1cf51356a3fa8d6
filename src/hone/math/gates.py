"""Gates: whether a group is kept for the update. They see rewards as judged, before any shaping."""

from pydantic import NonNegativeFloat

from hone.types import Group


def informative(group: Group, *, tolerance: NonNegativeFloat = 0.0) -> bool:
    """Keep a group whose judged rewards differ, the only kind with a gradient under a group baseline.

    Dynamic sampling of DAPO (arXiv 2503.14476, equation 11): ``0 < number of correct answers < G``, here for rewards
    of any kind.

    Args:
        group: A judged group. With fewer than two judged trajectories it is dropped.
        tolerance: Largest spread (max - min), in units of the reward, that still counts as equal.
    """
    rewards = group.rewards
    return len(rewards) > 1 and max(rewards) - min(rewards) > tolerance


def everything(group: Group) -> bool:
    """Keep every group in which at least one trajectory was judged."""
    return bool(group.rewards)
