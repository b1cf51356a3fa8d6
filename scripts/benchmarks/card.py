"""hone alone on one device: rates, native sampling and updates, all in one process that compiles once."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import arithmetic, memory, models, rates, work
from benchmarks.arithmetic import Size, Spread, number, share
from benchmarks.report import GIB, Report, Table

NOTE = (
    "Sampling: the time of a decode step is what each further token adds, prompts and first tokens taken off; its "
    "floor is the reading of weights and of every sequence's keys and values once, at the rate of a copy. Update: 6N "
    "FLOPs for each token that has to be there, a context once a group; attention's own products and what is computed "
    "again are not counted; the optimiser's step is part of the time. The first round compiles, and is not recorded."
)


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", nargs="*", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 1024], help="their tokens, in sampling")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each sequence")
    parser.add_argument("--groups", nargs="*", type=int, default=[4, 8], help="of an update")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a prompt, in an update")
    parser.add_argument("--siblings", type=int, default=16)
    parser.add_argument("--response", nargs="+", type=int, default=[128])
    parser.add_argument("--update-tokens", nargs="+", type=int, default=[4096, 12288], help="update.tokens")


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    import torch

    from hone.policies.causal_lm import CausalLM
    from hone.runtime import device

    model = models.describe(args.model, Path(args.output) / "models")
    size = models.size(model["folder"])
    report = Report("card", vars(args), rates.machine(args.device) | {"weights": size.weights})
    square, copied = rates.square(getattr(torch, args.dtype), args.device), rates.copied(args.device)
    report.turns.append({"engine": "limits", "square": square, "copied": copied})
    policy = CausalLM(path=model["folder"], dtype=args.dtype, random_weights=0 if model["random"] else None)
    policy.load(device(args.device))
    policy.renderer.stop_tokens = frozenset()  # the end token is a token like any other: all get the same number
    rate = (
        f"{square / 1e12:.3g} TFLOP/s for a large product, {copied / 1e9:.4g} GB/s for a copy, read and written counted"
    )
    report.notes += [f"Measured beside them: {rate}.", NOTE]
    if args.sequences:
        report.tables.append(("", sampling(args, report, policy, size, copied)))
    if args.groups:
        report.tables.append(("", updates(args, report, policy, size, square)))
    report.write(Path(args.output))
    return report


def timed(act: Callable[[], Any], device: str) -> float:
    """Seconds, until the device is done."""
    rates.wait(device)
    started = time.perf_counter()
    act()
    rates.wait(device)
    return time.perf_counter() - started


def sampling(args: argparse.Namespace, report: Report, policy: Any, size: Size, copied: float) -> Table:
    """A row for each length of a prompt and number of sequences."""
    from hone.samplers.native import NativeSampler
    from hone.seats import SamplingParams

    table = Table(["prompt", "sequences", "tokens/s, all", "a decode step, ms", "of the floor", "peak memory"])
    width = policy.model.dtype.itemsize
    for tokens in args.prompts:
        chats = work.messages(8, policy.path, tokens)
        contexts = [policy.renderer.prompt(chat) for chat in chats]
        context = statistics.mean(map(len, contexts))
        for count in args.sequences:
            sampler = NativeSampler(max_sequences=count)
            sampler.sync(policy)

            async def sample(most: int, seed: int, sampler: Any = sampler, contexts: Any = contexts) -> None:
                params = SamplingParams(max_tokens=most, seed=seed)
                asked = ((contexts[i % 8], params.keyed(i)) for i in range(sampler.max_sequences))
                await asyncio.gather(*(sampler.sample([prompt], own) for prompt, own in asked))

            whole, steps = [], []
            for turn in range(args.rounds + 1):
                if turn == 1:
                    memory.device_reset(args.device)
                both = [timed(lambda n=n: asyncio.run(sample(n, turn)), args.device) for n in (1, args.tokens)]  # noqa: B023
                if turn:
                    whole.append(count * args.tokens / both[1])
                    steps.append((both[1] - both[0]) / (args.tokens - 1))
                    report.turns.append({"engine": "sample", "prompt": context, "sequences": count, "seconds": both})
            found = {"flops": float("inf"), "copied": copied, "width": width}
            floor = arithmetic.decode_floor(size, count, context, args.tokens, **found)["bandwidth"] / args.tokens
            table.rows.append([
                number(context), str(count), str(Spread.of(whole)), str(Spread.of([1000 * s for s in steps])),
                share(floor / statistics.median(steps)), _peak(args.device),
            ])  # fmt: skip
            sampler.close()
    return table


def updates(args: argparse.Namespace, report: Report, policy: Any, size: Size, square: float) -> Table:
    """A row for each number of groups, length of answers and limit."""
    from hone.build import build
    from hone.learner import Learner
    from hone.sections import OptimizerConfig, UpdateConfig

    peak = arithmetic.hardware_peak(report.machine.get("gpu") or "")
    table = Table(
        ["groups", "tokens", "update.tokens", "s", "tokens/s", "of the large product's rate", "MFU", "peak memory"]
    )
    for response in args.response:
        for groups in args.groups:
            for limit in args.update_tokens:
                settings = OptimizerConfig(lr=1e-12), UpdateConfig(tokens=limit)
                learner = Learner(policy, build("objective", "policy_gradient"), *settings, steps=99, temperature=1.0)
                spent, shape = [], []
                for turn in range(args.rounds + 1):
                    if turn == 1:
                        memory.device_reset(args.device)
                    vocabulary = policy.text_config.vocab_size
                    made = work.groups(groups, args.context, args.siblings, response, vocabulary, seed=turn)
                    seconds = timed(lambda: learner.update(made, turn), args.device)  # noqa: B023
                    shape = work.shape_of(made)
                    if turn:
                        spent.append(seconds)
                        report.turns.append({"engine": "update", "shape": shape, "limit": limit, "seconds": seconds})
                useful = arithmetic.useful_tokens(shape)
                rate = arithmetic.update_flops(size, useful) / statistics.median(spent)
                table.rows.append([
                    f"{groups} of {args.context} + {args.siblings} x {response}", str(useful), str(limit),
                    str(Spread.of(spent)), number(useful / statistics.median(spent)), share(rate / square),
                    share(rate / peak) if peak else "", _peak(args.device),
                ])  # fmt: skip
                learner.optimizer.state.clear()
    return table


def _peak(device: str) -> str:
    found = memory.device_peak(device)
    return f"{(memory.peak(children=False) if found is None else found) / GIB:.1f} GiB"
