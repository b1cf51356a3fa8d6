"""Synthesis makes a set harder and keeps its answers right: with a model that has learned something, and an oracle.

A question is four letters with digits among them, and its answer the letters. A small model is trained on questions
with few digits, so that more of them are harder, in degrees. The writer knows no answers; a third of what it writes is
harder, and the rest is easier, or has another answer.

How fast the model learns goes by the last bits of its products, which are others on another processor. So it is trained
until it knows so much, not for so long: then what the tests count is about the same everywhere.
"""

import json
import random
from pathlib import Path
from statistics import fmean

import pytest

import hone
from hone.papers.synthrl import SynthRL
from hone.policies.causal_lm import CausalLM
from hone.session import make
from hone.synthesis.rewriting import SLOT
from hone.types import Task

LETTERS, DIGITS = "abcdefgh", "0123456789"


def oracle(question):
    return "".join(letter for letter in question if letter in LETTERS)


def exact(task, trajectory):
    return trajectory.response == task.answer


def question(draw, digits):
    text = [draw.choice(LETTERS) for _ in range(4)]
    for _ in range(digits):
        text.insert(draw.randrange(len(text) + 1), draw.choice(DIGITS))
    return "".join(text)


@hone.settings
class Strings:
    """Questions that are no part of the training, with up to ``digits`` digits: so easy that most can be seeds."""

    count: int = 80
    digits: int = 1

    def __post_init__(self):
        self.cursor = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.cursor == self.count:
            raise StopIteration
        self.cursor += 1
        text = question(random.Random(f"task {self.cursor}"), self.cursor % (self.digits + 1))
        return Task(f"s/{self.cursor}", [{"role": "user", "content": text}], oracle(text))

    def state_dict(self):
        return {"cursor": self.cursor}

    def load_state_dict(self, state):
        self.cursor = state["cursor"]


@hone.settings
class Scribbler:
    """Adds digits (harder), takes one away (easier), or changes letters (another answer); which, the seed says.

    Two letters: there are two that some small models take for each other, and agreement is no proof against that.
    """

    name: str = "scribbler"

    def bind(self, player): ...

    async def write(self, messages, *, seed):
        draw, text = random.Random(seed), list(messages[-1]["content"])
        kind = draw.choice(["harder", "easier", "corrupt"])
        digits = [i for i, letter in enumerate(text) if letter in DIGITS]
        if kind == "corrupt":
            for place in draw.sample([i for i, letter in enumerate(text) if letter in LETTERS], 2):
                text[place] = draw.choice([letter for letter in LETTERS if letter != text[place]])
        elif kind == "easier" and digits:
            del text[draw.choice(digits)]
        else:
            for _ in range(draw.randint(1, 8)):
                text.insert(draw.randrange(len(text) + 1), draw.choice(DIGITS))
        return f"<question>{''.join(text)}</question>"


def padded(texts):
    """Conversations of equal width, and their labels: -100 but where the answers are."""
    import torch

    rows = [([259, *text.encode(), 256, 260], [*oracle(text).encode(), 256]) for text in texts]
    width = max(len(head) + len(answer) for head, answer in rows)
    ids = torch.tensor([[*head, *answer, *[257] * (width - len(head) - len(answer))] for head, answer in rows])
    labels = torch.full_like(ids, -100)
    for row, (head, answer) in enumerate(rows):
        labels[row, len(head) : len(head) + len(answer)] = torch.tensor(answer)
    return {"input_ids": ids, "labels": labels}


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny_tokenizer):
    """The folder of a model that was trained from scratch, by plain supervision, until it knows so much."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=261, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, bos_token_id=None, eos_token_id=256, pad_token_id=257,
        )
    )  # fmt: skip
    draw = random.Random(0)
    held = padded([question(random.Random(f"held {i}"), 2) for i in range(256)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)  # at a constant rate, to stop anywhere
    for step in range(1000):
        texts = [question(draw, draw.choices(range(5), [8, 6, 4, 2, 1])[0]) for _ in range(96)]
        model(**padded(texts)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            if step % 5 == 4 and model(**held).loss < 0.04:  # nats a token: some five of six answers are right
                break
    else:
        pytest.fail("the model has not learned in 1000 steps what takes 150 to 400")
    folder = tmp_path_factory.mktemp("learned")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


def synthesised(learned, folder, **changes):
    """The accepted and the rejected rows."""
    source = SynthRL(source=Strings(), writer=Scribbler(), store=str(folder), instruction=SLOT, attempts=6, **changes)
    config = hone.Config(
        model=CausalLM(path=learned, dtype="float32"), tasks=source, verifier=exact, sampling={"max_tokens": 8},
        verification={"workers": 1}, device="cpu", folder=str(folder / "run"),
    )  # fmt: skip
    make(config, "synth", lambda line: None)
    files = (Path(folder, f"{name}.jsonl") for name in ("accepted", "rejected"))
    return [list(map(json.loads, file.read_text().splitlines())) for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("set")


def passes(rows, name):
    return [row["rollouts"][name]["passes"] for row in rows]


def drops(rows):
    """By how many of 16 fresh passes the rewrites are harder than their seeds."""
    return [b - a for b, a in zip(passes(rows, "fresh_before"), passes(rows, "fresh_after"), strict=True)]


def is_right(row):
    """Whether the rewrite has the answer of its seed."""
    return oracle(row["question"]) == oracle(row["seed"]["question"])


def test_the_set_is_harder_and_every_answer_is_right(learned, folder):
    accepted, rejected = synthesised(learned, folder)
    assert len(accepted) >= 10
    assert all(oracle(row["question"]) == row["answer"] for row in accepted)
    assert fmean(drops(accepted)) > 2, "by rollouts that had no part in the choice"
    tasks = {row["seed"]["id"]: row["rollouts"]["before"]["passes"] for row in (*accepted, *rejected)}
    assert len(tasks) == 80
    union = [*tasks.values(), *passes(accepted, "fresh_after")]
    assert fmean(union) < fmean(tasks.values()) - 0.4


def test_wrong_rewrites_are_rejected_because_the_model_does_not_agree(learned, folder):
    _, rejected = synthesised(learned, folder)
    wrong = [row for row in rejected if row.get("question") is not None and not is_right(row)]
    assert len(wrong) >= 40
    assert {row["reason"] for row in wrong} <= {"too hard", "repeated"}
    easier = [row for row in rejected if row["reason"] == "not harder"]
    assert len(easier) >= 20
    assert all(map(is_right, easier))
    accepted, _ = synthesised(learned, folder, min_passes=0)  # a lower bound of 0 asks for no agreement
    assert sum(not is_right(row) for row in accepted) >= 20


def test_the_rule_by_posteriors_takes_fewer_and_harder(learned, folder):
    """A drop of 2 of 16 is often chance: some that the fixed rule accepts are no harder when played afresh."""
    fixed, _ = synthesised(learned, folder)
    posterior, _ = synthesised(learned, folder, acceptance="posterior")
    assert 5 <= len(posterior) < len(fixed)
    assert fmean(drops(posterior)) > fmean(drops(fixed))
    assert all(map(is_right, posterior))
