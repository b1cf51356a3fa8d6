import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hone import collate
from hone.policies import layout
from hone.types import Branch, Group, Row, Segment, Task, Trajectory


def encode(rows):
    return layout.encode(rows, torch.device("cpu"))


def batches(groups, *, tokens, **how):
    rows = collate.rows(groups, tokens=tokens, **how)
    packs = how.get("packs", False)
    return [collate.batch(some, encode, temperature=1.0) for some in collate.micro_batches(rows, tokens, packs=packs)]


@st.composite
def segments(draw, first):
    """A segment of 0 to 4 steps; the first of a trajectory has a step, and is not trained."""
    train = False if first else draw(st.booleans())
    n = draw(st.integers(1 if first else 0, 4))
    actions = tuple(draw(st.lists(st.integers(0, 99), min_size=n, max_size=n)))
    logprobs = tuple(-float(draw(st.integers(0, 999))) for _ in actions) if train else ()
    reference = tuple(x - 0.5 for x in logprobs)
    return Segment("s", "policy" if train else "given", actions, logprobs, train=train, reference_logprobs=reference)


@st.composite
def group(draw, number):
    task = Task(f"task {number}", [])
    shared = draw(st.lists(segments(first=False).filter(lambda s: not s.train), max_size=2))
    shared = [draw(segments(first=True)), *shared] if draw(st.booleans()) else []
    trajectories = []
    for _ in range(draw(st.integers(1, 5))):
        own = [] if shared else [draw(segments(first=True))]
        own += draw(st.lists(segments(first=False), max_size=4))
        made = Trajectory(
            task,
            [*shared, *own],
            reward=draw(st.sampled_from([None, 0.0, 1.0])),
            advantage=float(draw(st.integers(-9, 9))),
        )
        if draw(st.integers(0, 4)) == 0:
            made.withdraw()
        trajectories.append(made)
    return Group(task, trajectories)


ways = st.fixed_dictionaries({"shares_context": st.booleans(), "packs": st.booleans()})
many_groups = st.integers(0, 4).flatmap(lambda n: st.tuples(*(group(i) for i in range(n)))).map(list)


def learnt(groups):
    """By index: the trajectories that an update must see."""
    every = [trajectory for g in groups for trajectory in g]
    return {i: t for i, t in enumerate(every) if t.trained and t.reward is not None}


def path(batch, row, step):
    """The tokens that lead to a step, walked back from it."""
    ids, previous = batch.inputs["input_ids"][row], batch.inputs["previous"][row]
    found = []
    while step >= 0:
        found.append(int(ids[step]))
        step = int(previous[step])
    return found[::-1]


@settings(max_examples=150, deadline=None)
@given(groups=many_groups, how=ways, tokens=st.sampled_from([1, 8, 20, 60, 1000]))
def test_every_trained_step_is_there_once_and_as_it_was(groups, how, tokens):
    fields = {"advantages": {}, "sampled_logprobs": {}, "reference_logprobs": {}, "group": {}, "ids": {}}
    for batch in batches(groups, **how, tokens=tokens):
        for name, found in fields.items():
            values = batch.inputs["input_ids"] if name == "ids" else getattr(batch, name)
            spread = collate.spread(values, batch)
            assert not spread.keys() & found.keys()
            found |= spread
        for name, outside in {"advantages": 0, "sampled_logprobs": 0, "trajectory": -1, "group": -1}.items():
            assert (getattr(batch, name)[~batch.mask] == outside).all()
        assert batch.old_logprobs is None
        # Each step stands behind its own trajectory's tokens, at its own position.
        for row, step in batch.mask.nonzero().tolist():
            trajectory = learnt(groups)[int(batch.trajectory[row, step])]
            tokens_before = path(batch, row, step)
            everything = [a for s in trajectory.segments for a in s.actions]
            assert tokens_before == everything[: len(tokens_before)]
            assert int(batch.inputs["position_ids"][row, step]) == len(tokens_before) - 1
    expected = learnt(groups)
    owners = [g for g, own in enumerate(groups) for _ in own]

    def steps(trajectory, read):
        return [value for s in trajectory.segments if s.train for value in getattr(s, read)]

    assert fields == {
        "advantages": {i: [t.advantage] * t.trained for i, t in expected.items()},
        "sampled_logprobs": {i: steps(t, "logprobs") for i, t in expected.items()},
        "reference_logprobs": {i: steps(t, "reference_logprobs") for i, t in expected.items()},
        "group": {i: [owners[i]] * t.trained for i, t in expected.items()},
        "ids": {i: steps(t, "actions") for i, t in expected.items()},
    }


