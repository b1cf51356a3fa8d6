"""transformers' generate, on one padded batch."""

import time

import torch
from transformers import AutoTokenizer

from benchmarks import memory, models, work
from benchmarks.engine import Turns
from benchmarks.rates import wait


def main() -> None:
    turns = Turns()
    s = turns.settings
    tokenizer = AutoTokenizer.from_pretrained(s["folder"])
    model = models.load(s, s["dtype"]).eval()
    prompts = [work.rendered(tokenizer, chat) for chat in s["messages"]]
    model.generation_config.eos_token_id = None
    turns.reply()
    for request in turns:
        chosen = [prompts[i % len(prompts)] for i in range(request["sequences"])]
        width = max(map(len, chosen))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in chosen], device=s["device"])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in chosen], device=s["device"])
        torch.manual_seed(request["seed"])
        memory.device_reset(s["device"])
        started = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=request["tokens"], pad_token_id=0,
            )  # fmt: skip
        wait(s["device"])
        seconds = time.perf_counter() - started
        turns.reply(
            seconds=seconds, tokens=(out.shape[1] - width) * len(chosen), prompts=list(map(len, prompts)),
            **memory.peaks(), device_peak=memory.device_peak(s["device"]),
        )  # fmt: skip


if __name__ == "__main__":
    main()
