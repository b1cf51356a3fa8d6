"""maj@k: the chance that the commonest of k answers is right.

Self-consistency (X. Wang et al., arXiv 2203.11171) takes the answer that most of k samples agree on. From n samples it
is computed for every k without chance: the mean over all subsets of k samples, where a tie between answers is broken
evenly. Samples without an answer cast no vote; where no sample of a subset votes, the vote is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from math import comb

import numpy as np


def majority_at_k(answers: Sequence[Hashable | None], right: Sequence[bool], k: int) -> float:
    """maj@k of one task.

    Args:
        answers: Of each sample, equal where two agree; None for a sample that casts no vote.
        right: Whether each sample is. An answer that was judged both ways, as where form counts too, is right to the
            share of its samples that are.
        k: Votes, at most ``len(answers)``.

    Raises:
        ValueError: Unless ``1 <= k <= n``.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@{k} of {len(answers)} answers: needs 1 <= k <= n")
    votes = Counter(answer for answer in answers if answer is not None)
    good = Counter(answer for answer, is_right in zip(answers, right, strict=True) if is_right and answer is not None)
    silent = len(answers) - votes.total()
    total = 0.0
    for answer, count in good.items():
        others = Counter(votes)
        own = others.pop(answer)
        total += count / own * _wins(own, tuple(sorted(others.values())), silent, k)
    return total


@lru_cache(maxsize=1 << 16)
def _wins(own: int, others: tuple[int, ...], silent: int, k: int) -> float:
    """The chance that an answer of ``own`` samples wins among k that are drawn without putting back.

    For each number t of its votes: the ways in which every other answer has at most t, by how many of them tie with it.
    """
    n = own + sum(others) + silent
    ways = 0.0
    for t in range(1, min(own, k) + 1):
        tied = np.zeros((k // t + 1, k - t + 1))  # [answers that tie, votes that others have]
        for votes in range(min(silent, k - t) + 1):
            tied[0, votes] = comb(silent, votes)
        for count in others:
            tied = _with(tied, count, t)
        ways += comb(own, t) * float((tied[:, -1] / np.arange(1, len(tied) + 1)).sum())
    return ways / comb(n, k)


def _with(tied: np.ndarray, count: int, most: int) -> np.ndarray:
    """The ways, once another answer of ``count`` samples may have up to ``most`` votes."""
    new = tied.copy()
    width = tied.shape[1]
    for votes in range(1, min(count, most, width - 1) + 1):
        reached = comb(count, votes) * tied[:, : width - votes]
        if votes == most:
            new[1:, votes:] += reached[:-1]
        else:
            new[:, votes:] += reached
    return new
