from math_builders import group

from hone.math.gates import everything, informative


def test_informative_keeps_groups_with_right_and_wrong_answers():
    assert informative(group(1.0, 0.0, 0.0))
    assert not informative(group(1.0, 1.0, 1.0))
    assert not informative(group(0.0, 0.0))


def test_informative_reads_judged_rewards_only():
    assert informative(group(None, 1.0, 0.0))
    assert not informative(group(None, 1.0, 1.0))
    assert not informative(group(None, 1.0))
    assert not informative(group(None, None))
    assert not informative(group())


def test_informative_tolerance_is_of_the_spread_and_inclusive():
    assert not informative(group(0.25, 0.5), tolerance=0.25)
    assert informative(group(0.25, 0.5), tolerance=0.24)


def test_everything_needs_one_judged_trajectory():
    assert everything(group(None, 0.0))
    assert everything(group(1.0, 1.0))
    assert not everything(group(None, None))
    assert not everything(group())
