"""Reflect, Retry, Reward: who says what, what it is worth, and which tokens learn from it."""

import asyncio
import json
from copy import copy
from dataclasses import replace
from itertools import product

import loop_parts as parts
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import hone
from hone import collate
from hone.learner import Learner
from hone.math.advantages import centred, raw, zscore
from hone.math.divergence import kl_penalty
from hone.math.gates import informative
from hone.objectives.policy_gradient import PolicyGradient
from hone.papers.reflect_retry import BLIND, REFLECT, RETRY, ReflectRetry
from hone.papers.reflect_retry_play import states
from hone.parts import Bound
from hone.policies import scores
from hone.policies.chat import ChatRenderer
from hone.policies.head import log_prob_and_entropy
from hone.samplers.native import NativeSampler
from hone.seats import Environment, Sampler, SamplingParams
from hone.sections import OptimizerConfig, UpdateConfig
from hone.types import Completion, Group, Score, Scores, Segment, Task

END = 256
TASK = Task("t/1", [{"role": "user", "content": "2+2?"}], answer="four")
PARAMS = SamplingParams(seed=7, max_tokens=32)
OPTIONS = [
    {},
    {"retries": 3, "blind": 2},
    {"rounds": 3, "discount": 0.5},
    {"leak": "penalise"},
    {"leak": "block"},
    {"leak": "ignore", "truncated_retry": "judge", "system": "Be brief.", "suffix": "!"},
]


class Scripted:
    """A sampler that says what a function has it say, in the tokens of a real chat."""

    processors = ()

    def __init__(self, tokenizer, says):
        self.renderer, self.says, self.calls = ChatRenderer(tokenizer), says, []

    async def sample(self, context, params):
        await asyncio.sleep(0)
        self.calls.append((list(context), params))
        said = self.says(kind(context), "".join(segment.text for segment in context))
        text, stop = said if isinstance(said, tuple) else (said, "eos")
        actions = self.renderer.reply(text).actions + ((END,) if stop == "eos" else ())
        return Completion((Segment("said", "policy", actions, (-0.5,) * len(actions), text, train=True),), stop, 3)

    def sync(self, policy): ...
    def close(self): ...

    def of(self, wanted):
        return [(context, params) for context, params in self.calls if kind(context) == wanted]


def kind(context):
    """What is asked for behind a context."""
    last = context[-1].name.split()[0]
    if last == "again" and context[-2].name == "attempt":
        return "blind"
    return {"prompt": "attempt", "ask": "reflection", "again": "retry"}[last]


def script(**lines):
    """Says by the kind of the call a text, the next of a list, or what a function makes of all that was read."""
    lines = {"attempt": "five", "reflection": "I miscounted", "retry": "six", "blind": "seven"} | lines
    rest = {name: iter(line) for name, line in lines.items() if isinstance(line, list)}

    def says(name, read):
        return next(rest[name]) if name in rest else line(read) if callable(line := lines[name]) else line

    return says


async def exact(task, trajectory):
    return Score(float(trajectory.response == task.answer), {"seen": 1.0})


@pytest.fixture
def play(tiny_tokenizer):
    """``play(n=3, verify=exact, task=TASK, lines={}, **settings) -> (group, sampler, judged)``"""

    def play(n=3, verify=exact, task=TASK, lines=None, params=PARAMS, **settings):
        sampler, judged = Scripted(tiny_tokenizer, script(**(lines or {}))), []

        async def judge(task, trajectory):
            judged.append(trajectory.response)
            return await verify(task, trajectory)

        environment = ReflectRetry(**settings)
        group = asyncio.run(environment.play_group(task, n, sampler=sampler, verify=judge, params=params))
        return group, sampler, judged

    return play


def names(trajectory):
    return [segment.name for segment in trajectory.segments]


def tokens(segments):
    return tuple(action for segment in segments for action in segment.actions)


def learns(trajectory):
    return tokens(segment for segment in trajectory.segments if segment.train)


def test_it_is_an_environment_and_the_script_a_sampler(tiny_tokenizer):
    assert isinstance(ReflectRetry(), Environment)
    assert isinstance(ReflectRetry().first_attempts, Environment)
    assert isinstance(Scripted(tiny_tokenizer, script()), Sampler)


