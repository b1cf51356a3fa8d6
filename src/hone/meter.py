"""The metrics of an update, over micro-batches and processes."""

from __future__ import annotations

import math

from hone import ranks


class Meter:
    """Sums (sum, count) metrics over micro-batches and processes; names that end in "/max" keep the largest."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, count: float) -> None:
        """Count ``value`` in."""
        if math.isnan(value):
            value = math.inf if name.endswith("/max") else value  # max() would drop it
        total, seen = self.sums.get(name, (-math.inf if name.endswith("/max") else 0.0, 0.0))
        self.sums[name] = (max(total, value) if name.endswith("/max") else total + value, seen + count)

    def means(self) -> dict[str, float]:
        """Every metric so far, over all processes, which all call this; those with nothing counted are left out."""
        whole = Meter()
        for sums in ranks.each(lambda: self.sums):
            for name, (total, count) in sums.items():
                whole.add(name, total, count)
        return {
            name: total if name.endswith("/max") else total / count
            for name, (total, count) in whole.sums.items()
            if count
        }
