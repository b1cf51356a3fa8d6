from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.math.passk import budgets, mean_pass_at_k, pass_at_k, right


def test_by_hand():
    # 1 - C(3,2)/C(5,2) = 1 - 3/10; one right among n, one drawn: 1/n; more draws than wrong answers: certain.
    assert pass_at_k(5, 2, 2) == 0.7
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 2, 3) == 1.0
    assert pass_at_k(7, 0, 7) == 0.0
    assert pass_at_k(256, 1, 128) == 0.5


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_it_is_the_share_of_draws_with_a_right_answer(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    every = [any(drawn) for drawn in combinations(answers, k)]
    assert pass_at_k(len(answers), sum(answers), k) == pytest.approx(fmean(every), abs=1e-15)


@given(st.integers(1, 300), st.data())
def test_it_lies_in_order(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    here = pass_at_k(n, c, k)
    assert 0 <= here <= 1
    assert pass_at_k(n, c, 1) == c / n
    assert pass_at_k(n, min(n, c + 1), k) >= here
    assert pass_at_k(n, c, min(n, k + 1)) >= here
    assert here == 1 or n - c >= k
    assert (here == 0) == (c == 0)


def test_large_numbers_lose_nothing():
    # One right among a million, one drawn of two: the difference from 0 would drown in 1 - 0.999998.
    assert pass_at_k(10**6, 1, 2) == 2e-6
    assert pass_at_k(20_000, 1, 10_000) == 0.5  # its binomials have thousands of digits


def test_it_is_unbiased():
    # The mean over all outcomes of n = 4 answers, each right with probability 0.3, is 1 - 0.7^k.
    p, n = 0.3, 4
    for k in (1, 2, 3, 4):
        outcomes = [[bool(i >> j & 1) for j in range(n)] for i in range(2**n)]
        weighted = [p ** sum(o) * (1 - p) ** (n - sum(o)) * pass_at_k(n, sum(o), k) for o in outcomes]
        assert sum(weighted) == pytest.approx(1 - 0.7**k)


@pytest.mark.parametrize(("n", "c", "k"), [(0, 0, 1), (3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_impossible_numbers_are_refused(n, c, k):
    with pytest.raises(ValueError, match="needs 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_the_mean_is_over_tasks_with_enough_answers():
    assert mean_pass_at_k([(2, 1), (4, 2), (1, 1)], 1) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert mean_pass_at_k([(2, 1), (4, 2), (1, 1)], 4) == 1.0
    assert mean_pass_at_k([(2, 1), (4, 2)], 2) == pytest.approx((1 + 5 / 6) / 2)
    assert mean_pass_at_k([(2, 1)], 3) is None
    assert mean_pass_at_k([], 1) is None


@pytest.mark.parametrize(
    ("n", "expected"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_budgets_double_up_to_all(n, expected):
    assert budgets(n) == expected


def test_right_is_a_full_reward():
    assert right([1.0, 0.999, 0.0, 1.2, True]) == (5, 3)
    assert right([]) == (0, 0)
