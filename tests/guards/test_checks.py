"""The checks that are arithmetic, by hand and by chance."""

import math
import mmap
import random
from dataclasses import replace
from statistics import fmean

import pytest

from hone.guards import bands, memory, rewards
from hone.guards.bands import Band
from hone.guards.credit import credit
from hone.guards.finding import Finding
from hone.guards.rewards import Seen
from hone.guards.siblings import NATS, siblings
from hone.types import Group, Segment, Task, Trajectory

TASK = Task("a", [{"role": "user", "content": "?"}])
PROMPT = Segment("prompt", "given", (1, 2))


def answer(*actions, p=0.5, task=TASK, before=()):
    """A trajectory whose every step had the probability ``p``."""
    own = Segment("response", "policy", actions, (math.log(p),) * len(actions), train=True)
    return Trajectory(task, [PROMPT, *before, own], reward=0.0)


def test_a_finding_reads_as_a_sentence():
    told = str(Finding("layout", "3 steps", "padding", "model"))
    assert told == "layout: 3 steps. Likely cause: padding. Look at model"


# Siblings.


def test_an_answer_of_forty_bits_that_comes_twice_is_no_chance():
    rare = [answer(*range(40)), answer(*range(40))]
    found = siblings([Group(TASK, rare)])
    assert "1 answers repeat another" in found.evidence
    # One bet, half of everything staked, paid 2^40 for one: (1 + 2^40) / 2.
    assert f"e^{math.log((1 + 2**40) / 2):.0f})" in found.evidence
    assert "same seed" in found.cause
    assert siblings([Group(TASK, [answer(*range(40)), answer(*range(1, 41))])]) is None


def test_a_likely_answer_may_come_as_often_as_it_likes():
    assert siblings([Group(TASK, [answer(7, p=0.99) for _ in range(500)])]) is None
    assert siblings([Group(TASK, [answer(7, p=0.9) for _ in range(500)])]) is not None  # 0.9^499 is 1e-23
    assert siblings([Group(TASK, [answer(*range(20)) for _ in range(2)])]) is None  # 2^20: once in a million


def test_short_answers_add_up_over_a_group_and_its_like():
    task = [Group(TASK, [answer(1, 2, 3, p=0.1) for _ in range(4)])]
    assert siblings(task) is None  # 3 bets at 1000 to 1, halved each time: 18.6 nats, a little less than asked for
    assert siblings([Group(TASK, [answer(1, 2, 3, p=0.1) for _ in range(5)])]) is not None


def test_the_same_task_in_two_groups_must_draw_anew():
    groups = [Group(TASK, [answer(*range(40))]) for _ in range(2)]
    assert siblings(groups) is not None
    other = Task("b", TASK.prompt)
    assert siblings([groups[0], Group(other, [answer(*range(40), task=other)])]) is None


def test_what_siblings_share_was_drawn_once():
    attempt = Segment("attempt", "policy", tuple(range(40)), (-1.0,) * 40)
    assert siblings([Group(TASK, [answer(i, before=[attempt]) for i in range(8)])]) is None
    assert siblings([Group(TASK, [Trajectory(TASK, [PROMPT, attempt], reward=1.0) for _ in range(8)])]) is None
    copies = [answer(i, before=[replace(attempt, train=True)]) for i in range(8)]
    assert siblings([Group(TASK, copies)]) is None
    same = [answer(*range(40), before=[replace(attempt)]) for i in range(2)]
    assert siblings([Group(TASK, same)]) is not None  # what they drew last is nobody else's


@pytest.mark.parametrize("sure", [0.5, 0.9, 0.999])
def test_a_fair_game_pays_nobody(sure):
    """Two-step answers over three tokens, of which one is likely: wins average at most what was staked."""
    draw = random.Random(0)
    weights = [sure, (1 - sure) * 0.7, (1 - sure) * 0.3]

    def sampled():
        actions = draw.choices(range(3), weights, k=2)
        own = Segment("r", "policy", tuple(actions), tuple(math.log(weights[a]) for a in actions), train=True)
        return Trajectory(TASK, [PROMPT, own], reward=0.0)

    from hone.guards.siblings import _bet, _own

    gains = []
    for _ in range(3000):
        gains.append(_bet(_own(Group(TASK, [sampled() for _ in range(4)])))[0])
    assert max(gains) < NATS
    assert fmean(map(math.exp, gains)) < 1.5  # 1 in the limit; the tail is heavy


# Rewards and credit.


def test_rewards_must_be_numbers():
    assert rewards.finite([[0.0, None], [1.0]]) is None
    assert "1 rewards are not finite, such as inf" in rewards.finite([[0.0, math.inf]]).evidence


