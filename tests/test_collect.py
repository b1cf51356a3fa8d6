"""Playing groups: order, noise, failures and interruption, without a model."""

import asyncio
import gc
import logging
import threading
import time

import loop_parts as parts
import psutil
import pytest

from hone.collect import Collector, Interrupted
from hone.envs.single_turn import SingleTurn
from hone.judging import VerificationError, refuse_without_verdict
from hone.seats import SamplingParams
from hone.types import Completion, Group, Segment, Task, Trajectory


class Parrot:
    """A sampler and its renderer: the seed is the answer."""

    stop_tokens = frozenset()
    processors = []

    def __init__(self, delay=0.0):
        self.renderer, self.delay = self, delay
        self.asked = 0

    def prompt(self, messages):
        return Segment("prompt", "given", (1, 2), text=messages[-1]["content"])

    async def sample(self, context, params):
        self.asked += 1
        await asyncio.sleep(self.delay)
        if context[0].text == "broken":
            raise LookupError("no such word")
        return Completion((Segment("response", "policy", (params.seed,), (-1.0,), f"said {params.seed}"),), "eos", 3)


def task(name, text="?"):
    return Task(name, [{"role": "user", "content": text}])


@pytest.fixture
def collector():
    made = []

    def make(verifier=parts.nothing, *, environment=None, sampler=None, **limits):
        made.append(Collector(environment or SingleTurn(), sampler or Parrot(), verifier, workers=1, **limits))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert not each._thread.is_alive()


def seeds(group):
    return [trajectory.segments[1].actions[0] for trajectory in group]


def test_groups_come_in_the_order_of_their_tasks(collector):
    class Slow(SingleTurn):
        async def play_group(self, task, n, **rest):
            await asyncio.sleep(0.2 if task.id == "first" else 0.0)
            return await super().play_group(task, n, **rest)

    groups = collector(environment=Slow()).play([task("first"), task("second")], 2, SamplingParams())
    assert [(group.task.id, len(group)) for group in groups] == [("first", 2), ("second", 2)]
    assert all(trajectory.reward == 0.0 and trajectory.version == 3 for group in groups for trajectory in group)


def test_noise_depends_on_seed_task_sibling_and_repetition(collector):
    play = collector().play
    params = SamplingParams(seed=5)
    one, other, again = map(seeds, play([task("a"), task("b"), task("a")], 2, params))
    assert len({*one, *other, *again}) == 6
    assert seeds(play([task("a")], 3, params)[0])[:2] == one
    assert seeds(play([task("b"), task("a")], 2, params)[1]) == one
    assert not {*one} & {*seeds(play([task("a")], 2, SamplingParams(seed=6))[0])}


def test_time_is_split_where_the_last_verdict_was_asked_for(collector):
    made = collector(lambda task, trajectory: time.sleep(0.5) or 1.0, sampler=Parrot(delay=0.3))
    made.play([task("warm")], 1, SamplingParams())
    began = time.monotonic()
    made.play([task("a")], 1, SamplingParams())
    whole = time.monotonic() - began
    assert made.seconds["sample"] >= 0.3
    assert made.seconds["verify"] >= 0.5
    assert sum(made.seconds.values()) == pytest.approx(whole, abs=0.1)


def test_a_failed_verdict_is_told_with_its_task_and_text(collector, caplog):
    class Long(Parrot):
        async def sample(self, context, params):
            text = "start " + "x" * 1000 + " the\nend"
            return Completion((Segment("response", "policy", (1,), (-1.0,), text),), "eos", 0)

    [group] = collector(parts.moody, sampler=Long()).play([task("letter-1")], 1, SamplingParams())
    assert group.trajectories[0].reward is None
    [record] = [record for record in caplog.records if record.name == "hone"]
    assert record.levelno == logging.WARNING
    told = record.getMessage()
    assert "'letter-1'" in told
    assert "KeyError" in told
    assert "the reference is lost" in told
    assert r"the\nend" in told
    assert "start" not in told
    assert len(told) < 800


