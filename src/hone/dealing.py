"""Work of different size, dealt to several hands."""

from __future__ import annotations

from collections.abc import Sequence


def dealt(costs: Sequence[float], hands: int, room: int | None = None) -> list[list[int]]:
    """Deal the costliest first, each to the hand that has least; the same costs are always dealt alike.

    Args:
        costs: Of each piece of work.
        hands: How many there are.
        room: Most pieces that a hand takes; None for no limit. What finds none is dealt to nobody.

    Returns:
        For each hand the places of its pieces, in the order of dealing.
    """
    found: list[list[int]] = [[] for _ in range(hands)]
    held = [0.0] * hands
    for place in costliest(costs):
        free = [hand for hand in range(hands) if room is None or len(found[hand]) < room]
        if not free:
            break
        hand = min(free, key=lambda hand: (held[hand], len(found[hand]), hand))
        found[hand].append(place)
        held[hand] += costs[place]
    return found


def costliest(costs: Sequence[float]) -> list[int]:
    """The places of all pieces, the costliest first."""
    return sorted(range(len(costs)), key=lambda place: (-costs[place], place))