def test_constant_and_missing_need_patience():
    same, other, none = Seen.of([[0.0, 0.0], [0.0]]), Seen.of([[0.0, 1.0]]), Seen.of([[None, None, 0.0]])
    assert (same.low, same.high, same.missing, same.count) == (0.0, 0.0, 0, 3)
    assert rewards.constant([same] * 2, 3) is None
    assert "last 3 steps is 0" in rewards.constant([other, same, same, same], 3).evidence
    assert rewards.constant([same, other, same], 3) is None
    assert rewards.constant([same, same, Seen.of([[None]])], 3) is None  # nothing is known of the last
    assert rewards.missing([none, none], 2, 0.5).evidence == "4 of 6 answers in the last 2 steps have no verdict"
    assert rewards.missing([same, none], 2, 0.5) is None
    assert rewards.missing([none, none], 2, 0.7) is None


def test_swapped_rewards_are_the_same_numbers_in_another_order():
    assert "2 of 3 answers" in rewards.swapped([0.0, 1.0, 0.5], [1.0, 0.0, 0.5]).evidence
    assert rewards.swapped([0.0, 1.0], [0.0, 1.0]) is None
    assert rewards.swapped([0.0, 0.5], [0.0, 1.0]) is None  # an environment's own rule: half for a second try
    assert rewards.swapped([-1.0, 0.0], [0.0, 0.0]) is None  # a penalty


def credited(*pairs):
    return [Group(TASK, [Trajectory(TASK, [PROMPT], reward=r, advantage=a) for r, a in pairs])]


def test_advantages_follow_rewards():
    assert credit(credited((0.0, -1.0), (1.0, 1.0), (1.0, 1.0), (None, None))) is None
    assert credit(credited((0.0, 0.0), (0.5, 0.0), (1.0, 0.7))) is None
    assert credit(credited((1.0, -0.5), (1.0, 0.5))) is None  # equal rewards may differ: a length in the advantage
    found = credit(credited((0.0, 1.0), (1.0, -1.0)))
    assert "reward 1 has the advantage -1, the lower reward 0 has 1" in found.evidence
    assert "not finite" in credit(credited((0.0, math.nan), (1.0, 1.0))).cause


# Bands.


@pytest.mark.parametrize(
    ("band", "before", "value", "told"),
    [
        (Band(low=0.1), [], 0.05, "is 0.05, under 0.1"),
        (Band(low=0.1), [], 0.1, None),
        (Band(high=2), [], 3.0, "is 3, over 2"),
        (Band(), [], math.nan, "is nan"),
        (Band(factor=10), [1.0] * 19, 99.0, None),
        (Band(factor=10), [1.0] * 20, 10.5, r"over 10 (the 20 before, times 10)"),
        (Band(factor=10), [1.0] * 20, 9.5, None),
        (Band(factor=10, floor=50), [1.0] * 20, 49.0, None),
        (Band(factor=10), [9.0] + [1.0] * 20, 80.0, "over 10"),  # the 9 is 21 steps old
    ],
)
def test_bands(band, before, value, told):
    found = bands.outside("grad_norm", band, before, value)
    assert (found is None) == (told is None)
    if told:
        assert told in found.evidence
        assert "update.spike" in found.look


# Memory.


def test_a_leak_grows_all_the_time():
    leak = [100 + 5.0 * step for step in range(50)]
    found = memory.growing("host", leak, 100)
    assert "host memory grew by 200 MiB over the last 50 steps" in found.evidence
    assert memory.growing("host", leak, 250) is None
    noise = random.Random(0)
    assert memory.growing("GPU", [value + noise.uniform(0, 60) for value in leak], 100) is not None


@pytest.mark.parametrize(
    "healthy",
    [
        [100.0] * 50,
        [100.0 + 900 * (step >= 25) for step in range(50)],  # a new stage with longer answers
        [100.0 + 500 * (step % 10 == 3) for step in range(50)],  # peaks
        [1000 * (1 - 0.8**step) for step in range(50)],  # warming up
        [1000.0 - step for step in range(50)],
        [1.0] * 3,
    ],
    ids=["flat", "jump", "peaks", "warming", "falling", "short"],
)
def test_what_is_no_leak(healthy):
    assert memory.growing("host", healthy, 50) is None


def test_memory_is_measured():
    before = memory.held()["host"]
    block = bytearray(64 * memory.MB)
    block[::4096] = b"x" * len(block[::4096])
    assert 50 < memory.held()["host"] - before < 120


def test_a_mapped_file_is_not_our_memory(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * memory.MB))
    before = memory.held()["host"]
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[::4096].count(b"\0") == 64 * memory.MB // 4096
        assert abs(memory.held()["host"] - before) < 10
