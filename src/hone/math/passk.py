"""pass@k: the chance that at least one of k answers is right.

The unbiased estimate from n answers of which c are right, ``1 - C(n - c, k) / C(n, k)``: M. Chen et al., "Evaluating
Large Language Models Trained on Code" (arXiv 2107.03374, equation 1). The plug-in ``1 - (1 - c / n)^k`` is too low.
"""

from collections.abc import Iterable, Sequence
from math import comb, fsum


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate pass@k for one task.

    Computed in integers and rounded once, so it is exact to the last bit for any size.

    Args:
        n: Answers.
        c: Right ones among them.
        k: How many one may draw.

    Raises:
        ValueError: Unless ``0 <= c <= n`` and ``1 <= k <= n``.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} right answers among {n}: needs 0 <= c <= n and 1 <= k <= n")
    draws = comb(n, k)
    return (draws - comb(n - c, k)) / draws


def mean_pass_at_k(counts: Iterable[tuple[int, int]], k: int) -> float | None:
    """The mean of pass@k over tasks, given as (n, c), that have k answers or more; None where none has."""
    passed = [pass_at_k(n, c, k) for n, c in counts if n >= k]
    return fsum(passed) / len(passed) if passed else None


def budgets(n: int) -> list[int]:
    """The k for which one reads pass@k of n answers: 1, 2, 4, ... and n itself."""
    return sorted({n, *(2**i for i in range(n.bit_length()))}) if n else []


def right(rewards: Sequence[float]) -> tuple[int, int]:
    """(n, c) of one task's rewards: an answer is right if its reward is full, that is at least 1."""
    return len(rewards), sum(reward >= 1 for reward in rewards)
