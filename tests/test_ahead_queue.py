"""The queue of what is sampled ahead, alone, under any course of a run; and groups as plain data."""

import copy
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Letters

import hone
from hone import checkpoint, records
from hone.ahead import Ahead
from hone.sections import UpdateConfig
from hone.types import Group, Segment, Task, Trajectory


class Weights:
    """What a policy is to the queue: a version, and which of its lives it belongs to."""

    def __init__(self, version=0):
        self.version = version

    def twin(self):
        return Weights(self.version)

    def follow(self, policy):
        self.version = policy.version
        return self


class Player:
    """A session and its collector: they play at once, and give weights only to a sampler that is at rest."""

    def __init__(self, policy):
        self.policy, self.collector, self.sampled = policy, self, 0
        self.held, self.busy, self.cancelled, self.seconds = (
            policy.version,
            False,
            False,
            {"sample": 0.0, "verify": 0.0},
        )

    def detach(self): ...
    def rest(self): ...

    def publish(self, policy=None):
        assert not self.busy
        self.held = (policy or self.policy).version

    def play(self, tasks, n, params, verifier=None, environment=None):
        self.busy, held = True, self.held
        time.sleep(1e-4)
        assert held == self.held
        self.busy = False
        segment = Segment("response", "policy", (params.seed % 97,), (-1.0,), train=True)
        return [Group(task, [Trajectory(task, [segment], 1.0, version=held)]) for task in tasks]


ENDS = ["update", "skip", "evaluate", "save", "resume", "refuse", "leave"]


@settings(max_examples=60, deadline=None)
@given(
    lag=st.integers(0, 3),
    kept=st.lists(st.booleans(), min_size=1, max_size=7),
    course=st.lists(st.sampled_from(ENDS), max_size=14),
)
def test_no_course_of_a_run_loses_a_task_or_exceeds_the_lag(lag, kept, course):
    """Steps that update, evaluate, are saved and resumed from, refused, or after which the weights are others."""
    source, policy, gates = Letters(kinds=10**6), Weights(), iter(kept * 10**4)
    stage = SimpleNamespace(
        tasks=source, prompts=2, siblings=1, max_rounds=2, seed=0, verifier=None, environment=None, objective=None,
        sampling=hone.SamplingParams(), update=UpdateConfig(), gate=lambda group: next(gates), max_staleness=lag,
    )  # fmt: skip
    stage.at = lambda step: stage
    state = SimpleNamespace(step=0, steps=len(course))
    ahead, trained, since = Ahead(stage, Player(policy), state), [], 0
    by = {}  # the version of the weights that each step began with
    for end in course:
        by[state.step] = policy.version
        coming = ahead.take()
        assert coming.step == state.step
        assert coming.behind <= min(lag, state.step)
        assert {t.version for group in coming.groups for t in group} <= {coming.version}
        assert coming.updates >= since
        assert coming.version == by[coming.updates]
        if end == "refuse":
            ahead.undo()
            coming = ahead.take()
            assert coming.behind == 0
        trained += [group.task.id for group in coming.groups]
        policy.version += end != "skip"
        ahead.trained()
        state.step += 1
        if end == "leave":
            policy.version, since = policy.version + 1, state.step
        if end == "evaluate":
            [group] = ahead.play([Task("asked", [])], 1, stage.sampling)
            assert group.trajectories[0].version == policy.version
        if end in ("save", "resume"):
            saved = copy.deepcopy(ahead.state_dict())
            checkpoint.refuse_unfit(saved)
            if end == "resume":
                ahead.close()
                source.load_state_dict({"cursor": 0})
                ahead = Ahead(stage, Player(policy), state)
                ahead.load_state_dict(saved)
    ahead.undo()
    assert [*trained, next(source).id] == [f"letter-{i}" for i in range(len(trained) + 1)]
    ahead.close()


def test_groups_are_the_same_again_of_the_same_tasks():
    """Segments that siblings share are shared again, and a task of a trajectory's own is beside it."""
    asked = [Task("a", [{"role": "user", "content": "?"}], answer=object()), Task("b", [])]
    prompt = Segment("prompt", "given", (1, 2), text="?")
    answers = [Segment("response", "policy", (i,), (-0.5,), "x", True, (), (0.1,)) for i in range(3)]
    harder = Task("harder", [{"role": "user", "content": "??"}], "7", {"from": "a"})
    groups = [
        Group(
            asked[0],
            [
                Trajectory(asked[0], [prompt, answers[0]], 1.0, {"part": 0.5}, "length", 3, verdict=1.0, answer="7"),
                Trajectory(harder, [prompt, answers[1]], None, error="KeyError"),
            ],
            aside=[Trajectory(asked[0], [prompt, answers[2]], 0.0)],
            metrics={"reflect/first_try": 0.5},
        ),
        Group(asked[1], [Trajectory(asked[1], [answers[0]], 0.0, agent="other")]),
    ]
    data = records.plain(groups, asked)
    checkpoint.refuse_unfit(data)
    again = records.restored(data, asked)
    assert again == groups
    assert again[0].task is asked[0]
    assert [group.generated for group in again] == [group.generated for group in groups] == [3, 1]
    assert again[0].trajectories[0].segments[0] is again[0].aside[0].segments[0]
    with pytest.raises(TypeError, match="tasks"):
        checkpoint.refuse_unfit({"tasks": records.plain([Group(asked[0], [])], [asked[1]])})
