"""How the time and the memory of an update grow, one axis at a time, each point in a fresh process and a time limit."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import arithmetic, models, rates
from benchmarks.arithmetic import number
from benchmarks.engine import Engine, EngineError
from benchmarks.report import GIB, Report, Table

Point = dict[str, Any]
BASE: Point = {"model": "shape:135m", "vocabulary": 49152, "groups": 1, "context": 256, "siblings": 8, "response": 64}
AXES: dict[str, list[Any]] = {
    "context": [64, 256, 1024, 4096],
    "response": [16, 64, 256, 1024],
    "siblings": [2, 4, 8, 16, 32, 64],
    "vocabulary": [8192, 16384, 49152, 151936],
    "model": ["tiny", "shape:135m", "shape:qwen2.5-0.5b"],
}
QUICK: Point = BASE | {"model": "tiny", "vocabulary": 512, "context": 64, "siblings": 4, "response": 16}
QUICK_AXES = {
    "context": [64, 256], "response": [16, 64], "siblings": [2, 4, 8], "vocabulary": [512, 2048], "model": ["tiny"]
}  # fmt: skip
TITLES = {
    "context": "prompt, tokens", "response": "response, tokens", "siblings": "siblings", "vocabulary": "vocabulary",
    "model": "weights",
}  # fmt: skip
NOTE = (
    "One update of one group in a fresh process: `time` is the median of the updates that fit the budget, `memory` is "
    "what the high-water mark rose by over what was resident before (weights, masters, moments). `GFLOP/s` counts the "
    "head where trained (6 FLOPs a weight): a constant rate is linear growth. The exponents are those of a power law "
    "through the points of an axis, against the FLOPs that the update needs; 1 is linear, less than 1 has a fixed "
    "part."
)


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--budget", type=float, default=60, help="seconds of a point, loading not counted")
    parser.add_argument("--most", type=int, default=5, help="updates of a point at most")
    parser.add_argument("--quick", action="store_true", help="few points of a tiny model")


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("growth", vars(args))
    base, axes = (QUICK, QUICK_AXES) if args.quick else (BASE, AXES)
    measured: dict[str, dict[str, Any] | None] = {}
    for axis in args.axes:
        for value in axes[axis]:
            point = base | {axis: value}
            if axis == "model":
                point["vocabulary"] = models.SHAPES[value]["vocab_size"]
            key = str(sorted(point.items()))
            if key not in measured:
                measured[key] = _measure(args, report, point)
            if measured[key] is not None:
                report.turns.append({"axis": axis, "value": value, **point, **measured[key]})
    report.tables = [("", table(report.turns)), ("", exponents(report.turns))]
    report.notes.append(NOTE)
    report.write(Path(args.output), lambda path: draw(report.turns, path))
    return report


def _measure(args: argparse.Namespace, report: Report, point: Point) -> dict[str, Any] | None:
    """The figures of one point, or None, with a note, if not even one update fits the budget."""
    model = models.describe(point["model"], Path(args.output) / "models", vocab_size=point["vocabulary"])
    size = models.size(model["folder"])
    settings = model | {"device": args.device, "dtype": args.dtype}
    asked = {key: point[key] for key in ("groups", "context", "siblings", "response")}
    replies: list[dict[str, Any]] = []
    with Engine("update_hone", settings, Path(args.output) / "logs" / "growth.log") as engine:
        try:
            engine.start()
            began = time.perf_counter()
            while len(replies) < args.most:
                left = args.budget - (time.perf_counter() - began)
                if replies and left < 1.5 * replies[-1]["seconds"]:
                    break
                replies.append(engine.turn(timeout=left, **asked))
        except EngineError as error:
            if not replies:
                report.notes.append(f"Not measured: {point}: {error}")
                print(report.notes[-1], file=sys.stderr, flush=True)
                return None
    found = {
        "seconds": statistics.median(r["seconds"] for r in replies),
        "updates": len(replies),
        "grown": max(r["grown"] for r in replies),
        "useful": replies[0]["useful"],
        "weights": size.weights,
        "flops": arithmetic.needed_flops(size, replies[0]["useful"], replies[0]["trained"]),
    }
    print(f"{point}: {found['seconds']:.2f} s, {found['grown'] / GIB:.2f} GiB", file=sys.stderr, flush=True)
    if not report.machine:
        report.machine = rates.machine(args.device)
    return found


def place(turn: dict[str, Any]) -> float:
    """Where on its axis a point is."""
    return turn["weights"] if turn["axis"] == "model" else turn["value"]


def table(turns: list[dict[str, Any]]) -> Table:
    """A row a point."""
    made = Table(["axis", "at", "useful tokens", "time, s", "GFLOP/s", "memory, MiB"])
    for t in turns:
        made.rows.append([
            TITLES[t["axis"]], str(t["value"]), str(t["useful"]), number(t["seconds"]),
            number(t["flops"] / t["seconds"] / 1e9), number(t["grown"] / 2**20),
        ])  # fmt: skip
    return made


def exponents(turns: list[dict[str, Any]]) -> Table:
    """A row an axis."""
    made = Table(["axis", "from, to", "FLOPs grow by", "time grows by", "its exponent", "memory grows by"])
    for axis in dict.fromkeys(t["axis"] for t in turns):
        own = sorted((t for t in turns if t["axis"] == axis), key=place)
        if len(own) < 2:
            continue
        power = arithmetic.exponent([t["flops"] for t in own], [t["seconds"] for t in own])
        first, last = own[0], own[-1]
        grown = max(last["grown"], 1) / max(first["grown"], 1)
        made.rows.append([
            TITLES[axis], f"{first['value']}, {last['value']}", number(last["flops"] / first["flops"]),
            number(last["seconds"] / first["seconds"]), number(power), number(grown) if first["grown"] else "",
        ])  # fmt: skip
    return made


def draw(turns: list[dict[str, Any]], path: Path) -> None:
    """Time above, memory below, a column an axis; dotted is in proportion to the FLOPs from the first point on."""
    from matplotlib import pyplot as plt

    axes = list(dict.fromkeys(t["axis"] for t in turns))
    figure, panels = plt.subplots(2, len(axes), figsize=(3.2 * len(axes), 5.4), squeeze=False, layout="tight")
    for column, axis in enumerate(axes):
        own = sorted((t for t in turns if t["axis"] == axis), key=place)
        x, work = [place(t) for t in own], [t["flops"] / own[0]["flops"] for t in own]
        above, below = panels[0][column], panels[1][column]
        above.plot(x, [t["seconds"] for t in own], "o-")
        above.plot(x, [own[0]["seconds"] * w for w in work], "k:", label="as the FLOPs")
        below.plot(x, [t["grown"] / 2**20 for t in own], "o-", color="C1")
        above.set(xscale="log", yscale="log", title=TITLES[axis])
        below.set(xscale="log", ylim=(0, 1.15 * max(t["grown"] for t in own) / 2**20), xlabel=TITLES[axis])
        for panel in (above, below):
            panel.set_xticks(x, [str(t["value"]).removeprefix("shape:") for t in own], rotation=30, fontsize=8)
            panel.minorticks_off()
    panels[0][0].set_ylabel("update, s")
    panels[1][0].set_ylabel("memory over what was held, MiB")
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
