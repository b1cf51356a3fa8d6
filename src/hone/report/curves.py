"""The course of a run in one picture: a panel for each question one asks of a curve, where there is data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hone.report.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
RED, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#CCCCCC"


def plot(run: Run, path: Path) -> Path:
    """Write the picture as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(run).savefig(path, format="png", dpi=150)
    return path


def figure(run: Run) -> Figure:
    """The picture. It does not touch pyplot, so it needs no display and closes itself."""
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(_has(run, name) for name in panel.needs)]
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    picture = Figure(figsize=(max(4.2 * columns, 6), 2.9 * rows + 0.6), layout="constrained")
    title = f"{run.folder.resolve().name}  ·  {run.summary().splitlines()[-1]}"
    picture.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    if not panels:
        picture.text(0.5, 0.45, "no steps yet", ha="center")
    for index, panel in enumerate(panels):
        axes = picture.add_subplot(rows, columns, index + 1)
        panel.draw(axes, run)
        margin = max(0.5, run.steps / 50)
        axes.set_xlim(-margin, run.steps + margin)
        _dress(axes, panel, last_row=index + columns >= len(panels))
    return picture


class Panel(NamedTuple):
    """A panel: drawn where the run has any of the metrics it ``needs``, which may be patterns."""

    title: str
    unit: str
    needs: Sequence[str]
    draw: Callable[[Axes, Run], None]


def _has(run: Run, name: str) -> bool:
    names = {key for row in run.metrics for key in row if fnmatchcase(key, name)}
    return any(np.isfinite(run.series(name)[1]).any() for name in names)


def _dress(axes: Axes, panel: Panel, last_row: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_ylabel(panel.unit, fontsize=9)
    if last_row:
        axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = axes.legend(handles, labels, fontsize=8, framealpha=0.7, edgecolor="none")
        for text in legend.get_texts():
            text.set_parse_math(False)


def _trend(axes: Axes, run: Run, name: str, color: str, label: str | None = None, scale: float = 1.0) -> None:
    """The values, faint, under their centred moving average; a run too short to smooth has its values only."""
    from pandas import Series

    steps, values = run.series(name)
    values = values * scale
    if len(values) < 10:
        axes.plot(steps, values, color=color, label=label, marker="o", markersize=3, linewidth=1.5)
        return
    smooth = Series(values).rolling(max(3, len(values) // 15), center=True, min_periods=1).mean()
    axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(steps, smooth, color=color, label=label, linewidth=1.8)


def _stack(axes: Axes, run: Run, names: Sequence[str], colors: Sequence[str]) -> None:
    """Metrics on top of each other, a bar for each step; labelled by the last part of their names."""
    found = [dict(zip(*run.series(name), strict=True)) for name in names]
    steps = sorted(set().union(*found))
    edges = np.append(steps, steps[-1] + 1) - 0.5
    top = np.zeros(len(steps))
    for name, values, color in zip(names, found, colors, strict=True):
        base, top = top, top + np.nan_to_num([values.get(step, 0.0) for step in steps])
        axes.stairs(top, edges, baseline=base, fill=True, color=color, alpha=0.85, label=name.rpartition("/")[2])


def _reward(axes: Axes, run: Run) -> None:
    steps, mean = run.series("reward/mean")
    spread = dict(zip(*run.series("reward/std"), strict=True))
    std = np.array([spread.get(step, np.nan) for step in steps])
    if np.isfinite(std).any():
        axes.fill_between(steps, mean - std, mean + std, color=BLUE, alpha=0.12, linewidth=0, label="± 1 std")
    _trend(axes, run, "reward/mean", BLUE, "mean")


def _evaluations(axes: Axes, run: Run) -> None:
    for index, name in enumerate(run.evaluations):
        steps, values = run.series(f"eval/{name}/accuracy")
        color = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)[index % 6]
        label = f"{name}: {values[0]:.2f} → {values[-1]:.2f}"
        axes.plot(steps, values, color=color, marker="o", markersize=4, linewidth=1.5, label=label)
    axes.margins(y=0.12)


def _length(axes: Axes, run: Run) -> None:
    _trend(axes, run, "length/mean", BLUE)
    axes.set_ylim(bottom=0)
    if _has(run, "length/truncated"):
        axes.tick_params(axis="y", colors=BLUE)
        axes.yaxis.label.set_color(BLUE)
        share = axes.twinx()
        _trend(share, run, "length/truncated", RED, scale=100)
        share.set_ylim(0, 100)
        share.set_ylabel("truncated, %", color=RED, fontsize=9)
        share.tick_params(labelsize=8, colors=RED)
        share.spines["top"].set_visible(False)


def _entropy(axes: Axes, run: Run) -> None:
    _trend(axes, run, "entropy/mean", GREEN)
    axes.set_ylim(bottom=0)


def _grad_norm(axes: Axes, run: Run) -> None:
    _trend(axes, run, "grad_norm", PURPLE)
    _, values = run.series("grad_norm")
    positive = values[values > 0]
    if len(positive) and positive.max() > 30 * np.median(positive):
        axes.set_yscale("log")  # one spike would flatten all the rest


def _drift(axes: Axes, run: Run) -> None:
    for name, color, label in (
        ("kl/mean", ORANGE, "KL (reference or old)"),
        ("mismatch/mean", SKY, "sampler against trainer"),
    ):
        if _has(run, name):
            _trend(axes, run, name, color, label)


def _clip(axes: Axes, run: Run) -> None:
    _trend(axes, run, "clip/fraction", RED, scale=100)
    axes.set_ylim(bottom=0)


def _groups(axes: Axes, run: Run) -> None:
    _stack(axes, run, ("groups/kept", "groups/dropped"), (GREEN, GREY))


def _time(axes: Axes, run: Run) -> None:
    _stack(axes, run, ("time/sample", "time/verify", "time/update"), (SKY, ORANGE, BLUE))
    axes.plot(*run.series("time/step"), color="black", linewidth=0.8, label="whole step")
    axes.set_ylim(bottom=0)


PANELS = (
    Panel("Reward", "reward", ["reward/mean"], _reward),
    Panel("Evaluation", "accuracy", ["eval/*/accuracy"], _evaluations),
    Panel("Response length", "tokens", ["length/mean"], _length),
    Panel("Entropy", "nats per token", ["entropy/mean"], _entropy),
    Panel("Gradient norm", "L2 norm", ["grad_norm"], _grad_norm),
    Panel("Drift", "nats per token", ["kl/mean", "mismatch/mean"], _drift),
    Panel("Clipped", "% of tokens", ["clip/fraction"], _clip),
    Panel("Groups", "groups per step", ["groups/kept", "groups/dropped"], _groups),
    Panel("Time", "seconds per step", ["time/sample", "time/verify", "time/update"], _time),
)
