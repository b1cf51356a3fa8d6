"""maj@k against all subsets, one by one."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.math.majority import majority_at_k


def counted(answers, right, k):
    """The mean over all subsets, ties broken evenly."""
    worth = {a: [r for b, r in zip(answers, right, strict=True) if a == b] for a in answers}
    total, subsets = 0.0, 0
    for drawn in combinations(range(len(answers)), k):
        subsets += 1
        votes = Counter(answers[i] for i in drawn if answers[i] is not None)
        winners = [a for a, count in votes.items() if count == max(votes.values())]
        total += sum(sum(worth[a]) / len(worth[a]) for a in winners) / max(1, len(winners))
    return total / subsets


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.booleans()), min_size=1, max_size=9), st.data()
)
def test_it_is_the_mean_over_all_subsets(samples, data):
    k = data.draw(st.integers(1, len(samples)))
    answers, right = zip(*samples, strict=True)
    assert majority_at_k(answers, right, k) == pytest.approx(counted(answers, right, k), abs=1e-12)


def test_by_hand():
    answers, right = ["7", "7", "8", None], [True, True, False, False]
    assert majority_at_k(answers, right, 4) == 1.0  # two votes against one
    assert majority_at_k(answers, right, 1) == 0.5  # 7 in half of the draws
    # Pairs: 77; 78 twice, a tie; 7 and silence twice; 8 and silence.
    assert majority_at_k(answers, right, 2) == pytest.approx((1 + 2 * 0.5 + 2 * 1 + 0) / 6)
    assert majority_at_k([None, None], [False, False], 2) == 0.0


def test_a_wrong_answer_that_is_commoner_wins():
    answers, right = ["1"] * 3 + ["2"] * 5, [True] * 3 + [False] * 5
    values = [majority_at_k(answers, right, k) for k in range(1, 9)]
    assert values[0] == pytest.approx(3 / 8)
    assert values[-1] == 0.0
    assert all(later <= earlier + 1e-12 for earlier, later in zip(values[::2], values[2::2], strict=False))


def test_many_samples_do_not_overflow():
    answers = [str(i % 7) for i in range(256)]
    assert majority_at_k(answers, [a == "0" for a in answers], 256) == pytest.approx(1 / 4)  # 37 votes for each of four


@pytest.mark.parametrize("k", [0, 3])
def test_k_within_n(k):
    with pytest.raises(ValueError, match="needs 1 <= k <= n"):
        majority_at_k(["a", "b"], [True, False], k)
