"""The arithmetic of the figures, free of torch: medians, useful work, floors, fractions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PEAKS = {"H100": 989e12, "H200": 989e12}
"""Dense bfloat16 FLOP/s by a part of the device's name, as its maker gives them for the SXM cards."""


@dataclass(frozen=True)
class Spread:
    """A median and its range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        middle = number(self.median)
        return middle if self.low == self.high else f"{middle} ({number(self.low)}-{number(self.high)})"


def number(value: float) -> str:
    """Three significant digits, and all of the whole part."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace(",", " ")


def share(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.0f} %"


@dataclass(frozen=True)
class Size:
    """What a token is multiplied by, and what it leaves in the cache.

    Attributes:
        body: Weights of all linear layers but the head.
        head: Weights of the output embedding, counted also where it is tied to the input's.
        cache: Numbers that a token leaves in the key-value cache, all layers together.
    """

    body: int
    head: int
    cache: int

    @property
    def weights(self) -> int:
        """N of the 6N: all that takes part in a matrix product."""
        return self.body + self.head


def useful_tokens(groups: Sequence[tuple[int, Sequence[int]]]) -> int:
    """Tokens of an update, each (context, responses): the context once a group, every response."""
    return sum(context + sum(responses) for context, responses in groups)


def update_flops(size: Size, useful: int) -> float:
    """6N a useful token: 2 forward, 4 backward. Attention's own products and any recomputation are not counted."""
    return 6.0 * size.weights * useful


def needed_flops(size: Size, useful: int, trained: int) -> float:
    """The same with the head only at trained tokens: what a careful update cannot do without."""
    return 6.0 * (size.body * useful + size.head * trained)


def decode_floor(
    size: Size, sequences: int, context: float, tokens: int, *, flops: float, copied: float, width: int
) -> dict[str, float]:
    """Seconds that sampling cannot do without, by what bounds it.

    Args:
        sequences: Decoded together.
        context: Mean tokens of a prompt.
        tokens: That each sequence gets.
        flops: A second, of the best matrix product measured.
        copied: Bytes a second that a copy moves, read and written counted.
        width: Bytes of a number.

    Returns:
        "bandwidth": weights and the whole cache read once a token; "arithmetic": 2N a token of a sequence.
    """
    cached = size.cache * (context + tokens / 2) * sequences
    return {
        "bandwidth": tokens * (size.weights + cached) * width / copied,
        "arithmetic": tokens * 2.0 * size.weights * sequences / flops,
    }


def prefill_floor(size: Size, contexts: int, *, flops: float) -> float:
    """Seconds to compute ``contexts`` tokens of distinct prompts, heads left out."""
    return 2.0 * size.body * contexts / flops


def hardware_peak(device_name: str) -> float | None:
    """FLOP/s in bfloat16 of a card in :data:`PEAKS`, or None."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size that the value grows with, by least squares over the logarithms; 1 is linear."""
    x, y = [math.log(s) for s in sizes], [math.log(max(v, 1e-9)) for v in values]
    return statistics.linear_regression(x, y).slope
