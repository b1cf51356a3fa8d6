import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_builders import advantages, group, trajectory

from hone.math.advantages import batch_whitened, centred, leave_one_out, raw, zscore
from hone.types import Group

ALL = [zscore, partial(zscore, unbiased=False), centred, leave_one_out, batch_whitened]
rewards_lists = st.lists(st.integers(-8, 8).map(float), min_size=2, max_size=8)


def test_zscore_by_hand():
    g = group(1.0, 0.0, 0.0, 0.0)  # mean 1/4; squared deviations 9/16 + 3/16 = 3/4; / 3 = 1/4; std 1/2
    zscore([g])
    assert advantages(g) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_zscore_by_hand_with_the_population_std():
    g = group(1.0, 0.0, 0.0, 0.0)  # 3/4 / 4 = 3/16; std sqrt(3) / 4; 0.75 / that = sqrt(3)
    zscore([g], unbiased=False)
    assert advantages(g) == pytest.approx([1.7320508, -0.5773503, -0.5773503, -0.5773503], abs=1e-5)


def test_zscore_adds_eps_to_the_std():
    g = group(2.0, 0.0)  # deviations 1, -1; population std 1; + 1
    zscore([g], eps=1.0, unbiased=False)
    assert advantages(g) == [0.5, -0.5]


def test_centred_by_hand():
    g, h = group(1.0, 0.0, 0.0, 0.0), group(3.0, 5.0)
    centred([g, h])
    assert advantages(g, h) == [0.75, -0.25, -0.25, -0.25, -1.0, 1.0]


def test_raw_is_the_reward_and_leaves_the_unjudged_alone():
    g = group(1.0, None, -0.25)
    raw([g])
    assert [t.advantage for t in g] == [1.0, None, -0.25]


def test_leave_one_out_by_hand():
    g = group(1.0, 2.0, 6.0)  # others' means 4, 3.5, 1.5
    leave_one_out([g])
    assert advantages(g) == pytest.approx([-3.0, -1.5, 4.5])


def test_batch_whitened_by_hand():
    g, h = group(1.0, 0.0), group(4.0, 0.0)  # centred 0.5, -0.5, 2, -2; variance (0.25 + 0.25 + 4 + 4) / 4 = 2.125
    batch_whitened([g, h])
    assert advantages(g, h) == pytest.approx([0.3429972, -0.3429972, 1.3719887, -1.3719887], abs=1e-5)


def test_batch_whitened_per_step_by_hand():
    g = Group(group().task, [trajectory(1.0, steps=3), trajectory(0.0, steps=1)])
    # centred 0.5 on three steps, -0.5 on one: mean 0.25; variance (3/16 + 9/16) / 4 = 3/16
    batch_whitened([g], per="step")
    assert advantages(g) == pytest.approx([0.5773503, -1.7320508], abs=1e-5)


def test_batch_whitened_per_step_counts_trained_steps_only():
    g = Group(group().task, [trajectory(1.0), trajectory(1.0), trajectory(-2.0, steps=5)])
    g.trajectories[2].withdraw()
    batch_whitened([g], per="step", eps=0.5)  # centred 1, 1, -2; counted steps 1, 1: mean 1, std 0
    assert advantages(g) == [0.0, 0.0, -6.0]


def test_batch_whitened_per_step_without_trained_steps():
    g = group(1.0, 0.0)
    for t in g:
        t.withdraw()
    batch_whitened([g], per="step")
    assert all(math.isfinite(a) for a in advantages(g))


@pytest.mark.parametrize("advantage", ALL)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.3, 1e6 / 3])
def test_equal_rewards_give_exactly_zero(advantage, reward):
    g = group(*[reward] * 3)
    advantage([g])
    assert advantages(g) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("advantage", ALL)
def test_a_single_judged_trajectory_gives_exactly_zero(advantage):
    g = group(0.7, None)
    advantage([g])
    assert advantages(g) == [0.0, None]


@pytest.mark.parametrize("advantage", ALL)
def test_unjudged_trajectories_are_left_out(advantage):
    with_unjudged, without = group(None, 1.0, None, 0.0), group(1.0, 0.0)
    advantage([with_unjudged])
    advantage([without])
    first, second = advantages(without)
    assert advantages(with_unjudged) == [None, first, None, second]
    assert [t.reward for t in with_unjudged] == [None, 1.0, None, 0.0]


@pytest.mark.parametrize("advantage", ALL)
def test_nothing_judged_or_no_groups(advantage):
    g, empty = group(None, None), group()
    advantage([g, empty])
    advantage([])
    assert advantages(g, empty) == [None, None]


@given(rewards_lists, st.sampled_from([0.25, 3.0, 100.0]), st.integers(-5, 5))
def test_zscore_does_not_see_affine_changes(rewards, scale, shift):
    g, h = group(*rewards), group(*[scale * r + shift for r in rewards])
    zscore([g], eps=1e-12)
    zscore([h], eps=1e-12)
    assert advantages(h) == pytest.approx(advantages(g), abs=1e-9)


@given(rewards_lists)
def test_zscore_has_mean_zero_and_unit_variance(rewards):
    g = group(*rewards)
    zscore([g], eps=1e-12, unbiased=False)
    found = advantages(g)
    assert sum(found) == pytest.approx(0, abs=1e-9)
    if len(set(rewards)) > 1:
        assert sum(a * a for a in found) == pytest.approx(len(rewards))


@given(rewards_lists)
def test_leave_one_out_is_centred_scaled(rewards):
    g, h = group(*rewards), group(*rewards)
    leave_one_out([g])
    centred([h])
    size = len(rewards)
    assert advantages(g) == pytest.approx([a * size / (size - 1) for a in advantages(h)], abs=1e-9)


@given(rewards_lists, rewards_lists)
def test_group_baselines_do_not_mix_groups(one, two):
    for advantage in (zscore, centred, leave_one_out):
        together, alone = [group(*one), group(*two)], [group(*one), group(*two)]
        advantage(together)
        for g in alone:
            advantage([g])
        assert advantages(*together) == advantages(*alone)


@given(st.lists(rewards_lists, min_size=1, max_size=4))
def test_batch_whitened_has_unit_variance_and_does_not_see_group_offsets(batch):
    groups = [group(*rewards) for rewards in batch]
    shifted = [group(*[r + 10.0 * i for r in rewards]) for i, rewards in enumerate(batch)]
    batch_whitened(groups, eps=1e-12)
    batch_whitened(shifted, eps=1e-12)
    found = advantages(*groups)
    assert advantages(*shifted) == pytest.approx(found, abs=1e-6)
    if any(len(set(rewards)) > 1 for rewards in batch):
        assert sum(a * a for a in found) == pytest.approx(len(found))
