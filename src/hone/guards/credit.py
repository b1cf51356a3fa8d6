"""Whether advantages follow the rewards that they were made from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hone.guards.finding import Finding
from hone.types import Group


def credit(groups: Sequence[Group]) -> Finding | None:
    """Within a group a better reward must not have the worse advantage; every advantage is finite."""
    for group in groups:
        given = sorted((t.reward, t.advantage) for t in group if t.reward is not None and t.advantage is not None)
        where = f"task {group.task.id!r}"
        if not all(math.isfinite(number) for pair in given for number in pair):
            evidence = f"{where}: rewards and advantages are {given}"
            return Finding(
                "credit", evidence, "a reward or advantage that is not finite", "verifier, shapers, advantage"
            )
        for i, (reward, advantage) in enumerate(given):
            worse = next((pair for pair in given[:i] if pair[0] < reward and pair[1] > advantage + 1e-6), None)
            if worse is not None:
                evidence = (
                    f"{where}: reward {reward:.4g} has the advantage {advantage:.4g}, "
                    f"the lower reward {worse[0]:.4g} has {worse[1]:.4g}"
                )
                return Finding("credit", evidence, "swapped or negated rewards", "advantage, shapers")
    return None
