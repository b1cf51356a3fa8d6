"""Intervals that cover as often as they say, and a test that is wrong as often as it says."""

from itertools import product

import numpy as np
import pytest

from hone.math import resampling
from hone.math.resampling import bootstrap, paired


def test_the_mean_and_nothing_known():
    [interval] = bootstrap(np.array([[0.0], [1.0], [1.0], [np.nan]]))
    assert interval.mean == pytest.approx(2 / 3)
    assert interval.low < interval.mean < interval.high
    [unknown] = bootstrap(np.array([[np.nan], [np.nan]]))
    assert np.isnan([unknown.mean, unknown.low, unknown.high]).all()
    [sure] = bootstrap(np.ones((5, 1)))
    assert (sure.mean, sure.low, sure.high) == (1.0, 1.0, 1.0)
    [empty] = bootstrap(np.empty((0, 1)))
    assert np.isnan(empty.mean)


def test_the_seed_alone_decides():
    values = np.random.default_rng(3).random((40, 2))
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)
    [alone] = bootstrap(values[:, :1], seed=1)
    beside = bootstrap(values, seed=1)[0]  # whatever stands beside it
    assert (alone.low, alone.high) == pytest.approx((beside.low, beside.high), abs=1e-12)


def test_an_interval_of_symmetric_data_is_that_of_percentiles():
    values = np.concatenate([np.arange(1.0, 21), -np.arange(1.0, 21)])[:, None]
    [interval] = bootstrap(values, resamples=20_000)
    deviation = values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(-1.96 * deviation, rel=0.04)
    assert interval.high == pytest.approx(1.96 * deviation, rel=0.04)


def test_acceleration_moves_the_interval_to_the_long_tail():
    values = np.random.default_rng(0).exponential(size=(30, 1))
    [interval] = bootstrap(values)
    assert interval.high - interval.mean > 1.15 * (interval.mean - interval.low)


@pytest.mark.parametrize("draw", ["bernoulli", "exponential"])
def test_coverage(draw):
    """Of 400 data sets of 40 tasks with a known mean, 95 % of the intervals hold it: 91 to 98 % by chance."""
    generator = np.random.default_rng(11)
    held = 0
    for trial in range(400):
        if draw == "bernoulli":  # four samples a task, as pass@1 is
            values, mean = generator.binomial(4, generator.beta(2, 3, size=40)) / 4, 0.4
        else:
            values, mean = generator.exponential(size=40), 1.0
        [interval] = bootstrap(values[:, None], resamples=600, seed=trial)
        held += interval.low <= mean <= interval.high
    assert 0.91 <= held / 400 <= 0.98


def test_p_values_by_hand():
    # Three differences of one sign: 2 of the 8 sign patterns are as far from 0.
    assert paired(np.zeros(5), np.array([1.0, 2.0, 3.0, 0.0, np.nan])) == pytest.approx(2 / 8)
    difference = np.array([0.5, -0.25, 0.75, 0.1])
    sums = [abs(np.dot(signs, difference)) for signs in product((-1, 1), repeat=4)]
    expected = np.mean([value >= abs(difference.sum()) - 1e-9 for value in sums])
    assert paired(np.zeros(4), difference) == pytest.approx(expected)
    assert paired(np.ones(4), np.ones(4)) == 1.0
    assert paired(np.empty(0), np.empty(0)) == 1.0


def test_drawn_signs_agree_with_all_signs(monkeypatch):
    difference = np.random.default_rng(5).normal(0.4, 1, size=12)
    exact = paired(np.zeros(12), difference)
    monkeypatch.setattr(resampling, "EXACT", 0)
    assert paired(np.zeros(12), difference, resamples=40_000) == pytest.approx(exact, abs=0.01)


def test_the_size_under_the_null_and_the_power_beside_it():
    """Two checkpoints that are equally good on every task: p < 0.05 in 5 % of 600 trials, 7.5 % at most by chance."""
    generator = np.random.default_rng(7)
    found = {"null": 0, "better": 0}
    for trial in range(600):
        chance = generator.beta(1, 1, size=60)
        first, same = (generator.binomial(4, chance) / 4 for _ in range(2))
        better = generator.binomial(4, np.clip(chance + 0.2, 0, 1)) / 4
        found["null"] += paired(first, same, resamples=400, seed=trial) < 0.05
        found["better"] += paired(first, better, resamples=400, seed=trial) < 0.05
    assert 0.025 <= found["null"] / 600 <= 0.075
    assert found["better"] / 600 > 0.9


def test_pairing_sees_what_is_lost_between_tasks():
    generator = np.random.default_rng(1)
    hard = generator.random(100)  # tasks differ far more than checkpoints do
    assert paired(hard, hard + generator.normal(0.02, 0.02, size=100)) < 0.001