@settings(max_examples=100, deadline=None)
@given(groups=many_groups, how=ways, tokens=st.sampled_from([1, 8, 20, 60, 1000]))
def test_the_budget_is_kept_and_nothing_follows_the_last_trained_step(groups, how, tokens):
    rows = collate.rows(groups, **how, tokens=tokens)
    for row in rows:
        leaves = [branch for branch in row.branches if branch.trajectory >= 0]
        assert len(leaves) == 1 or len(row) <= tokens
        assert how["packs"] or len({branch.group for branch in row.branches}) == 1
        assert how["packs"] or how["shares_context"] or len(row.branches) == 1
        assert all(leaf.segments[-1].train and len(leaf.segments[-1]) for leaf in leaves)
        parents = {branch.parent for branch in row.branches}
        for i, branch in enumerate(row.branches):
            assert branch.parent < i
            assert (branch.trajectory >= 0) == (i not in parents)  # what is shared ends nothing, and trains nothing
            assert branch.trajectory >= 0 or not any(segment.train for segment in branch.segments)
    micro = collate.micro_batches(rows, tokens, packs=how["packs"])
    assert Counter(map(id, rows)) == Counter(id(row) for some in micro for row in some)
    for some in micro:
        assert len(some) == 1 or len(some) * max(map(len, some)) <= tokens


@settings(max_examples=100, deadline=None)
@given(groups=many_groups)
def test_what_trajectories_begin_with_alike_is_there_once(groups):
    [*rows] = collate.rows(groups, shares_context=True, packs=True, tokens=10**6)
    assert len(rows) == bool(learnt(groups))
    beginnings = {
        (id(g), tuple(before)) for g in groups for t in learnt([g]).values() for before in untrained_beginnings(t)
    }
    behind = sum(len(t.segments) - len(untrained_beginnings(t)) for t in map(cut, learnt(groups).values()))
    assert sum(len(b.segments) for row in rows for b in row.branches) == len(beginnings) + behind


def cut(trajectory):
    return Trajectory(trajectory.task, collate._until_last_trained(trajectory.segments))


def untrained_beginnings(trajectory):
    """Every run of segments from the first on that ends before the first trained one."""
    segments = cut(trajectory).segments
    first = next(i for i, s in enumerate(segments) if s.train)
    return [segments[: i + 1] for i in range(first)]


@settings(max_examples=50, deadline=None)
@given(groups=many_groups, seed=st.integers(0, 99))
def test_the_order_of_groups_and_siblings_changes_nothing(groups, seed):
    def seen(groups, tokens):
        every = [t for g in groups for t in g]
        found = Counter()
        for batch in batches(groups, shares_context=True, tokens=tokens):
            ids = collate.spread(batch.inputs["input_ids"], batch)
            for i, advantages in collate.spread(batch.advantages, batch).items():
                found[every[i].task.id, tuple(ids[i]), tuple(advantages)] += 1
        return found

    draw = random.Random(seed)
    shuffled = [Group(g.task, draw.sample(g.trajectories, len(g))) for g in draw.sample(groups, len(groups))]
    assert seen(groups, 30) == seen(shuffled, 1000)


def given_(*actions):
    return Segment("given", "given", actions)


def trained(*actions, **fields):
    fields = {"logprobs": (-1.0,) * len(actions), "train": True} | fields
    return Segment("reply", "policy", actions, **fields)


def one(*segments, reward=1.0, advantage=1.0):
    task = Task("t", [])
    return [Group(task, [Trajectory(task, list(segments), reward=reward, advantage=advantage)])]


def test_rows_by_hand():
    task, prompt = Task("t", []), given_(1, 2)
    siblings = [
        Trajectory(task, [prompt, trained(3, 4)], reward=1.0, advantage=0.5),
        Trajectory(task, [prompt, trained(5), given_(6), trained(7), given_(8, 9)], reward=0.0, advantage=-0.5),
        Trajectory(task, [prompt, trained(10)], reward=None, error="no verdict"),
    ]
    (row,) = collate.rows([Group(task, siblings)], shares_context=True, tokens=100)
    first, second = [trained(3, 4)], [trained(5), given_(6), trained(7)]
    assert row == Row([Branch([prompt]), Branch(first, 0, 0, 0, 0.5), Branch(second, 0, 1, 0, -0.5)])
    assert len(row) == 7
    apart = collate.rows([Group(task, siblings)], shares_context=False, tokens=100)
    assert apart == [
        Row([Branch([prompt, *first], -1, 0, 0, 0.5)]),
        Row([Branch([prompt, *second], -1, 1, 0, -0.5)]),
    ]
    batch = collate.batch([row], encode, temperature=0.7)
    assert batch.temperature == 0.7
    assert batch.mask.tolist() == [[False, False, True, True, True, False, True]]
    assert batch.trajectory.tolist() == [[-1, -1, 0, 0, 1, -1, 1]]
    assert batch.reference_logprobs is None


