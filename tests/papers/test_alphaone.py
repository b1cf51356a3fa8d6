"""AlphaOne: its schedules, its coins, the two ways to impose, and the native sampler."""

import asyncio
import logging
import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hone.math.mass import force, mix, move
from hone.papers.alphaone import AlphaOne
from hone.papers.alphaone_logits import write
from hone.papers.thinking import Spotter, Thought, Words, thinking_length
from hone.samplers.draw import Rules, draw
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams
from hone.types import Segment

LETTERS = [chr(code) for code in range(32, 87) if chr(code) not in "WE"]  # a fifth of what the tiny model draws
END, W, E = 256, ord("W"), ord("E")
PLAIN = {"n_think": 20, "wait": "W", "slow": ["W"], "end": "E", "delimiters": LETTERS, "alpha": 1.5}


def byte_words(end="</think>", reach=8):
    return Words(lambda text: list(text.encode()), lambda tokens: bytes(tokens).decode(errors="replace"), end, reach)


def made(**settings):
    alphaone = AlphaOne(**{**PLAIN, **settings})
    alphaone.read(byte_words(alphaone.end, alphaone._reach))
    return alphaone


def course(alphaone, text="", *, mass=False, **params):
    begun = alphaone.begin(SamplingParams(**{"max_tokens": 500, **params}), mass=mass)
    for token in text.encode():
        alphaone.see(begun, token)
    return begun


@pytest.fixture(scope="module")
def policy(tiny_policy):
    return tiny_policy("float32")


@pytest.fixture
def sampler(policy):
    def make(*processors, **settings):
        engine = NativeSampler(processors=list(processors), **settings)
        engine.sync(policy)
        return engine

    return make


def context(n, seed=0):
    chosen = random.Random(seed)
    return Segment("prompt", "given", tuple(chosen.randrange(250) for _ in range(n)))


def run(sampler, *requests):
    async def gather():
        return await asyncio.gather(*(sampler.sample([prompt], params) for prompt, params in requests))

    return asyncio.run(gather())


def requests(n, most=40, **params):
    return [(context(3 + i % 5, seed=i % 5), SamplingParams(seed=i, max_tokens=most, **params)) for i in range(n)]


def tokens(completion):
    return [token for segment in completion.segments for token in segment.actions]


def forced(completion):
    return [segment.source == "forced" for segment in completion.segments for _ in segment.actions]


