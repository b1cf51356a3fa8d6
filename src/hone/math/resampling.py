"""How sure a mean over tasks is, and whether two of them differ: by resampling the tasks, of which each has a number.

Samples of one task are not independent of each other, tasks are: so every number here is one per task, and a column of
a table ``[task, column]``. NaN is a task of which nothing is known; it is left out of the mean of its column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
EXACT = 12
"""With up to so many tasks that differ, all 2^n signs are tried."""
_CELLS = 2_000_000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A mean, and the bounds of its interval; NaN where nothing is known."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap(values: np.ndarray, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """BCa bootstrap intervals of the mean of each column of ``[task, column]``, over tasks.

    Bias-corrected and accelerated (B. Efron, "Better Bootstrap Confidence Intervals", 1987, equations 2.3 and 6.6; the
    acceleration by the jackknife). Half of the resamples that equal the mean count as below it, for means of few values
    repeat. A column whose values are all equal has an interval without width: the data know of no spread, which is
    no proof that there is none. All columns are resampled with the same tasks.
    """
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    means = _ratio(filled.sum(0), known.sum(0))
    drawn = np.concatenate(list(_means(filled, known, resamples, seed))) if len(values) else np.empty((0, len(means)))
    return [
        _interval(values[known[:, j], j], means[j], drawn[:, j][np.isfinite(drawn[:, j])], level)
        for j in range(values.shape[1])
    ]


def paired(first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """The p-value of a paired sign-flip permutation test, two-sided, that the mean over tasks is the same.

    Under the null each task's difference might as well have the other sign. All signs are tried where at most ``EXACT``
    tasks differ, and otherwise ``resamples`` of them at random, with 1 added to both counts so that the size is kept
    (B. Phipson and G. K. Smyth, 2010). Tasks of which either is NaN are left out; with none that differ it is 1.
    """
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    difference = difference[np.isfinite(difference) & (difference != 0)]
    count = len(difference)
    if not count:
        return 1.0
    seen = abs(difference.sum()) * (1 - 1e-9)  # sums of the same numbers in another order are equal
    if count <= EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=count)))
        return float((abs(signs @ difference) >= seen).mean())
    generator, as_far = np.random.default_rng(seed), 0
    for size in _pieces(resamples, count):
        signs = generator.integers(0, 2, size=(size, count), dtype=np.int8) * 2.0 - 1.0
        as_far += int((abs(signs @ difference) >= seen).sum())
    return (1 + as_far) / (1 + resamples)


def _means(filled: np.ndarray, known: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The means of each column in resamples of the tasks, a few at a time."""
    generator, count = np.random.default_rng(seed), len(filled)
    for size in _pieces(resamples, count):
        draws = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(draws.ravel(), minlength=size * count).reshape(size, count).astype(float)
        yield _ratio(times @ filled, times @ known)


def _interval(values: np.ndarray, mean: float, drawn: np.ndarray, level: float) -> Interval:
    if not len(values) or not len(drawn):
        return Interval(np.nan, np.nan, np.nan)
    below = ((drawn < mean).sum() + 0.5 * (drawn == mean).sum()) / len(drawn)
    bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    # Leaving a task out moves the mean by what it lies below it, so the jackknife needs no loop.
    away = values - mean
    spread = (away**2).sum()
    acceleration = (away**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    bounds = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + _NORMAL.inv_cdf(share)
        bounds.append(100 * _NORMAL.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.percentile(drawn, bounds)
    return Interval(float(mean), float(low), float(high))


def _pieces(resamples: int, count: int) -> list[int]:
    most = max(1, _CELLS // max(1, count))
    return [min(most, resamples - begun) for begun in range(0, resamples, most)]


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