def test_a_row_holds_no_more_siblings_than_the_budget():
    task, prompt = Task("t", []), given_(*range(50))
    siblings = [Trajectory(task, [prompt, trained(*range(10))], reward=1.0, advantage=1.0) for _ in range(8)]
    for tokens, fit in [(1, 1), (69, 1), (70, 2), (90, 4), (129, 4), (130, 8)]:
        rows = collate.rows([Group(task, siblings)], shares_context=True, tokens=tokens)
        assert max(sum(branch.trajectory >= 0 for branch in row.branches) for row in rows) == fit


def test_what_is_computed_again_by_hand(tiny_policy):
    """A prompt of 50 and eight answers of 10 are 130 steps; one answer alone is 60 with it, two are 70, four 90."""
    task, prompt = Task("t", []), given_(*range(50))
    group = Group(task, [Trajectory(task, [prompt, trained(*range(10))], 1.0, advantage=1.0) for _ in range(8)])
    policy = tiny_policy()
    for tokens, laid in [(130, 130), (129, 2 * 90), (70, 4 * 70), (69, 8 * 60), (1, 8 * 60)]:
        assert collate.repeated([group], policy, tokens) == (laid / 130, 130)
    assert collate.repeated([], policy, 10)[1] == 0
    policy.share_context = False
    assert collate.repeated([group], policy, 1) == (1, 60)


def test_turns_that_agree_are_shared_as_far_as_they_do():
    task, prompt, turn, other = Task("t", []), given_(1, 2), given_(3), given_(4, 4)
    told = [[turn, trained(5)], [other, trained(6)], [turn, given_(7), trained(8)], [trained(9)]]
    siblings = [Trajectory(task, [prompt, *more], reward=1.0, advantage=float(i)) for i, more in enumerate(told)]
    (row,) = collate.rows([Group(task, siblings)], shares_context=True, packs=True, tokens=100)
    assert row.branches == [
        Branch([prompt]),
        Branch([turn], 0),
        Branch([trained(5)], 1, 0, 0, 0.0),
        Branch([given_(7), trained(8)], 1, 2, 0, 2.0),
        Branch([other, trained(6)], 0, 1, 0, 1.0),
        Branch([trained(9)], 0, 3, 0, 3.0),
    ]
    inputs = encode([row])
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 5, 7, 8, 4, 4, 6, 9]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 3, 4, 2, 3, 4, 2]]
    assert inputs["previous"].tolist() == [[-1, 0, 1, 2, 2, 4, 1, 6, 7, 1]]
    assert inputs["end"].tolist() == [[10, 10, 6, 4, 6, 6, 9, 9, 9, 10]]


def test_groups_are_packed_into_as_few_rows_as_it_takes():
    groups = [g for n in (1, 9, 2, 8, 3, 7) for g in one(given_(0), trained(*range(n)))]
    rows = collate.rows(groups, shares_context=True, packs=True, tokens=12)
    assert [[len(branch) for branch in row.branches] for row in rows] == [[10, 2], [9, 3], [8, 4]]
    assert collate.micro_batches(rows, 12, packs=True) == [[row] for row in rows]


def test_long_siblings_get_rows_of_their_own():
    task, prompt = Task("t", []), given_(1, 2)
    siblings = [Trajectory(task, [prompt, trained(*[1] * 3000)], reward=1.0, advantage=1.0) for _ in range(4)]
    rows = collate.rows([Group(task, siblings)], shares_context=True, tokens=10**6)
    assert [len(row.branches) for row in rows] == [1, 1, 1, 1]


@pytest.mark.parametrize("before", [[], [given_()], [given_(), trained()]])
def test_the_first_step_cannot_be_trained(before):
    with pytest.raises(ValueError, match="task 't': the first step of a trajectory cannot be trained"):
        collate.rows(one(*before, trained(1, 2)), shares_context=True, tokens=100)
    made = collate.rows(one(*before, given_(5), trained(1, 2)), shares_context=True, tokens=100)
    assert len(made) == 1