class TestFirstAttempt:
    def test_one_that_passes_costs_one_reply_and_one_verdict_and_trains_nothing(self, play, tiny_policy):
        group, sampler, judged = play(lines={"attempt": "four"}, blind=2, retries=3, rounds=1)
        assert (len(sampler.calls), judged) == (1, ["four"])
        assert (len(group), group.rewards, group.aside) == (1, [1.0], [])
        assert names(group.trajectories[0]) == ["prompt", "attempt"]
        assert group.metrics == {"reflect/first_try": 1.0, "reflect/second_try": 1.0}
        assert not informative(group)
        raw([group])
        assert collate.rows([group], shares_context=True, tokens=100) == []
        policy = tiny_policy()
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        metrics = learner(policy).update([group], 0)
        assert "loss" not in metrics
        assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())

    def test_what_passes_is_a_setting(self, play):
        async def half(task, trajectory):
            return Score(0.5)

        assert len(play(verify=half)[0]) == 3
        assert play(verify=half, success=0.5)[0].rewards == [0.5]

    def test_without_a_verdict_nothing_more_is_played(self, play):
        async def broken(task, trajectory):
            return Score(None, error="TimeoutError: 5 s")

        group, sampler, judged = play(verify=broken)
        [trajectory] = group.trajectories
        assert (trajectory.reward, trajectory.error) == (None, "TimeoutError: 5 s")
        assert (len(sampler.calls), len(judged), group.metrics) == (1, 1, {})

    def test_a_failed_one_is_shared_by_all_siblings_as_one_object(self, play):
        group, sampler, _ = play(n=4)
        first = group.trajectories[0]
        assert names(first) == ["prompt", "attempt", "ask", "reflection", "again", "retry"]
        assert [s.source for s in first.segments] == ["given", "policy", "given", "policy", "given", "policy"]
        for trajectory in group:
            assert all(ours is theirs for ours, theirs in zip(trajectory.segments[:3], first.segments[:3], strict=True))
            assert [s.train for s in trajectory.segments] == [False, False, False, True, False, False]
            assert (trajectory.version, trajectory.stop) == (3, "eos")
        assert len(sampler.of("attempt")) == 1
        assert all(context == first.segments[:3] for context, _ in sampler.of("reflection"))
        assert group.generated == len("five") + 1 + 4 * (len("I miscounted") + 1 + len("six") + 1)
        assert group.metrics["reflect/first_try"] == 0.0

    def test_one_that_comes_with_the_task_takes_its_place_unjudged(self, play):
        task = replace(TASK, meta={"attempt": {"text": "fünf", "stop": "length"}})
        group, sampler, judged = play(n=2, task=task, lines={"retry": ["six", "four"]}, leak="ignore")
        assert (sampler.of("attempt"), judged) == ([], ["six", "four"])
        first, second = group.trajectories
        assert first.segments[1] is second.segments[1]
        attempt = first.segments[1]
        assert (attempt.name, attempt.source, attempt.train, attempt.text) == ("attempt", "given", False, "fünf")
        assert first.segments[2].actions[0] == END  # its end is not in its text
        assert group.metrics["reflect/retry"] == 0.5
        assert not {"reflect/first_try", "reflect/second_try"} & group.metrics.keys()
        alone = asyncio.run(
            ReflectRetry().first_attempts.play_group(task, 2, sampler=sampler, verify=exact, params=PARAMS)
        )
        assert [t.response for t in alone] == ["five", "five"]  # who asks for attempts gets fresh ones

    def test_alone_they_are_asked_for_in_the_same_way(self, play, tiny_tokenizer):
        settings = {"system": "Be brief.", "examples": [{"prompt": "1+1?", "response": "two"}], "suffix": " Now."}
        environment = ReflectRetry(**settings, attempt={"temperature": 0.5})
        sampler = Scripted(tiny_tokenizer, script(attempt=["five", "four", "six"]))
        alone = environment.first_attempts
        group = asyncio.run(alone.play_group(TASK, 3, sampler=sampler, verify=exact, params=PARAMS))
        assert group.rewards == [0.0, 1.0, 0.0]
        assert not any(learns(trajectory) for trajectory in group)
        assert alone.sampling.temperature == 0.5
        assert {params.temperature for _, params in sampler.calls} == {0.5}
        assert len({params.seed for _, params in sampler.calls}) == 3
        _, whole, _ = play(**settings)
        assert sampler.calls[0][0] == whole.calls[0][0]
        assert whole.calls[0][0][0].text.startswith("<|system|>Be brief.<|end|><|user|>1+1?<|end|><|assistant|>two")


