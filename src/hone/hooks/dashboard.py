"""What the live view shows of a run, as something that rich can draw; where it is drawn is not known here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from unicodedata import category

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hone.seats import State
from hone.types import Trajectory

BLOCKS = "▁▂▃▄▅▆▇█"


def evaluations(metrics: dict[str, float]) -> dict[str, float]:
    """The accuracies among the metrics, by the name of their evaluation."""
    return {
        name.removeprefix("eval/").removesuffix("/accuracy"): value
        for name, value in metrics.items()
        if name.startswith("eval/") and name.endswith("/accuracy")
    }


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The course of the values in one line of at most ``width`` blocks, from their lowest to their highest."""
    size = max(1, math.ceil(len(values) / width))
    means = [fmean(values[start : start + size]) for start in range(0, len(values), size)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high - low or 1.0
    return "".join(BLOCKS[round((m - low) / span * 7)] if math.isfinite(m) else " " for m in means)


def printable(text: str) -> str:
    """The text without what could move the cursor or cannot be encoded: models write anything."""
    unsafe = {"Cc", "Cs"}  # control characters and lone surrogates
    return "".join("\N{REPLACEMENT CHARACTER}" if category(c) in unsafe and c not in "\n\t" else c for c in text)


def number(value: float) -> str:
    """Short enough for a table: four digits, but thousands in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Dashboard:
    """Progress with the time left, the course of a few metrics, the evaluations, and one sample of the last step."""

    def __init__(self, state: State, names: Sequence[str], sample: bool) -> None:
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(None), TimeElapsedColumn())
        # The default estimate looks back 30 seconds, in which there may be no step at all.
        self._progress = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), speed_estimate_period=1e9)
        self._bar = self._progress.add_task("", total=state.steps, completed=state.step)
        self._history: dict[str, list[float]] = {name: [] for name in names}
        self._evaluations: dict[str, list[float]] = {}
        self._show_sample = sample
        self._sample: Trajectory | None = None

    def draw(self, state: State) -> Panel:
        """A picture of the run up to this state. Only its clock changes later, so that a thread may redraw it."""
        self._progress.update(self._bar, completed=state.step)
        metrics = state.metrics | _speed(state.metrics)
        for name in self._history.keys() & metrics.keys():
            self._history[name].append(float(metrics[name]))
        for name, accuracy in evaluations(metrics).items():
            self._evaluations.setdefault(name, []).append(accuracy)
        parts: list[RenderableType] = [self._progress, self._metrics()]
        if self._show_sample:
            self._sample = next((trajectory for group in state.groups for trajectory in group), self._sample)
        if self._sample is not None:
            parts.append(_sample_panel(self._sample))
        return Panel(Stack(*parts), title=Text(printable(state.folder.name)), title_align="left", border_style="dim")

    def _metrics(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, history in self._history.items():
            if history:
                table.add_row(Text(name), Text(number(history[-1]), "bold"), Text(sparkline(history), "cyan"))
        for name, accuracies in self._evaluations.items():
            course = Text(sparkline(accuracies), "green") + Text(f"  from {number(accuracies[0])}", "dim")
            table.add_row(Text(f"eval/{name}"), Text(number(accuracies[-1]), "bold"), course)
        return table


def _speed(metrics: dict[str, float]) -> dict[str, float]:
    seconds = metrics.get("time/step", 0.0)
    return {"tokens/second": metrics.get("tokens/sampled", 0.0) / seconds} if seconds > 0 else {}


def _sample_panel(trajectory: Trajectory) -> Panel:
    whole = "".join(segment.text for segment in trajectory.segments)
    response = trajectory.response
    prompt = whole[: len(whole) - len(response)].rstrip()
    if len(prompt) > 240:
        prompt = "…" + prompt[-240:]
    if len(response) > 600:
        response = f"{response[:300]} … {response[-300:]}"
    verdict = f"reward {trajectory.reward:.4g}" if trajectory.reward is not None else f"not judged: {trajectory.error}"
    text = Text.assemble((printable(prompt) + "\n", "dim"), printable(response.strip()))
    return Panel(text, title="sample", subtitle=Text(printable(verdict)), title_align="left", border_style="dim")
