"""Tokens a second of the sampler vllm beside those of its own engine, driven bare, taking turns; run it under vLLM."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import rates, work
from benchmarks.arithmetic import Spread, number
from benchmarks.report import Report, Table
from hone.policies.causal_lm import CausalLM
from hone.policies.weights import locate
from hone.runtime import device
from hone.samplers.vllm_engine import VLLMSampler
from hone.seats import SamplingParams, Segment

NOTE = (
    "One engine, which all three use in turn, its prefix cache dropped before each. *Bare*: its requests added and its "
    "steps called in a loop. *Keyed*: with seeds and log-probabilities, which training needs. Every sequence "
    "gets the same number of tokens, and shares one of 8 prompts."
)


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sequences", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of each sequence")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="do not compile the model")


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("adapter", vars(args), rates.machine(args.device))
    policy = CausalLM(path=args.model, dtype=args.dtype)
    policy.load(device(args.device))
    policy.renderer.stop_tokens = frozenset()
    engine = {"kv_cache_memory_bytes": 2 << 30, "enforce_eager": args.eager}
    sampler = VLLMSampler(max_sequences=max(args.sequences), context=1024, engine=engine)
    sampler.sync(policy)
    contexts = [policy.renderer.prompt(chat) for chat in work.messages(8, locate(args.model))]
    table = Table(["sequences", "bare", "bare, keyed", "hone", "hone over bare", "over bare, keyed"])
    ways = {"bare": _bare(sampler, False), "keyed": _bare(sampler, True), "hone": _hone(sampler)}
    for sequences in args.sequences:
        made: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):
            for name, sample in ways.items():
                seconds = _timed(sampler, sample, contexts, sequences, args.tokens, turn)
                if turn:  # the first warms up
                    made[name].append(sequences * args.tokens / seconds)
                    report.turns.append({"sequences": sequences, "way": name, "turn": turn, "seconds": seconds})
        over = {n: [a / b for a, b in zip(made["hone"], made[n], strict=True)] for n in ("bare", "keyed")}
        shown = [str(Spread.of(values)) for values in made.values()]
        table.rows.append([str(sequences), *shown, *(number(statistics.median(values)) for values in over.values())])
    sampler.close()
    report.tables.append(("tokens a second: median (range)", table))
    report.notes.append(NOTE)
    report.write(Path(args.output))
    return report


def _timed(sampler: Any, sample: Any, contexts: list[Segment], sequences: int, tokens: int, seed: int) -> float:
    sampler._call(sampler._engine._engine.reset_prefix_cache, "dropping the prefix cache")
    params = SamplingParams(max_tokens=tokens, seed=seed)
    asked = [(contexts[i % len(contexts)], params.keyed(i)) for i in range(sequences)]
    started = time.perf_counter()
    made = sample(asked)
    seconds = time.perf_counter() - started
    assert made == sequences * tokens
    return seconds


def _hone(sampler: VLLMSampler) -> Any:
    def sample(asked: list[tuple[Segment, SamplingParams]]) -> int:
        async def gather() -> list[Any]:
            return await asyncio.gather(*(sampler.sample([context], params) for context, params in asked))

        return sum(len(segment) for completion in asyncio.run(gather()) for segment in completion.segments)

    return sample


def _bare(sampler: VLLMSampler, keyed: bool) -> Any:
    """vLLM's engine as it is, in its own thread."""
    from vllm import SamplingParams as Asked
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    engine = sampler._engine._engine

    def sample(asked: list[tuple[Segment, SamplingParams]]) -> int:
        def loop() -> int:
            for i, (context, params) in enumerate(asked):
                more = {"seed": params.seed, "logprobs": 0} if keyed else {}
                own = Asked(
                    temperature=1.0, max_tokens=params.max_tokens, ignore_eos=True, detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY, **more,
                )  # fmt: skip
                engine.add_request(f"bare {i}", tokens_input(list(context.actions)), own)
            made = 0
            while engine.has_unfinished_requests():
                made += sum(len(output.outputs[0].token_ids) for output in engine.step())
            return made

        return sampler._call(loop, "sampling")

    return sample
