import asyncio

import pytest
from pydantic import ValidationError

from hone.envs.single_turn import SingleTurn
from hone.seats import Environment, SamplingParams
from hone.types import Completion, Score, Segment, Task

TASK = Task("t/1", [{"role": "user", "content": "1+1?"}], answer="2")
PARAMS = SamplingParams(seed=7, temperature=0.5)


class FakeRenderer:
    stop_tokens = frozenset()

    def __init__(self):
        self.seen = []

    def prompt(self, messages):
        self.seen.append(messages)
        return Segment("prompt", "given", actions=(1, 2, 3), text="1+1?")

    def decode(self, actions):
        return str(actions)


class FakeSampler:
    """Answers at once with the number of calls before, part of it forced; ``waits`` holds calls back."""

    processors = ()

    def __init__(self, waits=(), fails=None):
        self.renderer, self.calls, self.finished = FakeRenderer(), [], []
        self.waits, self.fails = dict(waits), fails

    async def sample(self, context, params):
        number = len(self.calls)
        self.calls.append((context, params))
        if number in self.waits:
            await self.waits[number].wait()
        if number == self.fails:
            raise RuntimeError("out of memory")
        self.finished.append(number)
        policy = Segment("sampled", "policy", actions=(10 + number,), logprobs=(-0.5,), text=f"= {number}")
        forced = Segment("wait", "forced", actions=(99,), text=" Wait")
        return Completion((policy, forced), stop="length", version=4)

    def sync(self, policy): ...
    def close(self): ...


async def by_length(task, trajectory):
    return Score(float(trajectory.response.startswith("= 1")), parts={"length": len(trajectory.response)})


def play(environment, sampler=None, n=3, task=TASK, verify=by_length):
    sampler = sampler or FakeSampler()
    return asyncio.run(environment.play_group(task, n, sampler=sampler, verify=verify, params=PARAMS))


def test_it_is_an_environment():
    assert isinstance(SingleTurn(), Environment)


def test_siblings_are_judged_and_share_one_context_object():
    group = play(SingleTurn())
    assert (group.task, len(group)) == (TASK, 3)
    assert group.rewards == [0.0, 1.0, 0.0]
    first, *others = group.trajectories
    assert all(other.segments[0] is first.segments[0] for other in others)
    for number, trajectory in enumerate(group):
        assert trajectory.task is TASK
        assert trajectory.response == f"= {number} Wait"
        assert (trajectory.stop, trajectory.version) == ("length", 4)
        assert trajectory.scores == {"length": 8}


def test_only_what_the_policy_sampled_is_trained():
    for trajectory in play(SingleTurn()):
        assert [(s.name, s.source, s.train) for s in trajectory.segments] == [
            ("prompt", "given", False),
            ("response", "policy", True),
            ("response", "forced", False),
        ]
        assert trajectory.trained == trajectory.sampled == 1
        assert trajectory.generated == 2


def test_each_sibling_has_noise_of_its_own_keyed_by_task():
    sampler = FakeSampler()
    play(SingleTurn(), sampler)
    assert [params for _, params in sampler.calls] == [PARAMS.keyed("t/1", sibling, 0) for sibling in range(3)]
    assert len({params.seed for _, params in sampler.calls}) == 3
    assert all(context == [sampler.calls[0][0][0]] for context, _ in sampler.calls)
    assert len(sampler.renderer.seen) == 1


def test_judging_does_not_wait_for_slower_siblings():
    async def scenario():
        gate, judged = asyncio.Event(), []

        async def verify(task, trajectory):
            judged.append(trajectory.response)
            if len(judged) == 2:
                gate.set()  # The first sibling's sampling ends only after the two others were judged.
            return Score(1.0)

        sampler = FakeSampler(waits={0: gate})
        group = await SingleTurn().play_group(TASK, 3, sampler=sampler, verify=verify, params=PARAMS)
        return judged, [trajectory.response for trajectory in group]

    judged, responses = asyncio.run(asyncio.wait_for(scenario(), timeout=5))
    assert judged == ["= 1 Wait", "= 2 Wait", "= 0 Wait"]
    assert responses == ["= 0 Wait", "= 1 Wait", "= 2 Wait"]


def test_a_failure_cancels_the_siblings_and_propagates():
    sampler = FakeSampler(waits={0: asyncio.Event(), 2: asyncio.Event()}, fails=1)
    with pytest.raises(ExceptionGroup) as caught:
        play(SingleTurn(), sampler)
    assert [str(error) for error in caught.value.exceptions] == ["out of memory"]
    assert sampler.finished == []


def test_a_failed_judgement_is_recorded_and_not_a_reward_of_zero():
    async def verify(task, trajectory):
        return Score(None, error="TimeoutError: 5 s")

    [trajectory] = play(SingleTurn(), n=1, verify=verify)
    assert (trajectory.reward, trajectory.error) == (None, "TimeoutError: 5 s")


def test_messages_are_system_examples_and_suffixed_task():
    environment = SingleTurn(
        system="Be brief.", examples=[{"prompt": "0+1?", "response": "1"}], suffix="\nThink step by step."
    )
    sampler = FakeSampler()
    play(environment, sampler)
    assert sampler.renderer.seen == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "0+1?"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "1+1?\nThink step by step."},
        ]
    ]
    assert TASK.prompt == [{"role": "user", "content": "1+1?"}]


def test_a_task_keeps_its_own_system_message_and_earlier_turns():
    turns = [
        {"role": "system", "content": "Own."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    task = Task("t", turns)
    assert SingleTurn(system="Other.").messages(task) == turns
    shown = SingleTurn(system="Other.", examples=[{"prompt": "p", "response": "r"}]).messages(task)
    assert [message["content"] for message in shown] == ["Own.", "p", "r", "a", "b", "c"]


def test_a_suffix_is_a_part_of_its_own_beside_images():
    parts = [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What?"}]
    [message] = SingleTurn(suffix=" Briefly.").messages(Task("t", [{"role": "user", "content": parts}]))
    assert message["content"] == [*parts, {"type": "text", "text": " Briefly."}]
    assert len(parts) == 2


def test_a_variant_overrides_what_the_policy_reads():
    class Shouting(SingleTurn):
        def messages(self, task):
            return [{**m, "content": m["content"].upper()} for m in super().messages(task)]

    sampler = FakeSampler()
    play(Shouting(system="quiet"), sampler)
    assert [m["content"] for m in sampler.renderer.seen[0]] == ["QUIET", "1+1?"]


def test_wrong_settings_are_refused():
    with pytest.raises(ValidationError, match="answer"):
        SingleTurn(examples=[{"prompt": "p", "answer": "r"}])
    with pytest.raises(ValidationError, match="sistem"):
        SingleTurn(sistem="x")
