"""``scripts/think.py``: the thoughts that it teaches are right, mend what is wrong, and are learned from in part."""

import importlib
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def chains(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("chains")


@pytest.fixture
def think(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("think")


def worked(term):
    """From the left: what a step, or a part of a check, comes to."""
    digit, *rest = term.split()
    value = int(digit)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[sign] % 10
    return str(value)


def test_a_thought_by_hand(chains):
    steps = [chains.Step("a", 7, (("*", 9), ("+", 5))), chains.Step("b", 8, (("-", 9), ("*", 3)))]
    assert [step.result for step in steps] == [8, 7]
    assert chains.question(steps) == "7\na) * 9 + 5\nb) - 9 * 3"
    assert steps[0].check() == "Wait, 7 * 9 = 3, 3 + 5 = 8. So 8"
    fast = "".join(text for text, _ in chains.thought(steps, random.Random(0), check=0, early=0))
    assert fast == "<think>\na) 7 * 9 + 5 = 8\n\nb) 8 - 9 * 3 = 7\n\n</think>\n7"
    early = "".join(text for text, _ in chains.thought(steps, random.Random(0), check=0, early=1))
    assert early == "<think>\na) 7 * 9 + 5 = 8\n\n</think>\nb) 8 - 9 * 3 = 7\n7"
    assert chains.draft(steps) == [("<think>\na) 8\n\nb) 7\n\n</think>\n7", True)]


def test_every_thought_is_right_and_mends_what_is_wrong(chains):
    draw, mended, checked, early = random.Random(3), 0, 0, 0
    for _ in range(400):
        steps = chains.chain(draw)
        first, *asked = chains.question(steps).splitlines()
        said = "".join(text for text, _ in chains.thought(steps, draw))
        thought, answer = said.split("</think>\n")
        assert answer.splitlines()[-1] == worked(" ".join([first, *(line[3:] for line in asked)]))
        early += "=" in answer
        digit, wrong = first, False
        for paragraph in thought.removeprefix("<think>\n").split("\n\n")[:-1]:
            if paragraph.startswith("Wait"):
                assert all(worked(term) == result for term, result in re.findall(r"(\d [-+*] \d) = (\d)", paragraph))
                assert paragraph.endswith(f"So {digit}")
                mended, checked, wrong = mended + wrong, checked + 1, False
            else:
                assert not wrong  # a wrong step is checked before the next
                term, result = paragraph[3:].split(" = ")
                assert f"{paragraph[:3]}{term[2:]}" == asked.pop(0)
                assert term[0] == digit  # which goes on from what is right
                digit = worked(term)
                wrong = digit != result
        assert not wrong
    assert mended > 100
    assert checked > 2 * mended
    assert 40 < early < 120  # a fifth


def test_what_is_wrong_is_not_learned(chains):
    draw = random.Random(5)
    for _ in range(200):
        steps = chains.chain(draw)
        said = chains.thought(steps, draw, check=0.5, early=0)
        for (before, _), (text, learned) in pairwise(said):
            if before.endswith(" = "):
                assert learned == (worked(before[3:].removesuffix(" = ")) == text)
            else:
                assert learned


def test_drills_are_right_and_only_their_results_are_learned(chains):
    said = chains.drill(random.Random(1), lines=200)
    lines = "".join(text for text, _ in said).splitlines()
    assert len(lines) == 200
    assert all(re.fullmatch(r"\d( [-+*] \d){1,2} = \d", line) for line in lines)
    assert all(worked(line[:-4]) == line[-1] for line in lines)
    assert "".join(text for text, learned in said if learned) == "".join(line[-1] for line in lines)


def test_shares_of_drills_and_drafts(chains):
    draw = random.Random(2)
    asked = [chains.example(chains.chain(draw), draw)[0] for _ in range(1000)]
    assert 340 < sum(messages[0]["content"] == chains.DRILL for messages in asked) < 460
    assert 150 < sum(messages[0]["content"] == chains.DRAFT for messages in asked) < 250


def test_tokens_are_digits_breaks_and_tags_and_labels_leave_out_what_is_not_learned(think, chains):
    words = think.tokenizer(0)
    asked = [{"role": "user", "content": "7 * 9"}]
    said = [("<think>\n7 * 9 = ", True), ("4", False), ("\n\n", True), ("Wait, 3", True), ("\n\n</think>\n3", True)]
    ids, labels = think.encode(words, asked, said)
    text = "<|im_start|>user\n7 * 9<|im_end|>\n<|im_start|>assistant\n"
    assert words.decode(ids) == text + "".join(part for part, _ in said) + "<|im_end|>"
    tokens = [words.decode([i]) for i in ids]
    assert [tokens.count(token) for token in ("\n\n", "<think>", "</think>", "Wait")] == [2, 1, 1, 1]
    learned = "".join(words.decode([i]) for i in labels if i != think.IGNORED)
    assert learned == "<think>\n7 * 9 = \n\nWait, 3\n\n</think>\n3<|im_end|>"
    assert all(label in (i, think.IGNORED) for i, label in zip(ids, labels, strict=True))


def test_it_trains_a_model_that_hone_can_sample(think, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = ["--steps", "2", "--batch", "2", "--width", "32", "--layers", "1", "--held-out", "3"]
    monkeypatch.setattr("sys.argv", ["think.py", str(tmp_path), *given])
    think.main()
    model, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([words("7 * 9")["input_ids"]])
    assert model(ids).logits.shape == (1, 3, len(words))
    held = (tmp_path / "heldout.jsonl").read_text().splitlines()
    assert len(held) == 3
    assert not set(held) & set((tmp_path / "calibration.jsonl").read_text().splitlines())
