"""When a rewritten question counts as harder and still solvable, from the passes of its seed and its own.

Passes are counted out of N independent rollouts. A rule gives the reason to reject, or None to accept.
"""

from math import lgamma

import numpy as np


def is_seed(passes: int, *, seed_passes: int = 12) -> bool:
    """``c_ori >= 12`` of 16: the model knows the answer, so its agreement says something (SynthRL, section 3)."""
    return passes >= seed_passes


def fixed(before: int, after: int, *, min_passes: int = 4, drop: int = 2) -> str | None:
    """``T_min <= c_cand <= c_ori - Delta`` (SynthRL, arXiv 2506.02096, section 3)."""
    if after < min_passes:
        return "too hard"
    return None if after <= before - drop else "not harder"


def posterior(
    before: int, after: int, rollouts: int, *, min_passes: int = 4, confidence: float = 0.95, margin: float = 0.0
) -> str | None:
    """``c_cand >= T_min`` and ``P(p_ori - p_cand > margin) >= confidence``: not in the paper.

    A fixed drop of 2 in 16 is often chance, for the seed was chosen because its count was high; see
    :func:`probability_of_drop`.
    """
    if after < min_passes:
        return "too hard"
    sure = probability_of_drop(before, after, rollouts, margin=margin)
    return None if sure >= confidence else "not harder"


def probability_of_drop(before: int, after: int, rollouts: int, *, margin: float = 0.0) -> float:
    """``P(p - q > margin)`` where p and q, independent, follow the posteriors of two counts under uniform priors.

    With N rollouts, ``p ~ Beta(1 + c, 1 + N - c)``, ``c`` being ``before``, and q likewise with ``after``. So it is
    the integral from ``margin`` to 1 of ``f(x) F(x - margin)``, with p's density and q's distribution function. Both
    are polynomials, of degrees N and N + 1, which N + 1 nodes of Gauss and Legendre integrate exactly.

    Args:
        before: Passes of the first.
        after: Passes of the second.
        rollouts: N, of each.
        margin: In [0, 1).
    """
    nodes, weights = np.polynomial.legendre.leggauss(rollouts + 1)
    x = margin + (1 - margin) * (nodes + 1) / 2
    density = (rollouts + 1) * _binomial(rollouts, before, x)
    # Of rollouts + 1 uniform draws, at least after + 1 lie below y with the probability that q does.
    below = sum(_binomial(rollouts + 1, j, x - margin) for j in range(after + 1, rollouts + 2))
    return float((weights * density * below).sum() * (1 - margin) / 2)


def _binomial(n: int, k: int, p: np.ndarray) -> np.ndarray:
    ways = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)  # a logarithm: the number itself may overflow
    return np.exp(ways + k * np.log(p) + (n - k) * np.log1p(-p))
