"""Teach a small model to think in <think> tags, from nothing: for trying out what steers thinking.

    python scripts/think.py FOLDER [--steps 8000] [--held-out 200] [--seed 0]

Trains a Llama of 0.7 million parameters on the thoughts of scripts/chains.py. Leaves in FOLDER the model as Hugging
Face saves it, with tokenizer and chat template, and questions that it has not seen: ``heldout.jsonl`` and
``calibration.jsonl``.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from chains import chain, example, question
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED = -100
WORDS = r"\d|\n+| ?[A-Za-z]+|[^\dA-Za-z\n]+"
"""A digit is a token of its own, and so is a paragraph break."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over what the examples say."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    draw = random.Random(f"tokenizer {seed}")
    texts = ["system\nuser\nassistant\n"] * 100
    for _ in range(500):
        asked, said = example(chain(draw), draw)
        texts += [message["content"] for message in asked] + ["".join(text for text, _ in said)]
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, min_frequency=20, initial_alphabet=alphabet, special_tokens=marks,
                                   show_progress=False)
    )  # fmt: skip
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    whole = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    whole.chat_template = TEMPLATE
    return whole


def encode(words: PreTrainedTokenizerFast, asked: list, said: list) -> tuple[list[int], list[int]]:
    """Token ids, and what is to be predicted at each."""
    ids = list(words.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
    labels = [IGNORED] * len(ids)
    for text, learned in [*said, ("<|im_end|>", True)]:
        own = words(text, add_special_tokens=False)["input_ids"]
        ids += own
        labels += own if learned else [IGNORED] * len(own)
    return ids, labels


def batches(words: PreTrainedTokenizerFast, draw: random.Random, size: int, avoid: set[str]) -> Iterator[dict]:
    """``[size, T]`` fresh examples without end, padded on the right; those of a batch are about equally long."""
    while True:
        rows: list[tuple[list[int], list[int]]] = []
        while len(rows) < 16 * size:
            made = chain(draw)
            if question(made) not in avoid:
                rows.append(encode(words, *example(made, draw)))
        rows.sort(key=lambda row: len(row[0]))
        for first in draw.sample(range(0, len(rows), size), 16):
            own = rows[first : first + size]
            width = len(own[-1][0])
            yield {
                "input_ids": torch.tensor([ids + [words.pad_token_id] * (width - len(ids)) for ids, _ in own]),
                "labels": torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in own]),
            }


def train(words: PreTrainedTokenizerFast, chosen: argparse.Namespace, avoid: set[str]) -> LlamaForCausalLM:
    """AdamW, with a warm-up and a cosine."""
    torch.manual_seed(chosen.seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=chosen.width, intermediate_size=3 * chosen.width,
        num_hidden_layers=chosen.layers, num_attention_heads=chosen.width // 32,
        num_key_value_heads=chosen.width // 32, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen.lr, weight_decay=0.1, betas=(0.9, 0.98), fused=True)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, chosen.lr, chosen.steps, pct_start=0.05)
    made, begun = batches(words, random.Random(f"training {chosen.seed}"), chosen.batch, avoid), time.monotonic()
    for step in range(1, chosen.steps + 1):
        loss = model(**next(made)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        course.step()
        if step % 50 == 0 or step == chosen.steps:
            print(f"step {step}: loss {loss.item():.4f}, {time.monotonic() - begun:.0f} s", flush=True)
    return model


def rows(number: int, draw: random.Random) -> list[dict[str, str]]:
    """Questions and answers."""
    made = (chain(draw) for _ in range(number))
    return [{"question": question(steps), "answer": str(steps[-1].result)} for steps in made]


def write(path: Path, lines: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    held = rows(chosen.held_out, random.Random(f"held out {chosen.seed}"))
    words = tokenizer(chosen.seed)
    model = train(words, chosen, {row["question"] for row in held})
    model.save_pretrained(chosen.folder)
    words.save_pretrained(chosen.folder)
    write(chosen.folder / "heldout.jsonl", held)
    write(chosen.folder / "calibration.jsonl", rows(100, random.Random(f"calibration {chosen.seed}")))


if __name__ == "__main__":
    main()
