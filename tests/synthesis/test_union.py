import json
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthesis_parts import Tasks, task

from hone.synthesis.provenance import digest_of_task
from hone.synthesis.union import Union


def questions(count):
    return [task(f"question {i}", answer=str(i)) for i in range(count)]


def rewrites(per_task):
    """``per_task(task) -> [question, ...]`` as a union asks for it."""

    def made(tasks):
        return [
            {"seed": digest_of_task(t), "name": f"{t.id}/synth-{i}", "question": text}
            for t in tasks
            for i, text in enumerate(per_task(t))
        ]

    return made


def twice_the_even(t):
    return [f"{t.answer} a", f"{t.answer} b"] if int(t.answer) % 2 == 0 else []


def union(tasks, per_task=twice_the_even, size=4, seed=0, replace=False):
    return Union(Tasks(tasks), size, seed, rewrites(per_task), replace=replace)


def drain(source, count=None):
    def endless():
        while True:
            try:
                yield source.take()
            except StopIteration:
                return

    return list(islice(endless(), count))


def test_without_rewrites_it_is_the_source():
    tasks = questions(11)
    assert drain(union(tasks, lambda t: [])) == tasks


def test_every_task_and_every_rewrite_comes_once_and_the_tasks_in_order():
    tasks = questions(11)
    taken = drain(union(tasks))
    assert [t for t in taken if "/synth-" not in t.id] == tasks
    made = [t for t in taken if "/synth-" in t.id]
    assert Counter(t.id for t in made) == {f"task/question {i}/synth-{j}": 1 for i in range(0, 11, 2) for j in (0, 1)}
    assert all(t.prompt[0]["content"] in (f"{t.answer} a", f"{t.answer} b") for t in made)
    for start in range(0, 11, 4):  # of a block of 4 tasks, the rewrites come in the block
        block = {str(i) for i in range(start, min(start + 4, 11))}
        places = [i for i, t in enumerate(taken) if t.answer in block]
        assert places == list(range(places[0], places[0] + len(places)))


def test_rewrites_are_anywhere_in_their_block_as_the_seed_says():
    orders = {tuple(t.id for t in drain(union(questions(4), seed=seed))) for seed in range(20)}
    assert len(orders) > 10
    first = [order[0] for order in orders]
    assert any("/synth-" in name for name in first)
    assert any("/synth-" not in name for name in first)
    assert drain(union(questions(20), seed=3)) == drain(union(questions(20), seed=3))


def test_replacing_leaves_out_the_seeds_that_have_rewrites():
    taken = drain(union(questions(11), replace=True))
    assert sorted({t.id for t in taken if "/synth-" not in t.id}) == [f"task/question {i}" for i in (1, 3, 5, 7, 9)]
    assert len(taken) == 5 + 12


@given(taken=st.integers(0, 30), size=st.integers(1, 7), count=st.integers(0, 12), seed=st.integers(0, 3))
def test_resume_is_exact(taken, size, count, seed):
    tasks = questions(count)
    source = union(tasks, size=size, seed=seed)
    drain(source, taken)
    state = json.loads(json.dumps(source.state()))
    resumed = union(tasks, size=size, seed=seed)
    resumed.restore(state)
    assert resumed.state() == source.state()
    assert drain(resumed) == drain(source)


def test_what_was_handed_out_is_not_synthesised_again_on_resume():
    """The policy that made a block's rewrites is gone; the state holds them."""
    source = union(questions(8))
    first = drain(source, 3)
    state = source.state()
    rest = drain(source)
    asked = []

    def other(tasks):
        asked.append([t.answer for t in tasks])
        return rewrites(twice_the_even)(tasks)

    resumed = Union(Tasks(questions(8)), 4, 0, other, replace=False)
    resumed.restore(state)
    assert drain(resumed) == rest
    assert asked == [["4", "5", "6", "7"]]
    assert len(first) + len(rest) == 8 + 8


def test_when_making_rewrites_fails_nothing_was_read():
    calls = []

    def fails_once(tasks):
        calls.append(len(tasks))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return []

    source = Union(Tasks(questions(8)), 4, 0, fails_once, replace=False)
    assert len(drain(source, 4)) == 4
    state = source.state()
    with pytest.raises(KeyboardInterrupt):
        source.take()
    assert source.state() == state
    assert [t.answer for t in drain(source)] == ["4", "5", "6", "7"]


def test_a_source_that_gives_other_tasks_is_refused():
    source = union(questions(4))
    drain(source, 2)
    other = union([task(f"else {i}", answer=str(i)) for i in range(4)])
    other.restore(source.state())
    with pytest.raises(ValueError, match="no longer gives the task"):
        other.take()


def test_a_union_is_no_source_itself_so_that_sessions_do_not_keep_its_state_twice():
    from hone.seats import TaskSource

    assert not isinstance(union([]), TaskSource)
