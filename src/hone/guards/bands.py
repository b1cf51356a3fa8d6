"""Whether a metric stays where it belongs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from hone.guards.finding import Finding
from hone.seats import settings

WINDOW = 20
"""Steps whose largest value is the measure of what is usual."""

CAUSES = {
    "entropy/mean": (
        "the policy collapses onto one answer or dissolves into noise",
        "optimizer.lr; an entropy_bonus or kl_penalty; sampling.temperature",
    ),
    "grad_norm": ("updates that diverge, or a broken batch", "optimizer.lr; update.spike and update.on_bad"),
    "length/mean": ("answers run away or vanish: a reward that pays for length", "verifier, shapers (overlong)"),
}
"""By metric: the likely cause, and where to look."""


@settings
class Band:
    """Where a metric may be.

    Attributes:
        low: Lowest; None for no limit.
        high: Highest; None for no limit.
        factor: Highest as a multiple of the largest of the 20 measurements before; None for no such limit. Before
            there are 20, it does not hold.
        floor: Up to here a value is never high by ``factor``.
    """

    low: float | None = None
    high: float | None = None
    factor: float | None = Field(None, gt=1)
    floor: float = 0.0


def outside(metric: str, band: Band, before: Sequence[float], value: float) -> Finding | None:
    """Whether a measurement leaves the band; one that is not finite always does."""
    told = None
    if not math.isfinite(value):
        told = f"{metric} is {value}"
    elif band.low is not None and value < band.low:
        told = f"{metric} is {value:.4g}, under {band.low:.4g}"
    elif band.high is not None and value > band.high:
        told = f"{metric} is {value:.4g}, over {band.high:.4g}"
    elif band.factor is not None and len(before) >= WINDOW:
        usual = max(band.floor, band.factor * max(before[-WINDOW:]))
        if value > usual:
            told = f"{metric} is {value:.4g}, over {usual:.4g} (the {WINDOW} before, times {band.factor:g})"
    if told is None:
        return None
    cause, look = CAUSES.get(metric, ("the run leaves what was set for it", "what this metric measures"))
    return Finding("bands", told, cause, f"{look}; guard.bands")
