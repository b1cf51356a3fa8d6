"""Triggers: when it is time to act, from the metrics of the steps since one last did.

Each is a pure function of the history, so that what it decided can be decided again from ``metrics.jsonl``. A row of
the history holds the finite metrics of one step and its number as ``step``, the oldest first; a metric that was not
measured, or was not finite, is absent. The returned text is the reason, with the numbers that it rests on; None is no
reason.

ProRL (arXiv 2505.24864) gives no number for any of them: there the moment is a human decision. The settings that have a
default here are ours, but for the 500 steps of :func:`every`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

History = Sequence[Mapping[str, float]]


def every(history: History, *, steps: PositiveInt = 500) -> str | None:
    """When so many steps have passed. The authors' notes on ProRL v2 speak of 200 to 500.

    Args:
        history: Since the last time; a row of step 0 (measured before training) is no step.
        steps: Number of steps.
    """
    passed = sum(row["step"] > 0 for row in history)
    return f"{passed} steps have passed" if passed >= steps else None


def at(history: History, *, steps: list[PositiveInt]) -> str | None:
    """After given steps: those that a human chose, as in the paper, or those at which the stages of a run begin.

    Args:
        history: The latest step is its last row.
        steps: Of the run.
    """
    step = history[-1]["step"] if history else 0
    return f"step {step} is one of those that were set" if step in steps else None


def plateau(
    history: History,
    *,
    metric: str,
    patience: PositiveInt,
    min_delta: NonNegativeFloat = 0.0,
    mode: Literal["max", "min"] = "max",
) -> str | None:
    """When a metric has not improved for some time, or has become worse.

    Args:
        history: Steps without the metric are passed over, so that evaluations may be rare.
        metric: Such as "eval/heldout/accuracy".
        patience: That many measurements in a row without an improvement are enough. Not steps.
        min_delta: What an improvement must exceed, over the best so far.
        mode: Whether "max" or "min" is better.
    """
    measured = _measured(history, metric)
    if not measured:
        return None
    sign = 1.0 if mode == "max" else -1.0
    at = 0
    for index, (_, value) in enumerate(measured):
        if sign * (value - measured[at][1]) > min_delta:
            at = index
    since = measured[at + 1 :]
    if len(since) < patience:
        return None
    (step, best), values = measured[at], ", ".join(f"{value:.4g}" for _, value in since)
    return f"{metric} was {best:.4g} at step {step}, and no better in {len(since)} measurements since: {values}"


def spike(
    history: History,
    *,
    metric: str = "kl/mean",
    limit: float | None = None,
    factor: PositiveFloat | None = None,
    window: PositiveInt = 20,
) -> str | None:
    """When a metric of the latest step is too large: beyond a limit, or many times what it was.

    Args:
        history: The latest step is its last row.
        metric: By default the divergence from the reference, in nats a token.
        limit: Largest value that passes; None for no limit.
        factor: How many times the median of the ``window`` measurements before passes; None for any. Before there are
            that many, nothing is compared: behind a reset the divergence starts at 0 and must grow.
        window: Number of measurements.

    Raises:
        ValueError: If there is neither a limit nor a factor.
    """
    if limit is None and factor is None:
        raise ValueError("spike: never acts without a limit or a factor; set one of them")
    measured = _measured(history, metric)
    if not measured or metric not in history[-1]:
        return None
    (_, value), before = measured[-1], [value for _, value in measured[-1 - window : -1]]
    if limit is not None and value > limit:
        return f"{metric} is {value:.4g}, over the limit of {limit:.4g}"
    if factor is not None and len(before) == window and value > factor * (usual := statistics.median(before)):
        return f"{metric} is {value:.4g}, more than {factor:.4g} times the {usual:.4g} of the {window} before"
    return None


def _measured(history: History, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, where it is there and finite."""
    found = [(int(row["step"]), row[metric]) for row in history if row.get(metric) is not None]
    return [(step, float(value)) for step, value in found if math.isfinite(value)]