def test_without_a_trained_or_judged_trajectory_there_is_nothing():
    assert collate.rows([], shares_context=True, tokens=9) == []
    assert collate.rows(one(given_(1), trained(2), reward=None), shares_context=True, tokens=9) == []
    assert collate.rows(one(given_(1), given_(2)), shares_context=True, tokens=9) == []
    assert collate.rows(one(given_(1), trained()), shares_context=True, tokens=9) == []
    assert collate.micro_batches([], 9) == []


def test_empty_segments_leave_no_trace():
    (row,) = collate.rows(one(given_(1), trained(2), given_(3, 4), trained()), shares_context=True, tokens=9)
    assert row.branches == [Branch([given_(1), trained(2)], -1, 0, 0, 1.0)]


def test_a_withdrawn_sibling_is_no_context_of_the_others():
    task, prompt, reply = Task("t", []), given_(1, 2), trained(3, 4)
    siblings = [Trajectory(task, [prompt, reply], reward=r, advantage=1.0) for r in (1.0, 1.0)]
    siblings[0].withdraw()
    (row,) = collate.rows([Group(task, siblings)], shares_context=True, tokens=9)
    assert row.branches == [Branch([prompt, reply], -1, 1, 0, 1.0)]


def test_steps_without_log_probabilities_are_not_taken_for_certain():
    rows = collate.rows(one(given_(1), trained(2, 3, logprobs=())), shares_context=True, tokens=9)
    batch = collate.batch(rows, encode, temperature=1.0)
    assert batch.sampled_logprobs.isnan().tolist() == [[False, True, True]]


@pytest.mark.parametrize("held", [(-1.0,), (-1.0, -2.0, -3.0)])
@pytest.mark.parametrize("name", ["logprobs", "reference_logprobs"])
def test_log_probabilities_that_do_not_fit_are_refused(held, name):
    rows = collate.rows(one(given_(1), replace(trained(2, 3), **{name: held})), shares_context=True, tokens=9)
    with pytest.raises(ValueError, match=f"'reply' has 2 steps but {len(held)} log-probabilities"):
        collate.batch(rows, encode, temperature=1.0)


def test_micro_batches_hold_rows_of_similar_length():
    rows = collate.rows(
        [g for n in (1, 9, 2, 8, 3, 7) for g in one(given_(0), trained(*range(n)))], shares_context=True, tokens=99
    )
    assert [[len(row) for row in some] for some in collate.micro_batches(rows, 20)] == [[10, 9], [8, 4], [3, 2]]


# Shares of several processes.


@pytest.mark.parametrize("hands", [2, 3, 4])
@pytest.mark.parametrize("tokens", [1, 30, 4096])
def test_shares_make_up_the_whole(hands, tokens, make_group, tiny_policy):
    """Every step is in one share, by the ids of the whole, and all shares have as many micro-batches."""
    policy = tiny_policy()
    groups = [make_group(9, (3, 12, 1), seed=1), make_group(3, (7,), seed=2), make_group(14, (5, 5), seed=3)]
    groups[1].trajectories[0].withdraw()
    how = {"tokens": tokens, "temperature": 1.0}
    shares = [collate.share(groups, policy, **how, hand=hand, hands=hands) for hand in range(hands)]
    assert len({len(share) for share in shares}) == 1
    found = sorted(pair for share in shares for batch in share for pair in steps_of(batch))
    assert found == sorted(pair for batch in collate.batches(groups, policy, **how) for pair in steps_of(batch))
    assert len(found) == 26
    loads = [sum(batch.inputs["input_ids"].numel() for batch in share) for share in shares]
    assert max(loads) <= sum(loads) / hands + 26  # the longest tree


def test_of_nothing_there_are_no_shares(make_group, tiny_policy):
    group = make_group()
    for trajectory in group:
        trajectory.withdraw()
    assert collate.share([group], tiny_policy(), tokens=9, temperature=1.0, hand=1, hands=2) == []


def test_who_has_nothing_has_idle_steps_with_all_that_is_read(make_group, tiny_policy):
    group = make_group(3, (7,))
    [t] = group.trajectories
    t.segments[1] = replace(t.segments[1], reference_logprobs=(-1.0,) * 7)
    [idle] = collate.share([group], tiny_policy(), tokens=99, temperature=0.7, hand=2, hands=3)
    assert idle.mask.shape == (1, 2)
    assert not idle.mask.any()
    assert idle.temperature == 0.7
    assert idle.reference_logprobs is not None
    assert idle.trajectory.tolist() == idle.group.tolist() == [[-1, -1]]


def steps_of(batch):
    """Trajectory, group and action of each trained step."""
    values = (batch.trajectory, batch.group, batch.inputs["input_ids"])
    return list(zip(*(value[batch.mask].tolist() for value in values), strict=True))