class TestTurns:
    @examples(max_examples=60, deadline=None)
    @given(
        texts=st.lists(st.text(max_size=12), min_size=3, max_size=3),
        ended=st.lists(st.booleans(), min_size=3, max_size=3),
    )
    def test_all_is_in_the_tokens_of_one_chat_and_the_reflection_alone_learns(self, tiny_tokenizer, texts, ended):
        stops = ["eos" if end else "length" for end in ended]
        attempt, reflection, retry = zip(texts, stops, strict=True)
        sampler = Scripted(tiny_tokenizer, script(attempt=attempt, reflection=reflection, retry=retry))
        group = asyncio.run(
            ReflectRetry(leak="ignore").play_group(TASK, 2, sampler=sampler, verify=nothing, params=PARAMS)
        )
        chat = [
            *TASK.prompt,
            {"role": "assistant", "content": texts[0]},
            {"role": "user", "content": REFLECT},
            {"role": "assistant", "content": texts[1]},
            {"role": "user", "content": RETRY},
        ]
        text = tiny_tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        whole = tuple(tiny_tokenizer(text, add_special_tokens=False)["input_ids"])
        written = [sampler.renderer.reply(text).actions for text in texts]
        said = [actions + (END,) * end for actions, end in zip(written, ended, strict=True)]
        for trajectory in group:
            assert tokens(trajectory.segments) == whole + said[2]
            assert learns(trajectory) == said[1]
            assert trajectory.response == texts[2]

    def test_the_retry_reads_its_own_reflection(self, play):
        def last_reply(read):
            return read.rpartition("<|assistant|>")[0].rpartition("<|assistant|>")[2].partition("<|end|>")[0]

        lines = {"reflection": ["say three", "four", "say five"], "retry": last_reply}
        group, sampler, _ = play(lines=lines)
        assert [t.response for t in group] == ["say three", "four", "say five"]
        assert group.rewards == [0.0, 1.0, 0.0]
        for trajectory, (context, _) in zip(group, sampler.of("retry"), strict=True):
            assert context == trajectory.segments[:-1]
            assert context[3] is trajectory.segments[3]
            assert learns(trajectory) == context[3].actions

    def test_a_reflection_that_was_cut_off_is_closed_and_retried(self, play):
        group, _, _ = play(lines={"reflection": [("I misc", "length"), "I miscounted", ("I", "stop")], "retry": "four"})
        assert group.rewards == [1.0, 1.0, 1.0]
        first, second, third = (trajectory.segments for trajectory in group)
        assert first[3].actions[-1] != END
        assert first[4].actions[0] == third[4].actions[0] == END  # and that is not trained
        assert second[3].actions[-1] == END
        assert second[4].actions == first[4].actions[1:]
        assert group.metrics["reflect/truncated"] == pytest.approx(1 / 3)
        assert group.metrics["reflect/length"] == (6 + 13 + 1) / 3

    def test_what_is_forced_upon_the_policy_is_kept_and_not_trained(self, tiny_tokenizer):
        class Forcing(Scripted):
            async def sample(self, context, params):
                completion = await super().sample(context, params)
                wait = Segment("wait", "forced", (87,), text="W")
                return replace(completion, segments=(*completion.segments, wait))

        sampler = Forcing(tiny_tokenizer, script())
        group = asyncio.run(ReflectRetry().play_group(TASK, 2, sampler=sampler, verify=exact, params=PARAMS))
        for trajectory in group:
            assert names(trajectory) == [
                "prompt",
                *["attempt"] * 2,
                "ask",
                *["reflection"] * 2,
                "again",
                *["retry"] * 2,
            ]
            assert [s.train for s in trajectory.segments] == [False] * 4 + [True] + [False] * 4
            assert trajectory.response == "sixW"

    def test_each_phase_samples_as_it_is_told_to(self, play):
        _, sampler, _ = play(
            attempt={"temperature": 0.2, "max_tokens": 5},
            retry={"temperature": 0.0, "top_p": 0.9},
            reflection_tokens=11,
            blind=1,
        )
        used = {
            name: [params for _, params in sampler.of(name)] for name in ("attempt", "reflection", "retry", "blind")
        }
        assert {(p.temperature, p.max_tokens) for p in used["attempt"]} == {(0.2, 5)}
        assert {(p.temperature, p.top_p, p.max_tokens) for p in used["reflection"]} == {(1.0, 1.0, 11)}
        assert {(p.temperature, p.top_p) for p in used["retry"] + used["blind"]} == {(0.0, 0.9)}
        _, plain, _ = play(blind=1)
        assert all(replace(params, seed=7) == PARAMS for _, params in plain.calls)
        assert [p.seed for _, p in plain.calls] == [p.seed for _, p in sampler.calls]

    @pytest.mark.parametrize(
        "options",
        [
            *OPTIONS[:2],
            {"rounds": 3},
            {"attempt": {"max_tokens": 5}, "retry": {"max_tokens": 9}, "reflection_tokens": 2},
        ],
    )
    def test_the_most_that_it_can_cost_is_what_it_may_sample_where_all_fails(self, play, options):
        _, sampler, _ = play(n=3, **options)
        most = ReflectRetry(**options).most_tokens(3, PARAMS)
        assert most == sum(params.max_tokens for _, params in sampler.calls)

    def test_no_two_draws_share_their_noise_and_none_depends_on_how_many_there_are(self, play):
        def seeds(**settings):
            _, sampler, _ = play(verify=nothing, **settings)
            return [(kind(context), params.seed) for context, params in sampler.calls]

        for options in ({"retries": 3, "blind": 3}, {"rounds": 3, "blind": 2}):
            many, few = seeds(n=5, **options), seeds(n=2, **options)
            assert len(dict.fromkeys(seed for _, seed in many)) == len(many)
            assert set(few) < set(many)
            assert set(few) == set(seeds(n=2, **options))
            assert not set(few) & set(seeds(n=2, params=replace(PARAMS, seed=8), **options))
            assert not set(few) & set(seeds(n=2, task=replace(TASK, id="t/2"), **options))
        assert set(seeds(retries=1)) < set(seeds(retries=4, blind=4))


