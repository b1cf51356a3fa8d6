import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hone import collate
from hone.policies import layout
from hone.types import Group, Segment, Task, Trajectory


def encode(rows):
    return layout.encode(rows, torch.device("cpu"))


def batches(groups, *, shares_context, tokens):
    rows = collate.rows(groups, shares_context=shares_context, tokens=tokens)
    return [collate.batch(some, encode, temperature=1.0) for some in collate.micro_batches(rows, tokens)]


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
@given(groups=many_groups, shares_context=st.booleans(), tokens=st.sampled_from([1, 8, 20, 60, 1000]))
def test_every_trained_step_is_there_once_and_as_it_was(groups, shares_context, tokens):
    fields = {"advantages": {}, "sampled_logprobs": {}, "reference_logprobs": {}, "group": {}, "ids": {}}
    for batch in batches(groups, shares_context=shares_context, tokens=tokens):
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
@given(groups=many_groups, shares_context=st.booleans(), tokens=st.sampled_from([1, 8, 20, 60, 1000]))
def test_the_budget_is_kept_and_nothing_follows_the_last_trained_step(groups, shares_context, tokens):
    rows = collate.rows(groups, shares_context=shares_context, tokens=tokens)
    for row in rows:
        assert len(row.branches) == 1 or (shares_context and len(row) <= tokens)
        assert len(row.branches) == len(row.trajectories) == len(row.advantages)
        assert all(branch[-1].train and len(branch[-1]) for branch in row.branches)
    micro = collate.micro_batches(rows, tokens)
    assert Counter(map(id, rows)) == Counter(id(row) for some in micro for row in some)
    for some in micro:
        assert len(some) == 1 or len(some) * max(map(len, some)) <= tokens


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
    assert row.context == [prompt]
    assert row.branches == [[trained(3, 4)], [trained(5), given_(6), trained(7)]]
    assert (row.trajectories, row.group, row.advantages, len(row)) == ([0, 1], 0, [0.5, -0.5], 7)
    apart = collate.rows([Group(task, siblings)], shares_context=False, tokens=100)
    assert [(r.context, r.branches, r.trajectories) for r in apart] == [
        ([prompt], [row.branches[0]], [0]),
        ([prompt], [row.branches[1]], [1]),
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
        assert max(len(row.branches) for row in rows) == fit


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
    assert row.branches == [[trained(2)]]


def test_a_withdrawn_sibling_is_no_context_of_the_others():
    task, prompt, reply = Task("t", []), given_(1, 2), trained(3, 4)
    siblings = [Trajectory(task, [prompt, reply], reward=r, advantage=1.0) for r in (1.0, 1.0)]
    siblings[0].withdraw()
    (row,) = collate.rows([Group(task, siblings)], shares_context=True, tokens=9)
    assert (row.context, row.branches, row.trajectories) == ([prompt], [[reply]], [1])


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
