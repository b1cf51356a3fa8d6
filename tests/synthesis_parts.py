"""Small real parts for the tests of synthesis: a player whose policy solves each question with a known probability."""

import asyncio
import os
import random
import re
from collections import Counter
from types import SimpleNamespace

import hone
from hone.envs.single_turn import SingleTurn
from hone.seats import SamplingParams
from hone.types import Completion, Score, Segment, Task


def task(text, answer="42", name=None, **meta):
    return Task(name or f"task/{text}", [{"role": "user", "content": text}], answer, meta)


class Tasks:
    """A source over a list."""

    def __init__(self, tasks):
        self.tasks, self.cursor = list(tasks), 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.cursor == len(self.tasks):
            raise StopIteration
        self.cursor += 1
        return self.tasks[self.cursor - 1]

    def state_dict(self):
        return {"cursor": self.cursor}

    def load_state_dict(self, state):
        self.cursor = state["cursor"]


class Rater:
    """A sampler that writes RIGHT as often as the prompt says, else WRONG.

    Of "p=0.75" each answer is right with this probability, of "c=12,9" 12 of the first 16 answers and 9 of all later
    16. What the prompt says first counts.
    """

    def __init__(self):
        self.processors, self.renderer = [], self
        self.stop_tokens = frozenset()
        self.seen = []
        self.answered = Counter()

    def prompt(self, messages):
        text = " / ".join(str(message["content"]) for message in messages)
        return Segment("prompt", "given", (1,), text=text)

    def decode(self, actions):
        return ""

    def sync(self, policy): ...
    def close(self): ...

    async def sample(self, context, params):
        await asyncio.sleep(0)
        text = context[0].text
        self.seen.append((text, params))
        kind, told = re.search(r"([pc])=([\d.,]*\d)", text).groups()
        if kind == "p":
            right = random.Random(params.seed).random() < float(told)
        else:
            turn, number = divmod(self.answered[text], 16)
            self.answered[text] += 1
            counts = told.split(",")
            right = number < int(counts[min(turn, len(counts) - 1)])
        stop = "length" if "endless" in text and not right else "eos"
        segment = Segment("response", "policy", (7, 8), (-0.5, -0.5), "RIGHT" if right else "WRONG", train=True)
        return Completion((segment,), stop, 0)


def says_right(task, trajectory):
    return Score(float(trajectory.response == "RIGHT"))


class Player:
    """Plays in an event loop of its own, and judges beside it.

    Args:
        faults: How often the judge fails on the trajectories of a question before it works; -1 for always.
    """

    def __init__(self, faults=None, weights="weights-0"):
        self.sampler, self.environment, self.verifier = Rater(), SingleTurn(), says_right
        self.sampling = SamplingParams(max_tokens=8)
        self.policy = SimpleNamespace(device="cpu", path="dice", state_dict=dict)
        self.weights, self.faults = weights, dict(faults or {})
        self.plays = []
        """Of each play: the questions, the number of answers, the parameters, and the verifier."""
        self.judged = Counter()
        self.sampled = 0

    def fingerprint(self):
        return self.weights

    def run(self, work):
        return asyncio.run(work)

    def play(self, tasks, n, params, verifier=None, environment=None, finished=None):
        self.plays.append(([t.prompt[-1]["content"] for t in tasks], n, params, verifier))
        where = environment or self.environment

        async def judge(task, trajectory):
            text = str(task.prompt[-1]["content"])
            left = self.faults.get(text, 0)
            if left:
                self.faults[text] = left - 1
                return Score(None, error="the judge is out")
            self.judged[text] += 1
            return (verifier or self.verifier)(task, trajectory)

        async def everything():
            plays = (where.play_group(t, n, sampler=self.sampler, verify=judge, params=params) for t in tasks)
            return await asyncio.gather(*plays)

        groups = list(asyncio.run(everything()))
        for place, group in enumerate(groups):
            if finished is not None:
                finished(place, group)
        return groups

    @property
    def rollouts(self):
        """Answers that were sampled so far."""
        return sum(len(texts) * n for texts, n, *_ in self.plays)


class Scripted:
    """A writer that gives to a question the replies of a function, and counts them.

    Args:
        reply: Called with the text of the question and the number of the call on it, from 0; an exception is raised.
    """

    name = "scripted"

    def __init__(self, reply):
        self.reply = reply
        self.calls = Counter()
        self.read = []

    def bind(self, player):
        self.player = player

    async def write(self, messages, *, seed):
        await asyncio.sleep(0)
        self.read.append((list(messages), seed))
        text = asked(messages)
        number = self.calls[text]
        self.calls[text] += 1
        made = self.reply(text, number)
        if isinstance(made, Exception):
            raise made
        return made


def asked(messages):
    """The question within a request that was made with the instruction ``{question}``."""
    content = messages[-1]["content"]
    return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


def tagged(text):
    return f"<question>{text}</question>"


@hone.settings
class Twice:
    """A writer that asks for a letter twice, and that of several processes only the first may ask."""

    name: str = "twice"

    def bind(self, player): ...

    async def write(self, messages, *, seed):
        assert os.environ.get("RANK", "0") == "0"
        text = messages[-1]["content"]
        return f"<question>{text} and {text}, {seed % 7}</question>"


@hone.settings
class Fails:
    """A writer that answers once, and then no more."""

    name: str = "fails"

    def __post_init__(self):
        self.answered = False

    def bind(self, player): ...

    async def write(self, messages, *, seed):
        if self.answered:
            raise ConnectionError("refused")
        self.answered = True
        return "<question>What else?</question>"
