"""Tokens a second: hone's native sampler beside generate, continuous batching and vLLM, taking turns."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import arithmetic, models, work
from benchmarks.arithmetic import Size, Spread, number, share
from benchmarks.engine import Engine
from benchmarks.report import Contest, Report, Table, memory

ENGINES = {
    "hone": ("hone native", "sample_hone"),
    "generate": ("transformers generate", "sample_generate"),
    "batching": ("transformers continuous batching", "sample_batching"),
    "vllm": ("vLLM", "sample_vllm"),
}
WIDTH = {"bfloat16": 2, "float32": 4}
NOTE = (
    "Every sequence gets the same number of new tokens: the end token is ignored. Up to 8 sequences have prompts of "
    "their own, more share 8 prompts. Prefill counts. The floor is the larger of reading the weights and the whole "
    "cache once a step at the copy rate, and of 2N FLOPs a token at the best rate of a matrix product, both measured "
    "in the same round, with the distinct prompts' prefill added. *Products alone*: every weight multiplied once a "
    "step by all sequences, and nothing else."
)


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--dtype", nargs="+", choices=WIDTH, default=["bfloat16", "float32"])
    parser.add_argument("--sequences", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each sequence")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preamble", type=int, default=0, help="least tokens of a prompt; 0 leaves them short")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["hone", "generate", "batching"])
    parser.add_argument("--vllm-python", help="an interpreter that has vllm: takes part as well")


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("sampling", vars(args))
    model = models.describe(args.model, Path(args.output) / "models")
    size = models.size(model["folder"])
    for dtype in args.dtype:
        _play(args, report, model, dtype)
    report.tables.append(("", table(report.turns, size)))
    report.notes.append(NOTE)
    report.write(Path(args.output), lambda path: draw(report.turns, size, path))
    return report


def _play(args: argparse.Namespace, report: Report, model: dict[str, Any], dtype: str) -> None:
    settings = model | {
        "device": args.device, "dtype": dtype, "messages": work.messages(8, model["folder"], args.preamble),
        "most": max(args.sequences), "longest": args.tokens,
    }  # fmt: skip
    logs = Path(args.output) / "logs"
    chosen = [name for name in args.engines if name != "vllm"] + (["vllm"] if args.vllm_python else [])
    python = {"vllm": {"python": args.vllm_python}}
    engines = {"limits": Engine("limits", settings, logs / "limits.log")} | {
        ENGINES[name][0]: Engine(ENGINES[name][1], settings, logs / f"{name}-{dtype}.log", **python.get(name, {}))
        for name in chosen
    }
    with Contest(engines, report, {"dtype": dtype, "tokens_each": args.tokens}) as contest:
        contest.round(0, {name: {"sequences": 8, "tokens": 8, "seed": 0} for name in list(engines)})
        for turn in range(1, args.rounds + 1):
            for sequences in args.sequences:
                contest.labels = {"dtype": dtype, "tokens_each": args.tokens, "sequences": sequences}
                asked = {"sequences": sequences, "tokens": args.tokens, "seed": turn}
                contest.round(turn, {"limits": {"sequences": sequences}} | dict.fromkeys(list(engines)[1:], asked))


def floor(turn: dict[str, Any], limits: dict[str, Any], size: Size) -> float:
    """Seconds that the turn could not have done without, by the limits of its round."""
    sequences, tokens, prompts = turn["sequences"], turn["tokens_each"], turn["prompts"]
    flops = max(limits["square"], 2.0 * size.weights * sequences / limits["step"])
    used = prompts[:sequences]
    bounds = arithmetic.decode_floor(
        size, sequences, statistics.mean(used), tokens,
        flops=flops, copied=limits["copied"], width=WIDTH[turn["dtype"]],
    )  # fmt: skip
    return max(bounds.values()) + arithmetic.prefill_floor(size, sum(used), flops=flops)


def _cells(turns: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return sorted({(t["dtype"], t["sequences"]) for t in turns}, key=lambda c: (c[0], c[1]))


def _at(turns: list[dict[str, Any]], cell: tuple[str, int], engine: str) -> dict[int, dict[str, Any]]:
    return {t["round"]: t for t in turns if (t["dtype"], t["sequences"]) == cell and t["engine"] == engine}


def table(turns: list[dict[str, Any]], size: Size) -> Table:
    """A row for each precision, number of sequences and engine; then the floors."""
    made = Table(["precision", "sequences", "sampler", "tokens/s", "hone over it", "of the floor", "peak memory"])
    names = [name for name, _ in ENGINES.values()]
    for cell in _cells(turns):
        limits = _at(turns, cell, "limits")
        hone = {r: t["tokens"] / t["seconds"] for r, t in _at(turns, cell, names[0]).items()}
        floors = []
        for name in names:
            own = _at(turns, cell, name)
            if not own:
                continue
            rates = {r: t["tokens"] / t["seconds"] for r, t in own.items()}
            both = [hone[r] / rates[r] for r in rates if r in hone and name != names[0]]
            floors = [floor(own[r], limits[r], size) for r in own if r in limits]
            parts = [floor(own[r], limits[r], size) / own[r]["seconds"] for r in own if r in limits]
            made.rows.append([
                cell[0], str(cell[1]), name, str(Spread.of(list(rates.values()))),
                number(statistics.median(both)) if both else "", share(statistics.median(parts)) if parts else "",
                memory(list(own.values())),
            ])  # fmt: skip
        if floors:
            tokens = next(iter(own.values()))["tokens_each"] if own else turns[-1]["tokens_each"]
            rate = cell[1] * tokens / statistics.median(floors)
            alone = cell[1] / statistics.median(t["step"] for t in limits.values())
            made.rows.append([cell[0], str(cell[1]), "*the floor*", number(rate), "", "", ""])
            made.rows.append([cell[0], str(cell[1]), "*products alone*", number(alone), "", "", ""])
    return made


def draw(turns: list[dict[str, Any]], size: Size, path: Path) -> None:
    """Tokens a second against sequences, a panel for each precision."""
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(t["dtype"] for t in turns))
    figure, axes = plt.subplots(1, len(kinds), figsize=(5.5 * len(kinds), 4), squeeze=False, layout="tight")
    for axis, kind in zip(axes[0], kinds, strict=True):
        counts = [count for dtype, count in _cells(turns) if dtype == kind]
        floors: dict[int, float] = {}
        for k, (name, _) in enumerate(ENGINES.values()):
            found = {n: own for n in counts if (own := _at(turns, (kind, n), name))}
            for n, own in found.items():
                limits = _at(turns, (kind, n), "limits")
                times = [floor(t, limits[r], size) for r, t in own.items() if r in limits]
                floors |= {n: n * next(iter(own.values()))["tokens_each"] / statistics.median(times)} if times else {}
            if found:
                spreads = [Spread.of([t["tokens"] / t["seconds"] for t in own.values()]) for own in found.values()]
                axis.plot(list(found), [s.median for s in spreads], "o-", color=f"C{k}", label=name)
                axis.fill_between(
                    list(found), [s.low for s in spreads], [s.high for s in spreads], color=f"C{k}", alpha=0.2
                )
        axis.plot(list(floors), list(floors.values()), "k:", label="the floor")
        axis.set(xscale="log", yscale="log", xlabel="sequences", ylabel="tokens/s", title=kind)
        axis.set_xticks(counts, map(str, counts))
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