def test_many_failures_of_a_kind_are_counted(collector, caplog):
    made = collector(parts.broken)
    groups = made.play([task("a"), task("b")], 5, SamplingParams())
    made.play([task("a")], 3, SamplingParams())
    told = [record.getMessage() for record in caplog.records if record.name == "hone"]
    assert [line.partition(":")[0][:20] for line in told] == ["no verdict on task '"] * 3 + [
        "no verdict on 7 more",
        *["no verdict on task '"] * 3,
    ]
    assert told[3] == "no verdict on 7 more answers either: LookupError"
    assert all(trajectory.error == "LookupError: no such word" for group in groups for trajectory in group)


def judged(*scores, aside=()):
    """A group of trajectories with these rewards or errors."""

    def trajectory(score):
        known = isinstance(score, float)
        return Trajectory(task("t"), [], reward=score if known else None, error=None if known else score)

    return Group(task("t"), [trajectory(score) for score in scores], aside=[trajectory(score) for score in aside])


@pytest.mark.parametrize(
    "groups",
    [
        [judged("A: x", "A: x", 0.0), judged("B: y")],  # a reward of 0 is a verdict
        [judged("A: x", aside=[1.0])],
        [judged(aside=[1.0])],
        [judged(None, None)],  # an environment that does not judge, and did not fail
        [judged()],
        [],
    ],
)
def test_any_verdict_or_no_failure_is_enough(groups):
    refuse_without_verdict(groups)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([judged("A: x", "B: y"), judged("B: y")], "no verdict on any of 3 answers; on 2 of them: B: y"),
        ([judged(None, aside=["A: x"])], "no verdict on any of 1 answers; on 1 of them: A: x"),
    ],
)
def test_groups_without_any_verdict_are_refused(groups, told):
    with pytest.raises(VerificationError, match=f"^{told}$"):
        refuse_without_verdict(groups)


def test_a_failed_verdict_stops_where_it_should(collector):
    sampler = Parrot()
    made = collector(parts.moody, sampler=sampler, on_error="stop")
    with pytest.raises(VerificationError, match=r"letter-1.*reference is lost"):
        made.play([task("letter-1"), task("other")], 2, SamplingParams())
    assert len(made.play([task("fine")], 1, SamplingParams())) == 1


def test_an_error_of_the_sampler_comes_out_as_it_is(collector):
    with pytest.raises(LookupError, match="no such word") as caught:
        collector().play([task("fine"), task("odd", "broken"), task("odd too", "broken")], 3, SamplingParams())
    assert caught.value.__suppress_context__


def test_an_evaluation_may_have_a_verifier_of_its_own(collector):
    made = collector()
    full = parts.Echo(value=1.0)
    echo = Group(task("x"), [Trajectory(task("x"), [])])

    class Fixed:
        async def play_group(self, task, n, *, verify, **rest):
            trajectory = Trajectory(task, [Segment("response", "policy", (1,), text=f"<{task.answer}>")])
            trajectory.judge(await verify(task, trajectory))
            return Group(task, [trajectory])

    made.environment = Fixed()
    rewards = [made.play([echo.task], 1, SamplingParams(), v)[0].rewards for v in (None, full, full, None)]
    assert rewards == [[0.0], [1.0], [1.0], [0.0]]
    assert len(made._pools) == 2


@pytest.mark.parametrize("where", ["sampling", "judging"])
def test_cancelling_ends_what_is_played(collector, where, caplog):
    made = collector(parts.slow, sampler=Parrot(delay=1e6 if where == "sampling" else 0.0), timeout=100.0)
    threading.Timer(1.0, made.cancel).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        made.play([task("a"), task("b")], 2, SamplingParams())
    made.close()
    assert time.monotonic() - began < 8
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_nothing_is_played_after_cancelling(collector):
    sampler = Parrot()
    made = collector(sampler=sampler)
    made.cancel()
    for _ in range(2):
        with pytest.raises(Interrupted):
            made.play([task("a")], 1, SamplingParams())


def test_closing_ends_what_another_thread_plays_and_leaves_no_process(collector):
    made = collector(sampler=Parrot(delay=1e6))
    ended = []

    def play():
        try:
            made.play([task("a")], 1, SamplingParams())
        except Interrupted:
            ended.append(True)

    thread = threading.Thread(target=play)
    thread.start()
    time.sleep(0.3)
    made.close()
    thread.join(5)
    assert ended == [True]
    assert not [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    made.close()


def test_it_plays_where_an_event_loop_runs(collector):
    async def cell():
        return collector().play([task("a")], 1, SamplingParams())

    assert len(asyncio.run(cell())) == 1
