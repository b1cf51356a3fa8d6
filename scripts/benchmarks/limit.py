"""The update against the machine's own rates, measured between its turns; and plain transformers beside it."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import arithmetic, models
from benchmarks.arithmetic import Size, Spread, number, share
from benchmarks.engine import Engine
from benchmarks.report import Contest, Report, Table, memory

NOTE = (
    "6N: N weights in matrix products, the head among them, 6 FLOPs each for a useful token; a context is counted "
    "once a group, attention's own products and what is recomputed are not counted. *Head where trained* counts the "
    "head only at trained tokens. The update holds the optimiser's step; plain transformers (next-token loss on as "
    "many tokens, in rows of one context and one response without padding) holds none. Fractions are medians of those "
    "of each round."
)


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--context", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--response", type=int, default=128, help="tokens of a response")


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("limit", vars(args))
    model = models.describe(args.model, Path(args.output) / "models")
    size = models.size(model["folder"])
    work = {key: getattr(args, key) for key in ("groups", "context", "siblings", "response")}
    useful = args.groups * (args.context + args.siblings * args.response)
    logs = Path(args.output) / "logs"
    for dtype in args.dtype:
        settings = model | {"device": args.device, "dtype": dtype}
        engines = {
            "limits": Engine("limits", settings, logs / "limits.log"),
            "hone": Engine("update_hone", settings, logs / f"update-hone-{dtype}.log"),
            "plain": Engine("update_plain", settings, logs / f"update-plain-{dtype}.log"),
        }
        asked = {
            "limits": {"tokens": 1024}, "hone": work,
            "plain": {"length": args.context + args.response, "tokens": useful},
        }  # fmt: skip
        with Contest(engines, report, {"dtype": dtype}) as contest:
            for number_ in range(args.rounds + 1):
                contest.round(number_, asked)
    report.machine["weights"] = size.weights
    report.tables.append(("", table(report.turns, size, report.machine.get("gpu"))))
    report.notes.append(NOTE)
    report.write(Path(args.output), lambda path: draw(report.turns, size, path))
    return report


def fractions(turns: list[dict[str, Any]], size: Size, against: str) -> dict[str, list[float]]:
    """Of each engine, by round: its rate counted as 6N over the rate ``against`` of the same round."""
    rates = {t["round"]: t[against] for t in turns if t["engine"] == "limits"}
    found: dict[str, list[float]] = {"hone": [], "hone, head where trained": [], "plain": []}
    for t in turns:
        if t["engine"] == "limits" or t["round"] not in rates:
            continue
        found[t["engine"]].append(arithmetic.update_flops(size, t["useful"]) / t["seconds"] / rates[t["round"]])
        if t["engine"] == "hone":
            least = arithmetic.needed_flops(size, t["useful"], t["trained"])
            found["hone, head where trained"].append(least / t["seconds"] / rates[t["round"]])
    return {name: values for name, values in found.items() if values}


def table(turns: list[dict[str, Any]], size: Size, gpu: str | None) -> Table:
    """The machine's rates, and the rate and fractions that each update reached."""
    peak = arithmetic.hardware_peak(gpu or "")
    made = Table(
        ["precision", "what", "rate", "time, s", "of the square's rate", "of its own shapes' rate", "peak memory"]
        + (["MFU"] if peak else [])
    )
    for dtype in dict.fromkeys(t["dtype"] for t in turns):
        here = [t for t in turns if t["dtype"] == dtype]
        limits = [t for t in here if t["engine"] == "limits"]
        blank = [""] * (len(made.columns) - 3)
        for key, name, unit in (
            ("square", "a large square product", 1e9), ("forward", "the model's products, forward", 1e9),
            ("update", "the model's products, forward and backward", 1e9), ("copied", "copy, read and written", 1e9),
        ):  # fmt: skip
            if limits:
                rate = f"{Spread.of([t[key] / unit for t in limits])} {'GB/s' if key == 'copied' else 'GFLOP/s'}"
                made.rows.append([dtype, name, rate, *blank])
        square, own = fractions(here, size, "square"), fractions(here, size, "update")
        for name, values in square.items():
            turn = [t for t in here if t["engine"] == name.partition(",")[0]]
            flops = [_flops(size, t, name) / t["seconds"] for t in turn]
            title = {"hone": "hone's update, 6N", "plain": "plain transformers, 6N"}.get(
                name, "hone's update, head where trained"
            )
            row = [dtype, title, f"{Spread.of([f / 1e9 for f in flops])} GFLOP/s",
                   str(Spread.of([t["seconds"] for t in turn])), share(statistics.median(values)),
                   share(statistics.median(own[name])), memory(turn)]  # fmt: skip
            made.rows.append(row + ([share(statistics.median(flops) / peak)] if peak else []))
    return made


def _flops(size: Size, turn: dict[str, Any], name: str) -> float:
    if "trained" in name:
        return arithmetic.needed_flops(size, turn["useful"], turn["trained"])
    return arithmetic.update_flops(size, turn["useful"])


def draw(turns: list[dict[str, Any]], size: Size, path: Path) -> None:
    """The fractions as bars."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.2), layout="tight")
    kinds = list(dict.fromkeys(t["dtype"] for t in turns))
    for k, dtype in enumerate(kinds):
        found = fractions([t for t in turns if t["dtype"] == dtype], size, "square")
        for y, values in enumerate(found.values()):
            at = y + 0.8 * (k + 0.5) / len(kinds) - 0.4
            spread = Spread.of([100 * value for value in values])
            error = [[spread.median - spread.low], [spread.high - spread.median]]
            height = 0.75 / len(kinds)
            axis.barh(at, spread.median, height, xerr=error, color=f"C{k}", label=None if y else dtype)
            axis.text(1, at, number(spread.median) + " %", va="center", color="white", fontsize=8)
        axis.set_yticks(range(len(found)), list(found))
    axis.axvline(100, color="black", linestyle=":")
    axis.invert_yaxis()
    axis.set_xlabel("of the rate of a large square product, measured in the same rounds, %")
    axis.legend()
    figure.savefig(path, dpi=120)