def chi_square(observed, expected):
    """In standard deviations above its mean, over the cells that are not too small."""
    terms = [(o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 5]
    return (sum(terms) - len(terms)) / math.sqrt(2 * len(terms))


class TestSchedule:
    def test_the_ends(self):
        rates = {name: AlphaOne(schedule=name, gamma=0.3, probability=0.2).rate for name in
                 ("linear_anneal", "linear_increase", "exponential", "constant")}  # fmt: skip
        assert [rate(0) for rate in rates.values()] == [1, 0, 1, 0.2]
        assert [rate(1) for rate in rates.values()] == [0, 1, math.exp(-0.3), 0.2]
        assert [rate(0.25) for rate in rates.values()] == [0.75, 0.25, math.exp(-0.075), 0.2]

    @given(st.floats(0, 1), st.floats(0, 1))
    def test_they_are_monotone(self, a, b):
        a, b = sorted((a, b))
        for name, sign in {"linear_anneal": -1, "linear_increase": 1, "exponential": -1}.items():
            rate = AlphaOne(schedule=name).rate
            assert sign * (rate(b) - rate(a)) >= 0
            assert 0 <= rate(a) <= 1

    def test_the_chance_by_hand(self):
        alphaone = made(delimiters=["\n\n"])  # T_m = 30
        assert alphaone.chance(course(alphaone, "a\n\n")) == pytest.approx(1 - 3 / 30)
        assert alphaone.chance(course(alphaone, "a\n")) == 0
        assert alphaone.chance(course(alphaone, "\n\n\n\n")) == pytest.approx(1 - 4 / 30)
        assert alphaone.chance(course(alphaone)) == 0  # the prompt's own end does not count
        assert alphaone.chance(course(alphaone, "a" * 28 + "\n\n")) == 0  # t = T_m
        assert alphaone.chance(course(alphaone, "aE\n\n")) == 0  # thinking is over
        constant = made(delimiters=["\n\n"], schedule="constant", probability=0.3)
        chances = [constant.chance(course(constant, "a" * n + "\n\n")) for n in (27, 28, 29)]
        assert chances == [0.3, 0.3, 0]
        begun = course(alphaone, "a\n\n")
        alphaone.see(begun, 0xE2)  # the first of a character's bytes
        assert alphaone.chance(begun) == 0

    def test_the_moment_is_at_most_the_limit_and_that_is_told_once(self, caplog):
        alphaone = made(n_think=1000, alpha=1.4)
        with caplog.at_level(logging.WARNING, "hone"):
            assert alphaone.begin(SamplingParams(max_tokens=2000)).moment == 1400
            assert caplog.messages == []
            assert [alphaone.begin(SamplingParams(max_tokens=n)).moment for n in (1400, 100)] == [1400, 100]
        assert len(caplog.messages) == 1
        assert "alpha * n_think = 1400 is not below sampling.max_tokens = 1400" in caplog.text


class TestWords:
    def test_what_is_a_slow_word(self):
        texts = ["Wait", " Wait", "wait", ".Wait", "Await", " waiting", "Waiting", "swait", "\nwait", "W"]
        words = Words(lambda text: [99], lambda t: texts[t[0]], "#", 5)
        spotter = Spotter(words, ["Wait"])
        assert [texts[token] for token in spotter.tokens(len(texts))] == ["Wait", " Wait", "wait", ".Wait", "\nwait"]
        assert not spotter.joined(Thought(tail="a"), 2)
        assert spotter.joined(Thought(tail="a "), 2)

    @pytest.mark.parametrize("text", ["</think>", "so</think>\n\n4", "x</think></think>"])
    def test_the_end_is_found_in_any_tokens(self, text):
        words = byte_words()
        assert thinking_length(words, list(text.encode())) == text.index(">") + 1
        pieces = {1: text[:3], 2: text[3:7], 3: text[7:]}
        assert thinking_length(Words(lambda _: [9, 9], lambda t: pieces[t[0]], "</think>", 0), [1, 2, 3, 2]) <= 3

    def test_without_an_end_all_is_thinking(self):
        assert thinking_length(byte_words(), list(b"</thin k>")) == 9

    def test_a_special_token_that_decodes_to_nothing_ends_too(self):
        words = Words(lambda text: [7], lambda t: "", "</think>", 0)
        assert thinking_length(words, [1, 2, 7, 3]) == 3

    def test_a_text_without_tokens_is_refused(self):
        alphaone = AlphaOne(n_think=5)
        with pytest.raises(ValueError, match="makes no token of '</think>'"):
            alphaone.read(Words(lambda text: [], lambda t: "", "</think>", 5))

    def test_n_think_is_asked_for(self):
        with pytest.raises(ValueError, match=r"alphaone\.n_think: required; `hone calibrate CONFIG`"):
            AlphaOne().read(byte_words())


class TestNative:
    @pytest.mark.parametrize(
        "settings",
        [{"schedule": "constant", "probability": 0}, {"alpha": 1e-9}],
        ids=["never", "no time"],
    )
    @pytest.mark.parametrize("imposed", ["forced", "trained"])
    def test_without_anything_to_impose_it_is_as_if_it_were_not_there(self, settings, imposed, sampler):
        asked = requests(24)
        alphaone = AlphaOne(**{**PLAIN, "until_end": False, "imposed": imposed, **settings})
        assert run(sampler(alphaone), *asked) == run(sampler(), *asked)

    def test_before_the_moment_a_chance_of_zero_changes_nothing(self, sampler):
        asked = requests(32)
        alphaone = AlphaOne(**{**PLAIN, "schedule": "constant", "probability": 0, "slow": LETTERS})
        plain, steered = run(sampler(), *asked), run(sampler(alphaone), *asked)
        for before, after in zip(plain, steered, strict=True):
            assert tokens(before)[:31] == tokens(after)[:31]  # t = 30 is T_m, and still before
        assert plain != steered

    @pytest.mark.parametrize("schedule", ["linear_anneal", "linear_increase", "exponential", "constant"])
    def test_waits_come_as_often_as_the_schedule_says_and_only_behind_delimiters(self, schedule, sampler):
        alphaone = AlphaOne(**{**PLAIN, "schedule": schedule, "gamma": 2.0, "probability": 0.35, "until_end": False})
        found = run(sampler(alphaone), *requests(400))
        waits, expected, elsewhere = [0] * 31, [0.0] * 31, 0
        spread = [0.0] * 31
        for completion in found:
            ended = False
            drawn, marks = tokens(completion), forced(completion)
            for t, (token, mark) in enumerate(zip(drawn, marks, strict=True)):
                behind = t > 0 and chr(drawn[t - 1]) in LETTERS and not ended and t <= 30
                assert not mark or token == W
                if behind:
                    rate = alphaone.rate(t / 30)
                    waits[t] += mark
                    expected[t] += rate
                    spread[t] += rate * (1 - rate)
                else:
                    elsewhere += mark
                ended = ended or token == E
        assert elsewhere == 0
        assert sum(waits) > 300
        scored = [(w - e) ** 2 / v for w, e, v in zip(waits, expected, spread, strict=True) if v > 5]
        assert len(scored) > 15
        assert sum(scored) < len(scored) + 4 * math.sqrt(2 * len(scored))

    def test_after_the_moment_a_wait_ends_thinking_and_nothing_is_imposed_behind_it(self, sampler):
        alphaone = AlphaOne(**{**PLAIN, "slow": [*LETTERS, "W"], "delimiters": ["W"], "alpha": 0.5})  # T_m = 10
        slow = {ord(letter) for letter in [*LETTERS, "W"]} | {ord(letter.lower()) for letter in LETTERS} | {ord("w")}
        imposed_ends = 0
        for completion in run(sampler(alphaone), *requests(200)):
            drawn, marks = tokens(completion), forced(completion)
            assert len(drawn) <= 40
            until = drawn.index(E) if E in drawn else len(drawn)
            assert not any(token in slow for token in drawn[11:until])
            assert not any(marks[until + 1 :])
            ends = [token for token, mark in zip(drawn[11:], marks[11:], strict=True) if mark]
            assert ends in ([], [E])
            imposed_ends += len(ends)
        assert imposed_ends > 100

    def test_words_of_several_tokens(self, sampler):
        settings = {"wait": "Wait,", "slow": [*LETTERS, "Wait"], "end": "</think>", "alpha": 1.0, "n_think": 15}
        alphaone = AlphaOne(**{**PLAIN, **settings})
        waits = ends = 0
        for completion in run(sampler(alphaone), *requests(100)):
            assert "".join(segment.text for segment in completion.segments) == completion.text
            for segment in completion.segments:
                if segment.source == "forced":
                    assert not segment.train
                    assert segment.logprobs == ()
                    whole = segment is not completion.segments[-1]
                    assert not whole or segment.text.replace("Wait,", "") in ("", "</think>")
                    waits, ends = waits + segment.text.count("Wait,"), ends + segment.text.count("</think>")
                else:
                    assert len(segment.logprobs) == len(segment)
        assert waits > 50
        assert ends > 50

    @pytest.mark.parametrize("imposed", ["forced", "trained"])
    def test_a_sample_does_not_depend_on_its_neighbours(self, imposed, sampler):
        asked = requests(48)
        settings = {**PLAIN, "imposed": imposed, "alpha": 0.7}
        together = run(sampler(AlphaOne(**settings)), *asked)
        assert any(any(forced(c)) for c in together) == (imposed == "forced")
        order = random.Random(1).sample(range(48), 48)
        narrow = run(sampler(AlphaOne(**settings), max_sequences=5), *(asked[i] for i in order))
        for i, completion in zip(order, narrow, strict=True):
            assert (tokens(completion), forced(completion)) == (tokens(together[i]), forced(together[i]))
        for i in range(0, 48, 9):
            (alone,) = run(sampler(AlphaOne(**settings)), asked[i])
            assert (tokens(alone), forced(alone)) == (tokens(together[i]), forced(together[i]))

    def test_what_is_left_alone_has_the_log_probability_of_the_policy(self, sampler, policy):
        asked = requests(12, temperature=0.8)
        alphaone = AlphaOne(**{**PLAIN, "slow": LETTERS, "alpha": 0.7})
        for (prompt, _), completion in zip(asked, run(sampler(alphaone), *asked), strict=True):
            expected = logprobs(policy, prompt, tokens(completion), 0.8)
            at = 0
            for segment in completion.segments:
                rows = range(at, at + len(segment))
                if segment.source == "policy":
                    ours = [float(expected[t, token]) for t, token in zip(rows, segment.actions, strict=True)]
                    assert segment.logprobs == pytest.approx(ours, abs=1e-4)
                at += len(segment)

    def test_what_trains_has_the_exact_probability_of_the_behaviour(self, sampler, policy):
        asked = requests(40, temperature=0.8)
        alphaone = AlphaOne(**{**PLAIN, "imposed": "trained", "alpha": 0.7})  # T_m = 14
        waits = ends = 0
        for (prompt, _), completion in zip(asked, run(sampler(alphaone), *asked), strict=True):
            (segment,) = completion.segments
            assert segment.train
            pi = logprobs(policy, prompt, segment.actions, 0.8).exp()
            ended = False
            for t, (token, value) in enumerate(zip(segment.actions, segment.logprobs, strict=True)):
                mu = float(pi[t, token])
                if not ended and 0 < t <= 14 and chr(segment.actions[t - 1]) in LETTERS:
                    s = 1 - t / 14
                    mu = (1 - s) * mu + s * (token == W)
                    waits += token == W
                elif not ended and t > 14:
                    assert token not in (W, ord("w"))
                    mu += float(pi[t, [W, ord("w")]].sum()) * (token == E)
                    ends += token == E
                assert value == pytest.approx(math.log(mu), abs=1e-4)
                ended = ended or token == E
        assert waits > 20
        assert ends > 0

    def test_greedy_rows_are_replaced_under_either_setting(self, sampler):
        asked = requests(10, temperature=0)
        settings = {**PLAIN, "slow": LETTERS, "alpha": 0.7}
        first, second = (
            run(sampler(AlphaOne(**settings, imposed=imposed)), *asked) for imposed in ("forced", "trained")
        )
        assert first == second
        assert any(any(forced(completion)) for completion in first)


def logprobs(policy, prompt, drawn, temperature):
    """``[t, V]`` by the policy."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt.actions, *drawn]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


class TestMass:
    """That probability is moved as sampling and then replacing would move it."""

    N, V = 30000, 12

    def simulate(self, logits, temperature, replaced, share=0.0, target=0):
        """Counts of what comes of ``draw``, a coin that imposes the target, and a replacement, seed by seed."""
        rules = Rules.stack([SamplingParams(seed=s, temperature=temperature) for s in range(self.N)], logits.device)
        drawn = draw(logits.expand(self.N, -1), rules, torch.zeros(self.N, dtype=torch.int64)).tokens
        coins = torch.rand(self.N, generator=torch.Generator().manual_seed(5)) < share
        drawn = torch.where(torch.isin(drawn, torch.tensor(replaced, dtype=torch.int64)) | coins, target, drawn)
        return torch.bincount(drawn, minlength=self.V).tolist()

    @pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
    def test_moved_mass_is_that_of_replacing(self, temperature):
        logits = torch.randn(1, self.V, generator=torch.Generator().manual_seed(2))
        mu = move(logits.clone(), torch.tensor([0]), torch.tensor([3, 7]), 1, torch.tensor([temperature]))
        mu = (mu / temperature).softmax(-1)[0]
        pi = (logits / temperature).softmax(-1)[0]
        assert mu[1] == pytest.approx(float(pi[[1, 3, 7]].sum()), abs=1e-6)
        assert mu[[3, 7]].tolist() == [0, 0]
        rest = [0, 2, 4, 5, 6, 8, 9, 10, 11]
        assert mu[rest].tolist() == pytest.approx(pi[rest].tolist(), abs=1e-6)
        counts = self.simulate(logits, temperature, [3, 7], target=1)
        assert chi_square(counts, (mu * self.N).tolist()) < 4

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.97, 1.0])
    def test_mixed_in_mass_is_that_of_a_coin(self, share):
        logits = torch.randn(1, self.V, generator=torch.Generator().manual_seed(3))
        mu = mix(logits.clone(), torch.tensor([0]), 4, torch.tensor([share]), torch.tensor([0.7]))
        mu = (mu / 0.7).softmax(-1)[0]
        expected = (1 - share) * (logits / 0.7).softmax(-1)[0]
        expected[4] += share
        assert mu.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        counts = self.simulate(logits, 0.7, [], share, target=4)
        assert chi_square(counts, (mu * self.N).tolist()) < 4

    def test_greedy_moves_the_maximum(self):
        logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 0.0, 2.0]])
        moved = move(logits, torch.tensor([0, 1]), torch.tensor([1]), 0, torch.tensor([0.0, 0.0]))
        assert moved.argmax(-1).tolist() == [0, 2]

    def test_what_another_has_banned_is_not_forced(self):
        logits = torch.tensor([[0.0, -torch.inf], [0.0, 1.0]])
        forced = force(logits, torch.tensor([0, 1]), torch.tensor([1, 1]))
        assert forced.tolist() == [[0.0, -torch.inf], [-torch.inf, 1.0]]

    def test_rows_of_their_own_temperature_and_no_others_change(self):
        logits = torch.randn(4, self.V, generator=torch.Generator().manual_seed(4))
        before = logits.clone()
        alphaone = made(imposed="trained", n_think=4, alpha=1.0)
        courses = {
            0: course(alphaone, "abcde", temperature=0.5),
            2: course(alphaone, "ab A", temperature=2.0),
            3: course(alphaone, "a A", temperature=2.0),
        }
        alphaone.slows.tokens = lambda vocabulary: [5, 6]
        alphaone.waits, alphaone.words.ends = (8,), (9,)
        write(alphaone, courses, logits)
        assert torch.equal(logits[1], before[1])
        assert torch.equal(logits[2], before[2])  # t = T_m: the schedule is at 0
        late, pi = (logits[0] / 0.5).softmax(-1), (before[0] / 0.5).softmax(-1)
        assert late[9] == pytest.approx(float(pi[[9, 5, 6]].sum()), abs=1e-6)
        early, pi = (logits[3] / 2).softmax(-1), (before[3] / 2).softmax(-1)
        assert early[8] == pytest.approx(float(0.25 + 0.75 * pi[8]), abs=1e-6)

    def test_no_word_to_move_from_is_told(self):
        alphaone = made(slow=["Wait"])
        with pytest.raises(ValueError, match=r"slow = \['Wait'\]: no single token"):
            write(alphaone, {0: course(alphaone, "a" * 40, mass=True)}, torch.zeros(1, 256))


class TestMarks:
    """What was imposed is found again from tokens and seed alone."""

    @pytest.mark.parametrize("wait", ["W", "Wait"])
    def test_they_are_those_of_the_native_sampler(self, wait, sampler):
        asked = requests(60)
        alphaone = AlphaOne(**{**PLAIN, "wait": wait, "end": "END"})
        for (_, params), completion in zip(asked, run(sampler(alphaone), *asked), strict=True):
            found = alphaone.marks(tokens(completion), params)
            assert found[:31] == forced(completion)[:31]
            assert all(there for there, here in zip(found, forced(completion), strict=True) if here)

    def test_nothing_is_marked_where_it_trains(self):
        alphaone = made(imposed="trained")
        assert not any(alphaone.marks([ord("A"), W] * 30, SamplingParams(max_tokens=99)))


def test_what_is_known_of_a_tokenizer_outlives_a_sync(sampler, policy):
    alphaone = AlphaOne(**PLAIN)
    engine = sampler(alphaone)
    words = alphaone.words
    engine.sync(policy)
    assert alphaone.words is words
    alphaone.bind(SimpleNamespace(reply=lambda text: SimpleNamespace(actions=(1,)), decode=lambda tokens: "x"))
    assert alphaone.words is not words
    assert alphaone.words[7] == "x"


def test_empty_texts_are_refused():
    with pytest.raises(ValueError, match="delimiters and slow"):
        AlphaOne(delimiters=[""])


def test_calibration_measures_the_thinking_of_a_player():
    def trajectory(text):
        parts = [Segment("prompt", "given", (1,)), Segment("response", "policy", tuple(text.encode()), text=text)]
        return SimpleNamespace(segments=parts, response=text)

    asked = []

    def play(tasks, n, params):
        asked.append((tasks, n, params))
        return [[trajectory("abc</think>4")], [trajectory("abcdefg")]]

    renderer = SimpleNamespace(
        reply=lambda text: SimpleNamespace(actions=tuple(text.encode())), decode=lambda t: bytes(t).decode()
    )
    player = SimpleNamespace(play=play, sampling="as in training", sampler=SimpleNamespace(renderer=renderer))
    assert AlphaOne().calibrate(player, ["a", "b"]) == {"n_think": 9.0, "answers": 2, "unfinished": 1}
    assert asked == [(["a", "b"], 1, "as in training")]
