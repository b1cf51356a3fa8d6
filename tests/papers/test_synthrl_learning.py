"""Synthesis makes a set harder and keeps its answers right: with a model that has learned something, and an oracle.

A question is four letters with digits among them, and its answer the letters. A small model is trained on questions
with few digits, so that more of them are harder, in degrees. The writer knows no answers; a third of what it writes is
harder, and the rest is easier, or has another answer.
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
    """Questions that are no part of the training, of different difficulty."""

    count: int = 80
    digits: int = 3

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
    """Adds digits (harder), takes one away (easier), or changes a letter (another answer); which, the seed says."""

    name: str = "scribbler"

    def bind(self, player): ...

    async def write(self, messages, *, seed):
        draw, text = random.Random(seed), list(messages[-1]["content"])
        kind = draw.choice(["harder", "easier", "corrupt"])
        digits = [i for i, letter in enumerate(text) if letter in DIGITS]
        if kind == "corrupt":
            place = draw.choice([i for i, letter in enumerate(text) if letter in LETTERS])
            text[place] = draw.choice([letter for letter in LETTERS if letter != text[place]])
        elif kind == "easier" and digits:
            del text[draw.choice(digits)]
        else:
            for _ in range(draw.randint(1, 6)):
                text.insert(draw.randrange(len(text) + 1), draw.choice(DIGITS))
        return f"<question>{''.join(text)}</question>"


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny_tokenizer):
    """The folder of a model that was trained from scratch, by plain supervision."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=261, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, bos_token_id=None, eos_token_id=256, pad_token_id=257,
        )
    )  # fmt: skip
    draw, steps = random.Random(0), 400
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        texts = [question(draw, draw.choices(range(5), [8, 6, 4, 2, 1])[0]) for _ in range(96)]
        rows = [([259, *text.encode(), 256, 260], [*oracle(text).encode(), 256]) for text in texts]
        width = max(len(head) + len(answer) for head, answer in rows)
        padded = [[*head, *answer, *[257] * (width - len(head) - len(answer))] for head, answer in rows]
        ids, labels = torch.tensor(padded), torch.tensor(padded)
        for row, (head, answer) in enumerate(rows):
            labels[row, : len(head)] = labels[row, len(head) + len(answer) :] = -100
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(loss.item())
    folder = tmp_path_factory.mktemp("learned")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


def synthesised(learned, folder, **changes):
    """The accepted and the rejected rows."""
    source = SynthRL(source=Strings(), writer=Scribbler(), store=str(folder), instruction=SLOT, attempts=4, **changes)
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


def right(row):
    return oracle(row["question"]) == row["seed_answer"]


def test_it(learned, folder):
    for changes in ({}, {"acceptance": "posterior"}, {"fresh": "require"}, {"min_passes": 0}, {"choose": "hardest"}):
        import time
        t=time.time()
        accepted, rejected = synthesised(learned, folder, **changes)
        print(changes, len(accepted), time.time()-t, fmean(drops(accepted)), sorted(drops(accepted)))
        from hone.report.synthesis import synthesis
        print(synthesis(folder))
        print(sum(oracle(r["question"])!=r["answer"] for r in accepted))
    assert 0
