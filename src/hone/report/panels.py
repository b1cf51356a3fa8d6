"""The picture of an evaluation: for each, pass@k over k, and what accuracy cost in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.math.passk import budgets

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]


def draw(results: Mapping[str, Any], path: Path) -> Path:
    """Draw a column for each evaluation and a line, or a point, for each checkpoint, as a PNG.

    The second row, accuracy over mean tokens, is there where several are compared.
    """
    from matplotlib.figure import Figure

    rows = 1 + any(len(result["checkpoints"]) > 1 for result in results.values())
    picture = Figure(figsize=(4.6 * max(1, len(results)), 3.6 * rows), layout="constrained")
    for place, (name, result) in enumerate(results.items()):
        panels = [_passes, _costs][:rows]
        for row, panel in enumerate(panels):
            axes = picture.add_subplot(rows, len(results), row * len(results) + place + 1)
            for i, (label, own) in enumerate(result["checkpoints"].items()):
                panel(axes, label, own, COLOURS[i % len(COLOURS)])
            axes.grid(alpha=0.25, linewidth=0.6)
            if row == 0:
                marks = budgets(result["samples"])
                axes.set_xticks(marks, [str(k) for k in marks])
                axes.set_title(name, loc="left", fontsize=10, fontweight="bold", parse_math=False)
                axes.legend(fontsize=7)
    picture.savefig(path, format="png", dpi=150)
    return path


def _passes(axes: Axes, label: str, own: Mapping[str, Any], colour: str) -> None:
    points = [(int(k), p) for k, p in own["pass@k"].items() if p["mean"] is not None]
    ks = [k for k, _ in points]
    mark = "o" if len(ks) <= 16 else None
    axes.plot(ks, [p["mean"] for _, p in points], marker=mark, markersize=3, color=colour, label=label)
    axes.fill_between(ks, [p["low"] for _, p in points], [p["high"] for _, p in points], color=colour, alpha=0.12)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="k", ylabel="pass@k")


def _costs(axes: Axes, label: str, own: Mapping[str, Any], colour: str) -> None:
    accuracy = own["accuracy"]
    if accuracy["mean"] is None:
        return
    axes.plot([own["length"]] * 2, [accuracy["low"], accuracy["high"]], color=colour, linewidth=1)
    axes.plot(own["length"], accuracy["mean"], "o", markersize=4, color=colour, label=label)
    axes.set(xlabel="mean tokens of an answer", ylabel="accuracy")
