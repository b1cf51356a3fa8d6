"""What a synthesised data set holds: how hard its questions are beside their seeds, in text and as a picture.

Counts by which something was chosen flatter the choice. So the shift is also told by fresh rollouts, where there are
any, which chose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hone.report.curves import BLUE, GREY, ORANGE, RED
from hone.synthesis.store import Tale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TOLD = {
    "tasks": "all tasks",
    "seeds": "seeds",
    "rewritten": "seeds with a rewrite",
    "accepted": "their rewrites",
    "rewritten, fresh": "these seeds, played afresh",
    "accepted, fresh": "their rewrites, played afresh",
}


def synthesis(store: str | Path) -> str:
    """The data set in a few lines.

    Args:
        store: The folder of :class:`~hone.papers.synthrl.SynthRL`.

    Raises:
        FileNotFoundError: It holds no data set.
    """
    tale = Tale.of(store)
    summary = tale.summary()
    accepted, tasks = summary["accepted"], summary["tasks"]
    lines = [
        f"{Path(store)}: {accepted} rewrites of {len(tale.passes['rewritten'])} seeds, of {tasks} tasks looked at; "
        f"{summary['share']:.1%} of the union, {summary['near_duplicates']} nearly alike",
        "",
        f"{f'passes of {tale.rollouts}':<32}{'questions':>10}{'mean':>8}{'lowest':>8}{'highest':>9}",
    ]
    for name, label in _TOLD.items():
        if counts := tale.passes[name]:
            lines.append(f"{label:<32}{len(counts):>10}{fmean(counts):>8.2f}{min(counts):>8}{max(counts):>9}")
    if tale.reasons:
        lines += ["", f"{'rejected':<32}{'times':>10}"]
        lines += [f"{reason:<32}{times:>10}" for reason, times in tale.reasons.items()]
    return "\n".join(lines)


def plot(store: str | Path, path: Path) -> Path:
    """Write the picture as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(store).savefig(path, format="png", dpi=150)
    return path


def figure(store: str | Path) -> Figure:
    """The picture. It does not touch pyplot, so it needs no display and closes itself."""
    from matplotlib.figure import Figure

    tale = Tale.of(store)
    picture = Figure(figsize=(12.6, 3.8), layout="constrained")
    accepted = len(tale.accepted)
    title = f"{Path(store).resolve().name}  ·  {accepted} rewrites of {len(tale.passes['rewritten'])} seeds"
    picture.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    axes = picture.subplots(1, 3, width_ratios=(1, 1, 0.9))
    shown = (("As selected", "rewritten", "accepted"), ("Played afresh", "rewritten, fresh", "accepted, fresh"))
    for place, (title, before, after) in zip(axes, shown, strict=False):
        _histogram(place, title, tale.rollouts, tale.passes[before], tale.passes[after])
    _reasons(axes[2], tale.reasons)
    return picture


def _histogram(axes: Axes, title: str, rollouts: int, before: Sequence[int], after: Sequence[int]) -> None:
    """Pass counts of seeds and of their rewrites, and their means."""
    import numpy as np

    _dress(axes, title)
    axes.set_xlabel(f"passes of {rollouts}", fontsize=9)
    axes.set_ylabel("questions", fontsize=9)
    edges = np.arange(rollouts + 2) - 0.5
    for counts, color, label in ((before, BLUE, "seeds"), (after, ORANGE, "rewrites")):
        if counts:
            mean = fmean(counts)
            axes.hist(counts, bins=edges, color=color, alpha=0.6, label=f"{label}, mean {mean:.2f}")
            axes.axvline(mean, color=color, linewidth=1.5, linestyle="--")
    if before or after:
        axes.legend(fontsize=8, framealpha=0.7, edgecolor="none", loc="upper left")
    else:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes, color=GREY)


def _reasons(axes: Axes, reasons: dict[str, int]) -> None:
    _dress(axes, "Rejected")
    axes.set_xlabel("times", fontsize=9)
    bars: Any = axes.barh(list(reasons), list(reasons.values()), color=RED, alpha=0.8)
    axes.bar_label(bars, fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _dress(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
