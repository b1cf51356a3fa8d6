"""Whether rewards are there, are finite, differ, and are those of the answers that bear them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hone.guards.finding import Finding

Rewards = Sequence[Sequence[float | None]]
"""Of the trajectories of each group, as judged; None where there is no verdict."""


def finite(rewards: Rewards) -> Finding | None:
    """Every reward that is there is a number."""
    odd = [reward for group in rewards for reward in group if reward is not None and not math.isfinite(reward)]
    if not odd:
        return None
    told = f"{len(odd)} rewards are not finite, such as {odd[0]}"
    return Finding("rewards", told, "a verifier or an environment that divides by 0 or adds infinities", "verifier")


@dataclass(frozen=True)
class Seen:
    """What is kept of a step's rewards: the lowest and highest, how many are missing, of how many."""

    low: float
    high: float
    missing: int
    count: int

    @classmethod
    def of(cls, rewards: Rewards) -> Seen:
        """Of one step."""
        there = [reward for group in rewards for reward in group if reward is not None]
        count = sum(map(len, rewards))
        return cls(min(there, default=math.inf), max(there, default=-math.inf), count - len(there), count)


def constant(steps: Sequence[Seen], patience: int) -> Finding | None:
    """All rewards of that many steps are one and the same number: nothing can be learnt from them."""
    last = [seen for seen in steps[-patience:] if seen.count > seen.missing]
    low, high = min((s.low for s in last), default=0.0), max((s.high for s in last), default=1.0)
    if len(last) < patience or low != high:
        return None
    return Finding(
        "constant",
        f"every reward of the last {patience} steps is {low:g}",
        "a verifier that does not find the answer (its form, `extract`), or tasks that are all too hard or too easy",
        "verifier; `hone check`; tasks",
    )


def missing(steps: Sequence[Seen], patience: int, share: float) -> Finding | None:
    """In each of that many steps more than a share of the answers has no verdict."""
    last = steps[-patience:]
    if len(last) < patience or not all(seen.missing > share * seen.count for seen in last):
        return None
    lost, of = sum(seen.missing for seen in last), sum(seen.count for seen in last)
    told = f"{lost} of {of} answers in the last {patience} steps have no verdict"
    return Finding("missing", told, "a verifier that fails or is too slow", "verification.timeout; the warnings before")


def swapped(rewards: Sequence[float], again: Sequence[float]) -> Finding | None:
    """The same answers, judged again, earn the same rewards, but each other's.

    An environment may make a reward of a verdict by any rule; no rule but confusion gives the very same numbers in
    another order.
    """
    alike = [math.isclose(a, b, abs_tol=1e-6) for a, b in zip(rewards, again, strict=True)]
    same_numbers = all(map(_close, sorted(rewards), sorted(again)))
    if all(alike) or not same_numbers:
        return None
    return Finding(
        "swapped",
        f"{alike.count(False)} of {len(alike)} answers that were judged again have another's reward",
        "rewards are given to the wrong answers: an order that is lost between sampling, judging and gathering",
        "environment; verifier; whatever sorts or gathers trajectories",
    )


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, abs_tol=1e-6)
