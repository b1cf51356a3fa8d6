"""hone's native sampler."""

import asyncio
import time

from benchmarks import memory
from benchmarks.engine import Turns
from hone.policies.causal_lm import CausalLM
from hone.runtime import device
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams


def main() -> None:
    turns = Turns()
    s = turns.settings
    policy = CausalLM(path=s["folder"], dtype=s["dtype"], random_weights=0 if s["random"] else None)
    policy.load(device(s["device"]))
    policy.renderer.stop_tokens = frozenset()  # the end token is a token like any other: all get the same number
    contexts = [policy.renderer.prompt(chat) for chat in s["messages"]]
    sampler = NativeSampler(max_sequences=s["most"])
    sampler.sync(policy)

    async def sample(sequences: int, tokens: int, seed: int) -> int:
        params = SamplingParams(max_tokens=tokens, seed=seed)
        completions = await asyncio.gather(
            *(sampler.sample([contexts[i % len(contexts)]], params.keyed(i)) for i in range(sequences))
        )
        return sum(len(segment) for completion in completions for segment in completion.segments)

    turns.reply()
    for request in turns:
        memory.device_reset(s["device"])
        started = time.perf_counter()
        made = asyncio.run(sample(request["sequences"], request["tokens"], request["seed"]))
        seconds = time.perf_counter() - started
        turns.reply(
            seconds=seconds, tokens=made, prompts=[len(c) for c in contexts], **memory.peaks(),
            device_peak=memory.device_peak(s["device"]),
        )  # fmt: skip


if __name__ == "__main__":
    main()
