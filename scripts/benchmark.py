"""Measure the native sampler beside Hugging Face generate, and the memory of the head.

    python scripts/benchmark.py sampling [--dtype bfloat16] [--tokens 64] [--rounds 3]
    python scripts/benchmark.py alphaone [--imposed forced] [--dtype bfloat16] [--tokens 64] [--rounds 3]
    python scripts/benchmark.py head

Prints Markdown rows for BENCHMARKS.md. Sampling also prints the rates that its steps would have if they did nothing
but copy the weights, or nothing but multiply by them.
"""

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from hone.papers.alphaone import AlphaOne
from hone.policies import head
from hone.policies.causal_lm import CausalLM
from hone.runtime import device
from hone.samplers.native import NativeSampler
from hone.seats import Decoding, SamplingParams

PROMPTS = [f"Tell me about the number {n} in a few sentences, starting with its neighbours." for n in range(3, 11)]


def sampling(dtype: str, tokens: int, rounds: int, sequences: int, preamble: int) -> None:
    """Tokens a second for 8 prompts, in turn by both samplers, with the end token banned so that lengths are equal."""
    policy = CausalLM(path="smollm2-135m", dtype=dtype)
    policy.load(device("auto"))
    stop = sorted(policy.renderer.stop_tokens)

    def ban(rows: Sequence[Decoding], logits: torch.Tensor) -> torch.Tensor:
        logits[:, stop] = -torch.inf
        return logits

    sampler = NativeSampler(max_sequences=sequences, processors=[ban])
    sampler.sync(policy)
    before = (
        "Read this list of numbers first: " + " ".join(str(n % 10) for n in range(preamble // 2)) if preamble else ""
    )
    contexts = [policy.renderer.prompt([{"role": "user", "content": f"{before} {text}"}]) for text in PROMPTS]
    each = sequences // len(PROMPTS)

    async def native_round(seed: int) -> int:
        params = SamplingParams(max_tokens=tokens, seed=seed)
        completions = await asyncio.gather(
            *(sampler.sample([context], params.keyed(i, c)) for c, context in enumerate(contexts) for i in range(each))
        )
        return sum(len(segment) for completion in completions for segment in completion.segments)

    tokenizer = policy.renderer.tokenizer
    tokenizer.padding_side = "left"
    texts = [context.text for context in contexts for _ in range(each)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(policy.device)

    def generate_round(seed: int) -> int:
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = policy.model.generate(
                **inputs, do_sample=True, top_k=0, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=stop[0]
            )
        return (out.shape[1] - inputs["input_ids"].shape[1]) * out.shape[0]

    rates = {"hone native": [], "transformers generate": []}
    for seed in range(rounds + 1):
        for name, play in (
            ("hone native", lambda seed=seed: asyncio.run(native_round(seed))),
            ("transformers generate", lambda seed=seed: generate_round(seed)),
        ):
            started = time.perf_counter()
            made = play()
            if seed:  # the first round warms up
                rates[name].append(made / (time.perf_counter() - started))
    for name, values in rates.items():
        low, high = min(values), max(values)
        print(f"| {name} | {dtype} | {sequences} | {tokens} | {statistics.median(values):.0f} | {low:.0f}-{high:.0f} |")
    for name, seconds in floors(policy, sequences).items():
        print(f"| {name} | {dtype} | {sequences} | {tokens} | {sequences / seconds:.0f} | |")
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    print(f"ratio, median of {rounds} rounds: {statistics.median(ratios):.2f}")


class Timed:
    """A processor that knows the processor time spent in it."""

    def __init__(self, processor: AlphaOne) -> None:
        self.processor, self.bind, self.seconds = processor, processor.bind, 0.0

    def __call__(self, rows: Sequence[Decoding], logits: torch.Tensor) -> torch.Tensor:
        started = time.process_time()
        logits = self.processor(rows, logits)
        self.seconds += time.process_time() - started
        return logits

    def replace(self, rows: Sequence[Decoding], drawn: Sequence[int]) -> dict[int, int]:
        started = time.process_time()
        replaced = self.processor.replace(rows, drawn)
        self.seconds += time.process_time() - started
        return replaced


def steering(dtype: str, tokens: int, rounds: int, sequences: int, imposed: str) -> None:
    """What AlphaOne costs in processor time: sampling with and without it in turn, and the share spent in it."""
    policy = CausalLM(path="smollm2-135m", dtype=dtype)
    policy.load(device("auto"))
    stop = sorted(policy.renderer.stop_tokens)

    def ban(rows: Sequence[Decoding], logits: torch.Tensor) -> torch.Tensor:
        logits[:, stop] = -torch.inf
        return logits

    contexts = [policy.renderer.prompt([{"role": "user", "content": text}]) for text in PROMPTS]

    def play(seed: int, *processors: Timed) -> float:
        sampler = NativeSampler(max_sequences=sequences, processors=[ban, *processors])
        sampler.sync(policy)

        async def all_of_them() -> None:
            params = [SamplingParams(max_tokens=tokens, seed=seed).keyed(i) for i in range(sequences)]
            await asyncio.gather(*(sampler.sample([contexts[i % len(contexts)]], p) for i, p in enumerate(params)))

        started = time.process_time()
        asyncio.run(all_of_them())
        return time.process_time() - started

    found = []
    for seed in range(rounds + 1):  # half of the tokens before the alpha moment; breaks are frequent
        timed = Timed(AlphaOne(n_think=tokens / 2.8, delimiters=[".", "\n"], imposed=imposed))
        pair = (play(seed), play(seed, timed)) if seed % 2 else (play(seed, timed), play(seed))[::-1]
        if seed:  # the first warms up
            found.append((*pair, timed.seconds / pair[1]))
    without, with_it, share = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(b / a for a, b, _ in found)
    rates = f"{sequences * tokens / without:.0f} | {sequences * tokens / with_it:.0f}"
    print(f"| {imposed} | {dtype} | {sequences} | {tokens} | {rates} | {ratio:.3f} | {share:.2%} |")


@torch.inference_mode()
def floors(policy: CausalLM, sequences: int) -> dict[str, float]:
    """Seconds that no decode step can do without: to read the weights, and to multiply by them."""
    layers = [module for module in policy.model.modules() if isinstance(module, torch.nn.Linear)]
    weights = [layer.weight for layer in layers]
    inputs = {w.shape[1]: torch.randn(sequences, w.shape[1], dtype=w.dtype, device=w.device) for w in weights}
    copies = [torch.empty_like(weight) for weight in weights]

    def read() -> torch.Tensor:
        return [copy.copy_(weight) for copy, weight in zip(copies, weights, strict=True)][-1]

    def multiply() -> torch.Tensor:
        return [layer(inputs[layer.in_features]) for layer in layers][-1]

    found = {}
    for name, work in (("weights copied, alone", read), ("matrix products, alone", multiply)):
        times = []
        for _ in range(10):
            started = time.perf_counter()
            work()[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - started)
        found[name] = statistics.median(times[1:])
    return found


def head_memory(steps: int, chunked: bool) -> None:
    """Peak memory of one forward and backward pass through SmolLM2's head, in a process of its own."""
    hidden = torch.randn(steps, 576, requires_grad=True)
    weight = torch.randn(49152, 576, requires_grad=True)
    targets = torch.randint(0, 49152, (steps,))
    weight.grad = torch.zeros_like(weight)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunk = head.chunk_size(49152, 256) if chunked else steps
    if chunked:
        log_probs, _ = head.chunked(lambda h: h @ weight.T, hidden, targets, 1.0, chunk=chunk)
    else:
        log_probs = (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])
    log_probs.sum().backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sampling", "alphaone", "head", "head-child"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--preamble", type=int, default=0, help="tokens before each prompt, about")
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--imposed", default="forced", choices=["forced", "trained"])
    parser.add_argument("--full", action="store_true")
    chosen = parser.parse_args()
    if chosen.what == "sampling":
        sampling(chosen.dtype, chosen.tokens, chosen.rounds, chosen.sequences, chosen.preamble)
    elif chosen.what == "alphaone":
        steering(chosen.dtype, chosen.tokens, chosen.rounds, chosen.sequences, chosen.imposed)
    elif chosen.what == "head-child":
        head_memory(chosen.steps, not chosen.full)
    else:
        for steps in (512, 2048, 8192):
            row = []
            for flag in ([], ["--full"]):
                command = [sys.executable, __file__, "head-child", "--steps", str(steps), *flag]
                row.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
            print(f"| {steps} | {row[0]} | {row[1]} |")


if __name__ == "__main__":
    main()
