from dataclasses import replace
from functools import partial

import pytest
from math_builders import TASK, group, trajectory

from hone.math.shaping import kl_reward, mask_truncated, overlong
from hone.types import Group, Segment


def of(*trajectories) -> Group:
    return Group(TASK, list(trajectories))


@pytest.mark.parametrize(
    ("steps", "penalty"), [(1, 0.0), (60, 0.0), (61, -0.025), (80, -0.5), (99, -0.975), (100, -1.0), (150, -1.0)]
)
def test_overlong_by_hand(steps, penalty):
    t = trajectory(0.75, steps)
    overlong([of(t)], max_length=100, buffer=40)  # falls by 1/40 a step from 60
    assert t.scores["overlong"] == pytest.approx(penalty)
    assert t.reward == pytest.approx(0.75 + penalty)


def test_overlong_with_the_papers_numbers():
    found = []
    for steps in (16384, 18432, 20480):
        t = trajectory(1.0, steps)
        overlong([of(t)], max_length=20480, buffer=4096, factor=2.0)
        found.append(t.reward)
    assert found == [1.0, 0.0, -1.0]


def test_overlong_counts_sampled_steps_only():
    t = trajectory(1.0, 50)
    t.segments[1:1] = [Segment("retry", "forced", (1,) * 90), Segment("turn 1", "policy", (1,) * 30, train=False)]
    overlong([of(t)], max_length=100, buffer=40)
    assert t.reward == 0.5  # 80 sampled steps


def test_overlong_refuses_a_buffer_beyond_the_limit():
    with pytest.raises(ValueError, match="buffer"):
        overlong([group(1.0)], max_length=10, buffer=11)
    overlong([group(1.0)], max_length=10, buffer=10)


def test_mask_truncated_withdraws_steps_and_keeps_rewards():
    cut, done = trajectory(0.5, 4, stop="length"), trajectory(1.0, 4, stop="eos")
    mask_truncated([of(cut, done)])
    assert [cut.trained, done.trained] == [0, 4]
    assert [cut.reward, done.reward] == [0.5, 1.0]


def with_reference(reward, logprobs, reference):
    t = trajectory(reward, len(logprobs))
    t.segments[1] = replace(t.segments[1], logprobs=tuple(logprobs), reference_logprobs=tuple(reference))
    return t


# The log ratios are 1 and -1/2. k2: 1/2 + 1/8. k3: (1/e - 1 + 1) + (e^(1/2) - 1 - 1/2) = 0.3678794 + 0.1487213.
@pytest.mark.parametrize(("estimator", "kl"), [("k1", 0.5), ("k2", 0.625), ("k3", 0.5166007)])
def test_kl_reward_by_hand(estimator, kl):
    t = with_reference(1.0, [-1.0, -2.0], [-2.0, -1.5])
    kl_reward([of(t)], coefficient=0.1, estimator=estimator)
    assert t.scores["kl"] == pytest.approx(kl, abs=1e-6)
    assert t.reward == pytest.approx(1.0 - 0.1 * kl, abs=1e-6)


def test_kl_reward_defaults_and_untrained_segments():
    t = with_reference(1.0, [-1.0, -2.0], [-2.0, -1.5])
    t.segments[1:1] = [
        Segment("attempt", "policy", (1, 2), logprobs=(-1.0, -1.0)),
        Segment("retry", "forced", (3,), train=True),
    ]
    kl_reward([of(t)])
    assert t.reward == pytest.approx(1.0 - 0.001 * 0.5)


def test_kl_reward_of_a_withdrawn_trajectory_is_unchanged():
    t = trajectory(1.0, 3)
    t.withdraw()
    kl_reward([of(t)])
    assert (t.reward, t.scores["kl"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("missing", "message"), [("reference_logprobs", "2 steps but 0 reference_logprobs"), ("logprobs", "0 logprobs")]
)
def test_kl_reward_needs_both_log_probabilities(missing, message):
    t = with_reference(1.0, [-1.0, -2.0], [-2.0, -1.5])
    t.segments[1] = replace(t.segments[1], **{missing: ()})
    with pytest.raises(ValueError, match=message):
        kl_reward([of(t)])


def test_kl_reward_says_that_it_reads_the_reference():
    assert partial(kl_reward, coefficient=0.1).func.reads_reference


@pytest.mark.parametrize("shaper", [partial(overlong, max_length=2, buffer=1), mask_truncated, kl_reward])
def test_unjudged_trajectories_are_left_alone(shaper):
    t = trajectory(None, 4, stop="length")
    shaper([of(t)])
    assert (t.reward, t.trained, t.scores) == (None, 4, {})
