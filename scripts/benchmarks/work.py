"""What the engines are given to do: prompts, a reward that is the same for all, and groups made by hand."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

SUBJECTS = [
    "a lighthouse", "an old clock", "two rivals", "a lost letter", "the first snow", "a small town", "a late train",
    "an orchard", "a stubborn mule", "the night shift", "a broken radio", "a river ferry", "three sisters", "a map",
    "a winter market", "the last exam",
]  # fmt: skip


def messages(count: int, folder: str, tokens: int = 0) -> list[list[dict[str, str]]]:
    """Chats that ask for long answers, all different.

    Args:
        count: Of them.
        folder: Of the model, whose tokenizer measures.
        tokens: At least so many in each rendered chat, and hardly more; 0 leaves them short.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def length(text: str) -> int:
        return len(rendered(tokenizer, [{"role": "user", "content": text}]))

    asked = [f"Write a long story about {SUBJECTS[i % len(SUBJECTS)]}, number {i}." for i in range(count)]
    if tokens:
        asked = [_longer(text, tokens, length) for text in asked]
    return [[{"role": "user", "content": text}] for text in asked]


def _longer(text: str, tokens: int, length: Any) -> str:
    draw = random.Random(zlib.crc32(text.encode()))
    words: list[str] = []
    while length(made := f"Keep these words in mind: {' '.join(words)}. {text}") < tokens:
        words.append(draw.choice(["amber", "river", "stone", "cloud", "paper", "salt", "green", "door", "seven"]))
    return made


def rendered(tokenizer: Any, chat: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a chat up to where the assistant speaks."""
    text = tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def by_hash(text: str) -> float:
    """A reward in [0, 1) that tells any two different texts apart: every group of them has a signal."""
    return zlib.crc32(text.encode()) / 2**32


def judge(task: Any, trajectory: Any) -> float:
    """hone's verifier: :func:`by_hash` where the task is to have a signal, else 0."""
    return by_hash(trajectory.response) if task.meta["signal"] else 0.0


def groups(count: int, context: int, siblings: int, response: int, vocabulary: int, seed: int = 0) -> list[Any]:
    """Judged groups of random tokens, one context each, with advantages of both signs."""
    from hone.types import Group, Segment, Task, Trajectory

    draw = random.Random(seed)

    def steps(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(n))

    made = []
    for g in range(count):
        task = Task(f"made {g}", [{"role": "user", "content": "?"}])
        prompt = Segment("prompt", "given", steps(context))
        played = [
            Trajectory(
                task,
                [prompt, Segment("response", "policy", steps(response), (-5.0,) * response, train=True)],
                reward=float(i % 2),
                advantage=i % 2 - 0.5,
            )
            for i in range(siblings)
        ]
        made.append(Group(task, played))
    return made


def shape_of(made: Sequence[Any]) -> list[tuple[int, list[int]]]:
    """(context, responses) of each group, for :func:`benchmarks.arithmetic.useful_tokens`."""
    return [(context_length(group), [t.trained for t in group]) for group in made]


def context_length(group: Any) -> int:
    """Tokens that were given to all siblings before the policy's first."""
    given = takewhile(lambda segment: segment.source == "given", group.trajectories[0].segments)
    return sum(map(len, given))
