"""Plain transformers on as many tokens: forward and backward with the next-token loss, no padding, no optimiser."""

import time

import torch

from benchmarks import memory, models
from benchmarks.engine import Turns
from benchmarks.rates import wait

ROWS = 1024
"""Tokens of a micro-batch, about, where the request does not say: full logits are made."""


def main() -> None:
    turns = Turns()
    s = turns.settings
    model = models.load(s, s["dtype"]).train()
    vocabulary = model.config.get_text_config().vocab_size
    turns.reply()
    for request in turns:
        length, left, seconds, done = request["length"], request["tokens"], 0.0, 0
        memory.reset()
        memory.device_reset(s["device"])
        before = memory.peak(children=False)
        while left >= length:
            rows = min(max(1, request.get("micro", ROWS) // length), left // length)
            ids = torch.randint(vocabulary, (rows, length), device=s["device"])
            started = time.perf_counter()
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            wait(s["device"])
            seconds += time.perf_counter() - started
            left, done = left - rows * length, done + rows * length
        turns.reply(
            seconds=seconds, useful=done, trained=done, **memory.peaks(), grown=memory.peak(children=False) - before,
            device_peak=memory.device_peak(s["device"]),
        )  # fmt: skip
        model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
