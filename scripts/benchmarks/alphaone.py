"""What AlphaOne costs in processor time: sampling with and without it in turn, and the share that is spent in it."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import rates
from benchmarks.report import Report, Table
from hone.papers.alphaone import AlphaOne
from hone.policies.causal_lm import CausalLM
from hone.samplers.native import NativeSampler
from hone.seats import Decoding, SamplingParams

PROMPTS = [f"Tell me about the number {n} in a few sentences, starting with its neighbours." for n in range(3, 11)]
NOTE = "Half of the tokens lie before the moment at which thinking ends; full stops and line breaks are delimiters."


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


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--imposed", default="forced", choices=["forced", "trained"])


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    policy = CausalLM(path="smollm2-135m", dtype=args.dtype)
    policy.load(torch.device("cpu"))
    policy.renderer.stop_tokens = frozenset()  # so that all are equally long
    found = []
    for seed in range(args.rounds + 1):
        timed = Timed(AlphaOne(n_think=args.tokens / 2.8, delimiters=[".", "\n"], imposed=args.imposed))
        order = [(), (timed,)] if seed % 2 else [(timed,), ()]
        spent = {processors: _play(policy, args, seed, processors) for processors in order}
        if seed:  # the first warms up
            found.append((spent[()], spent[timed,], timed.seconds / spent[timed,]))
    without, with_it, share = (statistics.median(column) for column in zip(*found, strict=True))
    tokens = args.sequences * args.tokens
    report = Report("alphaone", vars(args), rates.machine("cpu"))
    table = Table(["imposed", "dtype", "sequences", "tokens", "tokens/s without", "with", "with / without", "in it"])
    ratio = statistics.median(b / a for a, b, _ in found)
    rate = [f"{tokens / seconds:.0f}" for seconds in (without, with_it)]
    shape = [args.imposed, args.dtype, str(args.sequences), str(args.tokens)]
    table.rows.append([*shape, *rate, f"{ratio:.3f}", f"{share:.2%}"])
    report.tables.append(("", table))
    report.notes.append(NOTE)
    report.write(Path(args.output))
    return report


def _play(policy: CausalLM, args: argparse.Namespace, seed: int, processors: Sequence[Timed]) -> float:
    """Processor time of one round."""
    sampler = NativeSampler(max_sequences=args.sequences, processors=list(processors))
    sampler.sync(policy)
    contexts = [policy.renderer.prompt([{"role": "user", "content": text}]) for text in PROMPTS]

    async def sample() -> None:
        params = [SamplingParams(max_tokens=args.tokens, seed=seed).keyed(i) for i in range(args.sequences)]
        await asyncio.gather(*(sampler.sample([contexts[i % len(contexts)]], p) for i, p in enumerate(params)))

    started = time.process_time()
    asyncio.run(sample())
    return time.process_time() - started
