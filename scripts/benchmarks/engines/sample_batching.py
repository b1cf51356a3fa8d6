"""transformers' continuous batching: ``generate_batch``, with its own choice of every setting but the cache's size."""

import logging
import time

from transformers import AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks import memory, models, work
from benchmarks.engine import Turns
from benchmarks.rates import wait


class Errors(logging.Handler):
    """Keeps the last error: a failure inside is logged, and not raised."""

    last = "no sequence was finished, and nothing was said"

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else record.getMessage()
            self.last = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)


def main() -> None:
    turns = Turns()
    s = turns.settings
    errors = Errors()
    logging.getLogger("transformers").addHandler(errors)
    tokenizer = AutoTokenizer.from_pretrained(s["folder"])
    model = models.load(s, s["dtype"]).eval()
    prompts = [work.rendered(tokenizer, chat) for chat in s["messages"]]
    turns.reply()
    for request in turns:
        chosen = [prompts[i % len(prompts)] for i in range(request["sequences"])]
        config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=request["tokens"], eos_token_id=-1,
            pad_token_id=0,
        )  # fmt: skip
        # On a CPU it cannot tell how much memory there is for the cache.
        room = {} if s["device"].startswith("cuda") else {"num_blocks": blocks(chosen, request["tokens"])}
        memory.device_reset(s["device"])
        started = time.perf_counter()
        made = model.generate_batch(
            chosen, generation_config=config, progress_bar=False,
            continuous_batching_config=ContinuousBatchingConfig(seed=request["seed"], **room),
        )  # fmt: skip
        wait(s["device"])
        seconds = time.perf_counter() - started
        tokens = sum(len(output.generated_tokens) for output in made.values())
        if tokens < len(chosen) * request["tokens"]:
            turns.reply(error=errors.last)
            continue
        turns.reply(
            seconds=seconds, tokens=tokens, prompts=list(map(len, prompts)), **memory.peaks(),
            device_peak=memory.device_peak(s["device"]),
        )  # fmt: skip


def blocks(prompts: list[list[int]], tokens: int, page: int = 256) -> int:
    """Pages for all sequences at once, and a few more."""
    return sum(-(-(len(prompt) + tokens) // page) for prompt in prompts) + 8


if __name__ == "__main__":
    main()
