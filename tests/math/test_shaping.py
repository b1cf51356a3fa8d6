from dataclasses import replace
from functools import partial

import pytest
from math_builders import TASK, group, trajectory

from hone.build import build
from hone.math.shaping import cosine_length, kl_reward, mask_truncated, overlong, stop_properly
from hone.registry import ConfigError
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


@pytest.mark.parametrize(("factor", "left"), [(0.0, 0.0), (0.25, 0.2), (1.0, 0.8)])
def test_stop_properly_by_hand(factor, left):
    cut, done, wrong = trajectory(0.8, stop="length"), trajectory(0.8, stop="stop"), trajectory(0.0, stop="length")
    stop_properly([of(cut, done), of(wrong)], factor=factor)
    assert [cut.reward, done.reward, wrong.reward] == pytest.approx([left, 0.8, 0.0])
    assert cut.scores["stop_properly"] == pytest.approx(left - 0.8)
    assert done.scores["stop_properly"] == wrong.scores["stop_properly"] == 0.0


def test_stop_properly_takes_everything_unless_told_otherwise():
    cut = trajectory(1.0, stop="length")
    stop_properly([of(cut)])
    assert (cut.reward, cut.trained) == (0.0, 1)  # it is trained on: that is the lesson


# cos(pi / 3) = 1/2, so a third of the length costs a quarter of the range: -2 + 0.5 * 2.5 * (1 + 1/2) = -0.125.
@pytest.mark.parametrize(("steps", "part"), [(1, None), (20, -0.125), (30, -0.75), (60, -2.0), (90, -2.0)])
def test_cosine_length_by_hand(steps, part):
    t = trajectory(1.0, steps)
    cosine_length([of(t)], max_length=60, low=-2.0, high=0.5)
    assert t.reward == 1.0 + t.scores["cosine_length"]
    if part is None:
        assert 0.49 < t.scores["cosine_length"] < 0.5
    else:
        assert t.scores["cosine_length"] == pytest.approx(part)


def test_cosine_length_acts_in_its_windows():
    def acts(version, **settings):
        t = trajectory(1.0, 10, version=version)
        cosine_length([of(t)], max_length=10, low=-1.0, high=0.0, **settings)
        return t.scores["cosine_length"] != 0.0

    assert [v for v in range(1300) if acts(v)] == [*range(100), *range(600, 700), *range(1200, 1300)]
    assert [v for v in range(9) if acts(v, active=2, idle=3)] == [0, 1, 5, 6]
    assert all(acts(v, active=1, idle=0) for v in range(4))


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"stop_properly": {"factor": 1.5}}, "stop_properly.factor"),
        ({"stop_properly": {"factor": -0.5}}, "stop_properly.factor"),
        ({"cosine_length": {"max_length": 0, "low": -1.0, "high": 0.0}}, "cosine_length.max_length"),
        ({"cosine_length": {"max_length": 9, "low": -1.0, "high": 0.0, "active": 0}}, "cosine_length.active"),
        ({"cosine_length": {"max_length": 9}}, "cosine_length.low: required"),
    ],
)
def test_settings_of_the_prorl_shapers_are_bounded(spec, where):
    with pytest.raises(ConfigError, match=where):
        build("shaper", spec)


def test_cosine_length_never_pays_for_length():
    with pytest.raises(ValueError, match="must not exceed high"):
        cosine_length([group(1.0)], max_length=10, low=0.1, high=0.0)
    rewards = []
    for steps in range(1, 40):
        t = trajectory(0.0, steps)
        cosine_length([of(t)], max_length=30, low=-0.5, high=0.0)
        rewards.append(t.reward)
    assert rewards == sorted(rewards, reverse=True)


@pytest.mark.parametrize(
    "shaper",
    [
        partial(overlong, max_length=2, buffer=1),
        mask_truncated,
        kl_reward,
        stop_properly,
        partial(cosine_length, max_length=4, low=-1.0, high=0.0),
    ],
)
def test_unjudged_trajectories_are_left_alone(shaper):
    t = trajectory(None, 4, stop="length")
    shaper([of(t)])
    assert (t.reward, t.trained, t.scores) == (None, 4, {})
