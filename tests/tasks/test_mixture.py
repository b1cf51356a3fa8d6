import json
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hone.seats import TaskSource
from hone.tasks.mixture import Mixture, choose
from hone.types import Task


class Numbers:
    """A source that counts, up to an end or without one."""

    def __init__(self, end=None):
        self.end, self.count = end, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.count == self.end:
            raise StopIteration
        self.count += 1
        return Task(f"t/{self.count}", [{"role": "user", "content": "?"}], answer=self.count, meta={"own": 1})

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def mixture(ends, weights=None, seed=0):
    return Mixture(sources={name: Numbers(end) for name, end in ends.items()}, weights=weights, seed=seed)


def drawn(source, n=None):
    return [task.meta["source"] for task in islice(source, n)]


def test_tasks_carry_their_source():
    source = mixture({"a": None, "b": None})
    assert isinstance(source, TaskSource)
    tasks = list(islice(source, 20))
    assert len({task.id for task in tasks}) == 20
    for task in tasks:
        name = task.meta["source"]
        assert task.id == f"{name}/t/{task.answer}"
        assert task.meta == {"own": 1, "source": name}


def test_every_source_is_read_in_its_own_order():
    tasks = list(islice(mixture({"a": None, "b": None}), 50))
    for name in "ab":
        answers = [task.answer for task in tasks if task.meta["source"] == name]
        assert answers == list(range(1, len(answers) + 1))


def test_draws_follow_the_weights():
    counts = Counter(drawn(mixture({"a": None, "b": None, "c": None}, {"a": 1, "b": 3, "c": 6}), 4000))
    assert counts["a"] == pytest.approx(400, abs=70)  # more than 3 standard deviations
    assert counts["b"] == pytest.approx(1200, abs=90)
    counts = Counter(drawn(mixture({"a": None, "b": None}), 4000))
    assert counts["a"] == pytest.approx(2000, abs=100)


def test_draws_depend_on_the_seed_alone():
    ends, weights = {"a": None, "b": None}, {"a": 1, "b": 2}
    first = drawn(mixture(ends, weights), 60)
    assert drawn(mixture(ends, dict(reversed(weights.items()))), 60) == first
    assert drawn(mixture(ends, weights, seed=1), 60) != first


def test_a_source_that_ends_drops_out_and_the_others_keep_their_ratio():
    names = drawn(mixture({"short": 5, "a": None, "b": None}, {"short": 8, "a": 1, "b": 3}), 3005)
    assert names.count("short") == 5
    tail = Counter(names[max(i for i, name in enumerate(names) if name == "short") + 1 :])
    assert tail["b"] / tail["a"] == pytest.approx(3, rel=0.2)


def test_a_finite_mixture_gives_every_task_once_and_ends():
    source = mixture({"a": 3, "b": 10, "empty": 0})
    assert Counter(drawn(source)) == {"a": 3, "b": 10}
    assert list(source) == []


@given(taken=st.integers(0, 30), end=st.integers(0, 12), seed=st.integers(0, 3))
def test_resume_is_exact(taken, end, seed):
    def make():
        return mixture({"short": end, "long": 25, "other": 9}, {"short": 5, "long": 2, "other": 1}, seed)

    source, resumed = make(), make()
    list(islice(source, taken))
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert list(resumed) == list(source)


def test_a_mixture_is_a_source_of_mixtures():
    source = Mixture(sources={"inner": mixture({"a": 2, "b": 2}), "plain": Numbers(3)})
    tasks = list(source)
    assert len({task.id for task in tasks}) == 7
    assert Counter(task.meta["source"] for task in tasks) == {"inner": 4, "plain": 3}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "b": 1, "gsm8": 1}, "no source 'gsm8'"),
        ({"a": 1}, "source 'b' has none"),
        ({"a": 1, "b": 0}, "greater than 0"),
        ({"a": 1, "b": float("inf")}, "finite"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValidationError, match=message):
        mixture({"a": 1, "b": 1}, weights)


def test_wrong_sources_are_refused():
    with pytest.raises(ValidationError, match="TaskSource"):
        Mixture(sources={"a": [1, 2]})
    with pytest.raises(ValidationError, match="sources"):
        Mixture(sources={})


def test_the_state_of_other_sources_is_refused():
    with pytest.raises(ValueError, match=r"\['a', 'b'\], not of \['a'\]"):
        mixture({"a": 1}).load_state_dict(mixture({"a": 1, "b": 1}).state_dict())


def test_choose_reaches_every_name_with_extreme_weights():
    assert {choose({"a": 1e-12, "b": 1.0}, i) for i in range(100)} == {"b"}
    assert {choose({"only": 1e-300}, i) for i in range(10)} == {"only"}