async def nothing(task, trajectory):
    return Score(0.0)


TOLD = [
    Task(
        "countdown", [{"role": "user", "content": "Make 77 of 58, 97, 3."}], {"target": 77}, {"solution": "(3*58)-97"}
    ),
    Task("call", [{"role": "user", "content": "f of 3?"}], [{"math.f3": {"n": [3]}}], {"hint": "use math.f3"}),
    Task("word", [{"role": "user", "content": "Where?"}], "Zanzibar"),
    Task("number", [{"role": "user", "content": "How many?"}], 4711),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("task", TOLD, ids=lambda task: task.id)
@pytest.mark.parametrize("fails", [False, True])
def test_no_answer_and_no_verdict_gets_into_what_the_policy_reads(play, options, task, fails):
    async def telling(task, trajectory):
        if fails and len(trajectory.segments) > 2:
            return Score(None, error=f"ValueError: expected {task.answer}")
        return Score(0.0, {f"expected {task.answer}": 1.0})

    group, sampler, _ = play(task=task, verify=telling, lines={"retry": "Zanzi", "reflection": "hm"}, **options)
    prompt = sampler.calls[0][0][0].text
    secrets = [str(task.answer), json.dumps(task.answer), "expected", "Error", *map(str, task.meta.values())]
    assert not [secret for secret in secrets if secret in prompt]
    written = [
        segment
        for segments in (*(t.segments for t in (*group, *group.aside)), *(context for context, _ in sampler.calls))
        for segment in segments
        if segment.source == "given"
    ]
    behind = {f"<|user|>{told}<|end|><|assistant|>" for told in (REFLECT, RETRY, BLIND)}
    assert {segment.text.removeprefix("<|end|>") for segment in written} <= {prompt, *behind}


class TestReward:
    def test_it_is_the_verdict_on_the_retry(self, play):
        group, _, judged = play(lines={"retry": ["six", "four", "four"]}, leak="ignore")
        assert judged == ["five", "six", "four", "four"]
        assert group.rewards == [0.0, 1.0, 1.0]
        assert [t.scores["retry"] for t in group] == [0.0, 1.0, 1.0]
        assert all(t.scores["seen"] == 1.0 for t in group)
        assert group.metrics["reflect/retry"] == group.metrics["reflect/second_try"] == pytest.approx(2 / 3)

    def test_a_failed_verdict_is_no_reward_of_zero(self, play):
        async def moody(task, trajectory):
            if trajectory.response == "what?":
                return Score(None, error="KeyError: lost")
            return await exact(task, trajectory)

        group, _, _ = play(verify=moody, lines={"retry": ["what?", "four", "six"]})
        assert [t.reward for t in group] == [None, 1.0, 0.0]
        assert [t.error for t in group] == ["KeyError: lost", None, None]
        assert group.metrics["reflect/retry"] == 0.5
        zscore([group])
        assert [t.advantage for t in group] == [
            None,
            pytest.approx(0.5**0.5, abs=1e-5),
            pytest.approx(-(0.5**0.5), abs=1e-5),
        ]
        [row] = collate.rows([group], shares_context=True, tokens=10**4)
        assert [branch.trajectory for branch in row.branches] == [-1, 1, 2]

    @pytest.mark.parametrize(("mode", "rewards", "verdicts"), [("fail", [0.0, 1.0], 2), ("judge", [1.0, 1.0], 3)])
    def test_a_retry_that_was_cut_off(self, play, mode, rewards, verdicts):
        lines = {"retry": [("four", "length"), "four"]}
        group, _, judged = play(n=2, lines=lines, truncated_retry=mode, leak="ignore")
        assert group.rewards == rewards
        assert len(judged) == verdicts  # the attempt's among them
        assert [t.stop for t in group] == ["length", "eos"]
        assert [t.error for t in group] == [None, None]

    def test_several_retries_are_averaged_and_lie_aside(self, play):
        lines = {"retry": ["four", "six", "six", "six", "four", "four"]}
        group, sampler, _ = play(n=2, retries=3, lines=lines)
        assert group.rewards == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
        assert [t.scores["retry"] for t in group] == [1.0, 0.0]  # its own
        assert [t.reward for t in group.aside] == [0.0, 0.0, 1.0, 1.0]
        for sibling, further in zip(group, (group.aside[:2], group.aside[2:]), strict=True):
            assert all(t.segments[i] is sibling.segments[i] for t in further for i in range(5))
        assert group.generated == 5 + 2 * 13 + len("foursixsixsixfourfour") + 6
        assert group.metrics["reflect/retry"] == 0.5
        laid = collate.rows([group], shares_context=True, tokens=10**4)
        trained = [s.name for row in laid for branch in row.branches for s in branch.segments if s.train]
        assert trained == ["reflection"] * 2  # once each
        assert len(sampler.of("retry")) == 6

    def test_of_several_retries_those_without_a_verdict_are_left_out(self, play):
        async def moody(task, trajectory):
            if trajectory.response == "what?":
                return Score(None, error="KeyError: lost")
            return await exact(task, trajectory)

        lines = {"retry": ["what?", "four", "six", "what?", "what?", "what?"]}
        group, _, _ = play(n=2, retries=3, verify=moody, lines=lines)
        assert [(t.reward, t.error) for t in group] == [(0.5, None), (None, "KeyError: lost")]


class TestBlindRetries:
    LINES = {"retry": ["four", "six", "four"], "blind": ["four", "seven", "seven", "seven"]}

    def test_their_mean_is_taken_off_each_reward(self, play):
        group, sampler, _ = play(blind=4, lines=self.LINES)
        assert group.rewards == [0.75, -0.25, 0.75]
        assert [t.scores["blind"] for t in group] == [0.25] * 3
        assert [t.scores["retry"] for t in group] == [1.0, 0.0, 1.0]
        assert group.metrics["reflect/blind"] == 0.25
        assert group.metrics["reflect/second_try"] == pytest.approx(2 / 3)  # not changed by it
        assert [t.reward for t in group.aside] == [1.0, 0.0, 0.0, 0.0]
        for context, _ in sampler.of("blind"):
            assert [segment.name for segment in context] == ["prompt", "attempt", "again"]
            assert all(
                ours is shared for ours, shared in zip(context, group.trajectories[0].segments[:2], strict=False)
            )
            assert BLIND in context[-1].text
        assert not any(learns(trajectory) for trajectory in group.aside)

    def test_an_advantage_that_is_centred_on_the_group_cancels_them_and_a_raw_one_does_not(self, play):
        with_blind, without = play(blind=4, lines=self.LINES)[0], play(lines=self.LINES)[0]
        for advantage in (centred, zscore):
            advantage([with_blind, without])
            assert [t.advantage for t in with_blind] == pytest.approx([t.advantage for t in without])
        raw([with_blind, without])
        assert [t.advantage for t in with_blind] == [0.75, -0.25, 0.75]
        assert [t.advantage for t in without] == [1.0, 0.0, 1.0]

    def test_without_a_verdict_on_any_there_is_nothing_to_compare_with(self, play):
        async def blind_to_seven(task, trajectory):
            if trajectory.response == "seven":
                return Score(None, error="KeyError: seven")
            return await exact(task, trajectory)

        group, _, _ = play(blind=4, verify=blind_to_seven, lines=self.LINES)
        assert group.rewards == [0.0, -1.0, 0.0]  # of the one that was judged
        group, _, _ = play(blind=2, verify=blind_to_seven)
        assert [(t.reward, t.error) for t in group] == [(None, "KeyError: seven")] * 3


class TestRounds:
    LINES = {"reflection": ["first", "first", "again, B"], "retry": ["four", "six", "four"]}

    def test_a_failed_retry_is_reflected_on_again(self, play):
        group, sampler, _ = play(n=2, rounds=3, discount=0.5, lines=self.LINES)
        done, longer = group.trajectories
        assert names(done) == ["prompt", "attempt", "ask", "reflection", "again", "retry"]
        assert names(longer)[3:] == [
            *["reflection", "again", "retry", "ask 2", "reflection 2", "again 2", "retry 2"],
        ]
        assert group.rewards == [1.0, 0.5]
        assert [t.trained for t in group] == [6, 6 + 9]
        assert longer.response == "four"
        assert group.metrics["reflect/retry"] == group.metrics["reflect/second_try"] == 1.0
        assert group.metrics["reflect/length"] == (6 + (6 + 9) / 2) / 2
        assert len(sampler.of("reflection")) == 3

    def test_the_last_round_is_the_last(self, play):
        group, sampler, _ = play(n=2, rounds=3, verify=nothing)
        assert all(names(t)[-1] == "retry 3" for t in group)
        assert len(sampler.of("reflection")) == 6

    @pytest.mark.parametrize(("chosen", "marks"), [([1], [True, False]), ([2], [False, True]), (None, [True, True])])
    def test_which_reflections_learn_is_a_setting(self, play, chosen, marks):
        group, _, _ = play(n=2, rounds=2, train_rounds=chosen, verify=nothing)
        for trajectory in group:
            assert [s.train for s in trajectory.segments if s.name.startswith("reflection")] == marks
            assert not any(s.train for s in trajectory.segments if not s.name.startswith("reflection"))

    def test_partial_credit_is_discounted_too(self, play):
        async def partial(task, trajectory):
            return Score(0.25)

        group, _, _ = play(n=1, rounds=3, discount=0.5, verify=partial)
        assert group.rewards == [0.25 * 0.5**2]


class TestLeaks:
    LINES = {"reflection": ["four", "I miscounted", "It is FOUR!"], "retry": ["four", "four", "six"]}
    """The verifier accepts the first; the last names the answer."""

    @pytest.mark.parametrize(
        ("leak", "rewards", "retries"),
        [
            ("ignore", [1.0, 1.0, 0.0], 3),
            ("log", [1.0, 1.0, 0.0], 3),
            ("penalise", [0.75, 1.0, -0.25], 3),
            ("block", [0.0, 1.0, 0.0], 1),
        ],
    )
    def test_what_is_done_about_them(self, play, leak, rewards, retries):
        lines = self.LINES if leak != "block" else self.LINES | {"retry": ["four"]}
        group, sampler, judged = play(leak=leak, leak_penalty=0.25, lines=lines)
        assert group.rewards == rewards
        assert len(sampler.of("retry")) == retries
        if leak == "ignore":
            assert "reflect/leaks" not in group.metrics
            assert len(judged) == 4
        else:
            assert [t.scores["leak"] for t in group] == [1.0, 0.0, 1.0]
            assert group.metrics["reflect/leaks"] == pytest.approx(2 / 3)
        if leak == "block":
            assert [names(t)[-1] for t in group] == ["reflection", "retry", "reflection"]
            assert group.metrics["reflect/retry"] == pytest.approx(1 / 3)
            assert all(learns(t) for t in group)  # also what was blocked learns

    def test_the_verifier_reads_the_reflection_as_an_answer(self, play):
        _, _, judged = play(n=1, lines={"reflection": ["I miscounted"]})
        assert sorted(judged) == ["I miscounted", "five", "six"]

    @pytest.mark.parametrize(
        ("leak", "reward", "error"),
        [("log", 0.0, None), ("penalise", None, "KeyError: hm"), ("block", None, "KeyError: hm")],
    )
    def test_a_doubt_is_neither_a_leak_nor_none(self, play, leak, reward, error):
        async def moody(task, trajectory):
            if trajectory.response == "hm":
                return Score(None, error="KeyError: hm")
            return await exact(task, trajectory)

        group, sampler, _ = play(n=2, leak=leak, verify=moody, lines={"reflection": ["hm", "I miscounted"]})
        doubtful, clear = group.trajectories
        assert (doubtful.reward, doubtful.error) == (reward, error)
        assert (clear.reward, clear.scores["leak"]) == (0.0, 0.0)
        assert "leak" not in doubtful.scores
        assert group.metrics["reflect/leaks"] == 0.0
        assert len(sampler.of("retry")) == (1 if leak == "block" else 2)

    def test_one_leak_in_several_rounds_is_one(self, play):
        for reflections in (["four", "hm"], ["hm", "four"], ["four", "four"]):
            lines = {"reflection": reflections, "retry": ["six", "four"]}
            group, _, _ = play(n=1, rounds=2, leak="penalise", leak_penalty=0.25, lines=lines)
            assert group.rewards == [0.75]

    @pytest.mark.parametrize(
        ("answer", "text", "known", "found"),
        [
            ("Paris", "It is paris.", "", True),
            ("Paris", "Parisian", "", False),
            ("Paris", "It is Paris.", "Paris or Rome?", False),
            ("B", "Option B", "", False),
            ("yes", "yes, I erred", "", False),
            (72, "so 72", "", True),
            (72, "so 720, 172 or 72.5", "", False),
            (72, "so 72.", "", True),
            (7, "so 7", "", False),
            (35, "so 35", "make 35 of 3 and 5", False),
            ("-1.5", "use -1.5", "", True),
            (1.5, "use 1.5", "", True),
            (True, "True it is", "", False),
            (None, "None", "", False),
            ({"target": 35}, "35", "", False),
            ("a+b (c)", "it is a+b (c)", "", True),
            ("", "anything", "", False),
        ],
    )
    def test_where_an_answer_stands_in_a_text(self, answer, text, known, found):
        assert states(answer, text, known) is found

    def test_what_stands_in_the_question_is_no_leak(self, play):
        task = Task("t", [{"role": "user", "content": "Make 35 of 3 and 5."}], answer=35)
        group, _, _ = play(task=task, verify=nothing, lines={"reflection": "I missed 35"})
        assert group.metrics["reflect/leaks"] == 0.0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rounds": 2, "retries": 2}, "needs retries = 1"),
        ({"train_rounds": [2]}, "none of these is a round"),
        ({"train_rounds": []}, "none of these is a round"),
        ({"retry": {"seed": 1}}, r"retry\.seed"),
        ({"reflect_prompt": ""}, "at least 1"),
        ({"leak": "hide"}, "penalise"),
        ({"discount": 0.0}, "greater than 0"),
        ({"retrys": 2}, "retrys"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        ReflectRetry(**settings)


# From here on with a real model, and what the update makes of its groups.


def learner(policy, objective=None, **update):
    settings = OptimizerConfig(lr=1e-2), UpdateConfig(**update)
    return Learner(policy, objective or PolicyGradient(), *settings, steps=10, temperature=1.0)


async def odd(task, trajectory):
    """Worth of a reply: whether it has an odd number of a kind of letters; the random policy's siblings differ."""
    return Score(float(sum(ord(letter) for letter in trajectory.response) % 2))


def from_model(policy, n=6, tasks=2, verify=odd, **settings):
    """Groups that a policy plays; no reply of it ever passes."""
    sampler, environment = NativeSampler(), ReflectRetry(success=2.0, truncated_retry="judge", **settings)
    sampler.sync(policy)
    params = SamplingParams(seed=3, max_tokens=9)

    async def all_of_them():
        asked = [Task(f"t/{i}", [{"role": "user", "content": "?" * (1 + 3 * i)}]) for i in range(tasks)]
        plays = (environment.play_group(t, n, sampler=sampler, verify=verify, params=params) for t in asked)
        return await asyncio.gather(*plays)

    return list(asyncio.run(all_of_them()))


class FullLogits:
    """A policy that computes the logits of every position, and keeps them for their gradient."""

    def __init__(self, policy):
        self.policy, self.encode, self.logits = policy, policy.encode, None

    def score(self, batch):
        hidden = scores.hidden(self.policy, batch.inputs)
        self.logits = self.policy.logits(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)
        self.logits.retain_grad()
        rows, steps = batch.mask.nonzero(as_tuple=True)
        self.read = rows, batch.inputs["previous"][rows, steps]
        targets = batch.inputs["input_ids"][rows, steps]
        values = log_prob_and_entropy(self.logits[self.read], targets, batch.temperature)
        empty = hidden.new_zeros(batch.mask.shape)
        return Scores(*(empty.index_put((rows, steps), v) for v in values))


def one_batch(policy, groups, shares_context):
    policy = copy(policy)
    policy.share_context = shares_context
    [batch] = collate.batches(groups, policy, tokens=10**6, temperature=1.0)
    return batch


@pytest.mark.parametrize("shares_context", [True, False])
@pytest.mark.parametrize("options", [{}, {"rounds": 2}, {"rounds": 2, "train_rounds": [2]}], ids=str)
@pytest.mark.parametrize("penalty", [False, True])
def test_the_gradient_on_logits_is_exactly_zero_but_where_reflections_are_predicted(
    tiny_policy, options, shares_context, penalty
):
    policy = tiny_policy()
    groups = from_model(policy, **options)
    zscore(groups)
    assert all(t.advantage for group in groups for t in group)  # none is 0
    objective = PolicyGradient()
    if penalty:
        learner(policy).annotate(groups, policy.frozen_copy())
        with torch.no_grad():  # so that there is a divergence
            policy.parameters()[0].add_(0.05)
        objective = PolicyGradient(penalties=[Bound(kl_penalty, coefficient=0.1, estimator="k2")])
    batch, full = one_batch(policy, groups, shares_context), FullLogits(policy)
    torch.testing.assert_close(full.score(batch).logprobs, policy.score(batch).logprobs, atol=1e-5, rtol=1e-5)
    loss = objective(full, batch)
    loss.total.backward()
    touched = full.logits.grad.ne(0).any(-1)
    expected = torch.zeros_like(touched)
    expected[full.read] = True
    assert torch.equal(touched, expected)
    assert not touched.all()

    chosen = {"reflection 2"} if "train_rounds" in options else {"reflection", "reflection 2"}
    said = [s for group in groups for t in group for s in t.segments if s.name in chosen]
    assert sorted(batch.inputs["input_ids"][batch.mask].tolist()) == sorted(tokens(said))
    assert int(batch.mask.sum()) == sum(map(len, said)) == sum(t.trained for group in groups for t in group)
    if penalty:  # counted on these alone, and told so
        assert loss.metrics["kl/mean"][1] == sum(map(len, said))
        assert loss.metrics["kl/mean"][0] > 0


def said(row):
    """The names of the segments that lead to the end of each trajectory."""
    paths = []
    for branch in row.branches:
        above = paths[branch.parent] if branch.parent >= 0 else ()
        paths.append((*above, *(segment.name for segment in branch.segments)))
    return {path for path, branch in zip(paths, row.branches, strict=True) if branch.trajectory >= 0}


def test_what_comes_behind_the_last_reflection_is_in_no_row(tiny_policy):
    policy = tiny_policy()
    for options in ({}, {"retries": 3, "blind": 2}):
        groups = from_model(policy, **options)
        zscore(groups)
        for shares_context in (True, False):
            for row in collate.rows(groups, shares_context=shares_context, tokens=10**6):
                assert said(row) == {("prompt", "attempt", "ask", "reflection")}
    again = from_model(policy, rounds=2)
    zscore(again)
    for row in collate.rows(again, shares_context=True, tokens=10**6):
        assert said(row) == {
            ("prompt", "attempt", "ask", "reflection", "again", "retry", "ask 2", "reflection 2"),
        }


def test_the_retry_does_not_change_how_likely_the_reflection_is(tiny_policy, tiny_model_path, score_groups):
    policy = tiny_policy()
    groups = from_model(policy)
    zscore(groups)
    with torch.no_grad():
        scores = score_groups(policy, groups)
        for changed in (lambda s: s[:4], lambda s: [*s[:5], replace(s[5], actions=(1, 2, 3))]):
            others = [Group(g.task, [replace(t, segments=changed(t.segments)) for t in g]) for g in groups]
            assert score_groups(policy, others) == scores
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32).eval()
        for trajectory, found in zip((t for g in groups for t in g), scores, strict=True):
            *context, reflection = trajectory.segments[:4]
            ids, start = tokens([*context, reflection]), len(tokens(context))
            steps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            plain = [float(steps[start + i - 1, action]) for i, action in enumerate(reflection.actions)]
            assert found == pytest.approx(plain, abs=1e-5)
            assert found == pytest.approx(list(reflection.logprobs), abs=1e-4)  # as it was sampled


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_fail_or_all_pass_the_policy_gradient_is_exactly_zero_and_the_penalty_remains(tiny_policy, value):
    async def same(task, trajectory):
        return Score(value)

    policy = tiny_policy()
    groups = from_model(policy, verify=same)
    for advantage in (zscore, centred):
        advantage(groups)
        batch = one_batch(policy, groups, True)
        assert int(batch.mask.sum()) > 0
        PolicyGradient()(policy, batch).total.backward()
        assert all(not p.grad.any() for p in policy.parameters() if p.grad is not None)
    learner(policy).annotate(groups, policy.frozen_copy())
    with torch.no_grad():
        policy.parameters()[0].add_(0.05)
    penalised = PolicyGradient(penalties=[Bound(kl_penalty, coefficient=0.1, estimator="k2")])
    penalised(policy, one_batch(policy, groups, True)).total.backward()
    assert any(p.grad.any() for p in policy.parameters() if p.grad is not None)


def test_other_tokens_than_those_of_reflections_do_not_move_the_update(tiny_policy):
    """The retry, its log-probabilities, and those of the attempt may be anything."""

    def updated(change):
        policy = tiny_policy()
        groups = from_model(policy)
        for group in groups:
            shared = [change(segment) for segment in group.trajectories[0].segments[:3]]
            for trajectory in group:
                trajectory.segments = [*shared, trajectory.segments[3], *map(change, trajectory.segments[4:])]
        zscore(groups)
        learner(policy).update(groups, 0)
        return torch.cat([p.detach().flatten() for p in policy.parameters()])

    def absurd(segment):
        if segment.name == "retry":
            return replace(segment, actions=(5,) * 3, logprobs=(float("nan"),) * 3)
        return replace(segment, logprobs=(float("nan"),) * len(segment)) if segment.name == "attempt" else segment

    assert torch.equal(updated(lambda segment: segment), updated(absurd))


def test_a_run_logs_both_tries_also_of_its_evaluations(tiny_model_path, tmp_path):
    settings = parts.settings(
        tiny_model_path,
        tmp_path / "run",
        verifier=parity,
        environment={"reflect_retry": {"blind": 1, "truncated_retry": "judge"}},
        gate="everything",
        advantage="raw",
        steps=2,
        prompts=4,
        eval={"letters": {"tasks": parts.Letters(), "items": 6}},
    )
    run = hone.Trainer(hone.Config(**settings)).fit()
    for row in run.metrics[1:]:
        assert 0 <= row["reflect/first_try"] <= row["reflect/second_try"] <= 1
        assert 1 <= row["reflect/length"] <= 5
        assert {"reflect/retry", "reflect/blind", "reflect/leaks", "reflect/truncated"} <= row.keys()
    last = run.metrics[-1]
    assert last["eval/letters/first_try"] <= last["eval/letters/second_try"]
    by_group = {}
    for row in run.rollouts:
        by_group.setdefault((row["step"], row["group"]), []).append(row)
    for group in by_group.values():
        passed = [part["name"] for part in group[0]["segments"]] == ["prompt", "attempt"]
        assert len(group) == (1 if passed else 3 + 1)  # a blind one beside them
        assert all(part["train"] == (part["name"] == "reflection") for row in group for part in row["segments"])
    assert {len(group) for group in by_group.values()} == {1, 4}  # both kinds were there


def parity(task, trajectory):
    return Score(float(sum(map(ord, trajectory.response)) % 2))


@pytest.mark.parametrize(("options", "shared"), product([{}, {"blind": 1}], [3]))
def test_siblings_share_their_context_when_the_model_plays_too(tiny_policy, options, shared):
    for group in from_model(tiny_policy(), **options):
        first = group.trajectories[0]
        for trajectory in group:
            assert all(trajectory.segments[i] is first.segments[i] for i in range(shared))
        assert len({learns(trajectory) for trajectory in group}) > 1
