"""Whether answers to one task were drawn independently: the same answer twice is no fault, an unlikely one is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from hone.guards.finding import Finding
from hone.types import Group, Segment

NATS = math.log(1e9)
"""A healthy step shows that much evidence at most once in a thousand million."""


def siblings(groups: Sequence[Group]) -> Finding | None:
    """Bet against chance wherever an answer repeats one to the same task (a test by betting; Shafer 2021).

    An answer of probability ``p`` that is one of the ``m`` different ones before it pays ``1 / (m p)``, any other
    nothing; half of what there is is staked each time. Under independent draws nobody wins on average, however often
    a sure policy repeats itself, so that a gain of 1e9 has a chance of at most 1e-9 (Markov).
    """
    tasks: dict[str, list[list[Segment]]] = {}
    for group in groups:
        tasks.setdefault(group.task.id, []).extend(_own(group))
    gains, repeated = [], 0
    for played in tasks.values():
        gain, alike = _bet(played)
        gains.append(gain)
        repeated += alike
    if not gains:
        return None
    top = max(gains)
    evidence = top + math.log(sum(math.exp(gain - top) for gain in gains) / len(gains))
    if evidence <= NATS:
        return None
    return Finding(
        "siblings",
        f"{repeated} answers repeat another to the same task, too unlikely ones for chance (1 in e^{evidence:.0f})",
        "siblings are drawn with the same seed, or ranks with the same keys",
        "the environment, its params.keyed(task.id, sibling, turn); the sampler's seed",
    )


def _own(group: Group) -> list[list[Segment]]:
    """What each trajectory drew by itself.

    Not what several hold as one object, nor what all of a group begin with, of which some environment may have made
    copies; but always the last that was drawn, for that nobody shares.
    """
    held = Counter(id(segment) for trajectory in group for segment in trajectory.segments)
    aligned = zip(*(trajectory.segments for trajectory in group), strict=False)
    common = sum(1 for _ in takewhile(lambda at: all(s == at[0] for s in at), aligned))
    found = []
    for trajectory in group:
        drawn = [(i, s) for i, s in enumerate(trajectory.segments) if s.source == "policy"]
        own = [s for i, s in drawn[:-1] if i >= common and held[id(s)] == 1]
        found.append(own + [s for _, s in drawn[-1:] if held[id(s)] == 1])
    return found


def _bet(played: Sequence[Sequence[Segment]]) -> tuple[float, int]:
    """The gain of one task, as a logarithm, and how many answers repeat one before."""
    seen: set[tuple[int, ...]] = set()
    gain, repeated = 0.0, 0
    for own in played:
        actions = tuple(action for s in own for action in s.actions)
        if not actions:
            continue
        if seen:
            gain += math.log(0.5)
            if actions in seen:
                repeated += 1
                pays = -sum(value for s in own for value in s.logprobs) - math.log(len(seen))
                gain += max(0.0, pays) + math.log1p(math.exp(-abs(pays)))
        seen.add(actions)
    return gain, repeated
