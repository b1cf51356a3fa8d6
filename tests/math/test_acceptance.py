import random
from itertools import pairwise
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.math.acceptance import fixed, is_seed, posterior, probability_of_drop


def test_a_seed_has_twelve_passes_of_sixteen():
    assert [passes for passes in range(17) if is_seed(passes)] == [12, 13, 14, 15, 16]
    assert is_seed(3, seed_passes=3)
    assert not is_seed(2, seed_passes=3)


def test_the_boundaries_of_the_paper():
    assert fixed(12, 3) == "too hard"
    assert fixed(12, 4) is None
    assert fixed(12, 10) is None
    assert fixed(12, 11) == "not harder"
    assert [after for after in range(17) if fixed(16, after) is None] == list(range(4, 15))


@given(before=st.integers(0, 16), after=st.integers(0, 16), least=st.integers(0, 16), drop=st.integers(0, 16))
def test_the_fixed_rule_is_its_two_inequalities(before, after, least, drop):
    assert (fixed(before, after, min_passes=least, drop=drop) is None) == (least <= after <= before - drop)


def test_a_drop_between_single_rollouts_by_hand():
    # p ~ Beta(2, 1), q ~ Beta(1, 2): f(x) = 2 x, F(y) = 1 - (1 - y)^2, and the integral of 2 x (2 x - x^2) is 5/6.
    assert probability_of_drop(1, 0, 1) == pytest.approx(5 / 6, abs=1e-12)
    # Above a margin of 1/2, with y = x - 1/2: (2 y + 1)(2 y - y^2) = 2 y + 3 y^2 - 2 y^3, over (0, 1/2).
    assert probability_of_drop(1, 0, 1, margin=0.5) == pytest.approx(1 / 4 + 1 / 8 - 1 / 32, abs=1e-12)
    # No rollouts, two uniform rates: half of them drop.
    assert probability_of_drop(0, 0, 0) == pytest.approx(0.5, abs=1e-12)


def brute_force(before: int, after: int, n: int, cells: int = 4000) -> float:
    """The sum over a grid of both rates, without the closed form of either."""

    def posterior_of(passes):
        rates = [(i + 0.5) / cells for i in range(cells)]
        weights = [rate**passes * (1 - rate) ** (n - passes) for rate in rates]
        return [weight / sum(weights) for weight in weights]

    p, below, total = posterior_of(before), 0.0, 0.0
    for weight, mass in zip(p, posterior_of(after), strict=True):
        total += weight * (below + mass / 2)
        below += mass
    return total


@pytest.mark.parametrize(("before", "after"), [(16, 14), (12, 4), (15, 15), (3, 9), (16, 0)])
def test_it_is_the_probability_of_a_drop_on_a_grid(before, after):
    assert probability_of_drop(before, after, 16) == pytest.approx(brute_force(before, after, 16), abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.35])
def test_it_is_the_share_of_draws_that_drop_by_more_than_the_margin(margin):
    draw, n = random.Random(0), 40_000
    share = sum(draw.betavariate(14, 4) - draw.betavariate(10, 8) > margin for _ in range(n)) / n
    assert probability_of_drop(13, 9, 16, margin=margin) == pytest.approx(share, abs=4 * 0.5 / n**0.5)


@given(before=st.integers(0, 32), after=st.integers(0, 32), margin=st.floats(0, 0.9))
def test_drops_and_rises_add_up(before, after, margin):
    down = probability_of_drop(before, after, 32)
    assert down + probability_of_drop(after, before, 32) == pytest.approx(1, abs=1e-9)
    assert -1e-12 <= probability_of_drop(before, after, 32, margin=margin) <= down + 1e-12


def test_many_rollouts_do_not_overflow():
    # Nearly two normal distributions, of rates 0.6 and 0.55: their difference is 0.05 with standard deviation 0.02016.
    assert probability_of_drop(720, 660, 1200) == pytest.approx(0.99344, abs=5e-4)


def test_it_falls_with_the_passes_of_the_rewrite_and_with_the_margin():
    chances = [probability_of_drop(14, after, 16) for after in range(17)]
    assert all(one > other for one, other in pairwise(chances))
    chances = [probability_of_drop(14, 8, 16, margin=i / 10) for i in range(10)]
    assert all(one > other for one, other in pairwise(chances))


def test_a_drop_of_two_is_mostly_chance_and_the_posterior_says_so():
    assert fixed(16, 14) is None
    assert posterior(16, 14, 16) == "not harder", probability_of_drop(16, 14, 16)
    assert posterior(16, 10, 16) is None
    assert posterior(12, 10, 16) == "not harder"
    assert posterior(16, 3, 16) == "too hard"
    assert posterior(16, 10, 16, margin=0.4) == "not harder"
    assert posterior(16, 14, 16, confidence=0.8) is None


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_random_questions_are_accepted_as_often_as_the_binomial_predicts(rate):
    predicted = sum(comb(16, k) * rate**k * (1 - rate) ** (16 - k) for k in range(4, 12))
    draw, n = random.Random(1), 4000
    accepted = sum(fixed(13, sum(draw.random() < rate for _ in range(16))) is None for _ in range(n)) / n
    assert accepted == pytest.approx(predicted, abs=4 * (predicted * (1 - predicted) / n) ** 0.5)
