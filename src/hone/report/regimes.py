"""What training can solve that it could not before: pass@k from evaluation to evaluation, and which regime that is.

ProRL (arXiv 2505.24864) sorts tasks by how pass@k at large k moves over training: it *shrinks* (mostly where the base
model was good already), gains early and then stays on a *plateau*, or goes on with *sustained growth*. The rule is
ours, at the largest k: with the interval of its change since the first evaluation below 0, it shrinks; above 0, it is
sustained growth if the interval of the change since the evaluation in the middle is above 0 too, and otherwise a
plateau. An interval with 0 in it is no change that was seen.

The intervals are of 95 % by a bootstrap over tasks, of the same tasks in each evaluation: they hold for other tasks of
their kind, and they are too narrow where tasks are few.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hone.math.passk import budgets, pass_at_k, right
from hone.math.resampling import Interval, bootstrap
from hone.report.lines import JsonLines
from hone.report.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHRINKING, PLATEAU, GROWTH = "shrinking", "plateau", "sustained growth"
FEW = 5
"""With fewer tasks nothing is said of their regime."""

_SPLIT = re.compile(r"\d*|train(ing)?|test|heldout|val(id(ation)?)?|dev|eval", re.IGNORECASE)
_NUMBER = re.compile(r"[\s_.:#-]*\d+$")


def regimes(run: Run) -> str:
    """The pass@k of every evaluation of a run, with intervals, and the regimes, overall and by family of tasks."""
    return "\n\n".join(map(_told, evaluations(run))) or "no evaluation has left its answers"


class PassCurves:
    """pass@k of the same tasks in several evaluations.

    Attributes:
        name: Of the evaluation.
        steps: When it was made, in order.
        tasks: The ids of the tasks that all of them have.
        counts: ``[evaluation][task]``: how many answers were judged, and how many of these were right.
        ks: The k with at least half of the tasks judged so often, each time.
    """

    def __init__(self, name: str, counts: dict[int, dict[tuple[int, str], tuple[int, int]]]) -> None:
        self.name, self.steps = name, sorted(counts)
        shared = [place for place in counts[self.steps[0]] if all(place in found for found in counts.values())]
        self.tasks = [task for _, task in shared]
        self.counts = [[counts[step][place] for place in shared] for step in self.steps]
        self.fewest = np.array([min(found[i][0] for found in self.counts) for i in range(len(shared))], dtype=int)
        self.ks = [k for k in budgets(int(self.fewest.max(initial=0))) if 2 * (self.fewest >= k).sum() >= len(shared)]

    def values(self, at: int, k: int) -> np.ndarray:
        """``[task]``: the estimates of one evaluation; NaN for a task with too few judged answers."""
        known = zip(self.counts[at], self.fewest, strict=True)
        return np.array([pass_at_k(n, c, k) if fewest >= k else np.nan for (n, c), fewest in known])

    def passed(self, at: int, k: int, tasks: np.ndarray | None = None) -> Interval:
        """The mean over tasks, all or those of a mask."""
        return self._interval(self.values(at, k), tasks)

    def change(self, since: int, k: int, tasks: np.ndarray | None = None) -> Interval:
        """How much the last evaluation is above an earlier one, task by task."""
        return self._interval(self.values(-1, k) - self.values(since, k), tasks)

    def regime(self, tasks: np.ndarray | None = None) -> str:
        """One of the three, or why none."""
        k = self.ks[-1]
        counted = (self.fewest >= k) if tasks is None else (self.fewest >= k) & tasks
        if counted.sum() < FEW:
            return "too few tasks"
        whole = self.change(0, k, tasks)
        if whole.high < 0:
            return SHRINKING
        if whole.low <= 0:
            return "no change seen"
        if self.middle is None:
            return "growth; whether it is sustained, only a third evaluation would tell"
        return GROWTH if self.change(self.middle, k, tasks).low > 0 else PLATEAU

    @property
    def middle(self) -> int | None:
        """The evaluation between the first and the last that is nearest to half of the way."""
        half = (self.steps[0] + self.steps[-1]) / 2
        between = range(1, len(self.steps) - 1)
        return min(between, key=lambda at: abs(self.steps[at] - half), default=None)

    @cached_property
    def families(self) -> dict[str, np.ndarray]:
        """Masks of tasks by family; none where ids do not tell families apart."""
        own = [family(task) for task in self.tasks]
        found = {name: np.array([other == name for other in own]) for name in Counter(own)}
        return found if 1 < len(found) <= len(own) / 2 else {}

    def _interval(self, values: np.ndarray, tasks: np.ndarray | None) -> Interval:
        values = values if tasks is None else values[tasks]
        return bootstrap(values[:, None])[0]


def evaluations(run: Run) -> list[PassCurves]:
    """What each evaluation of a run has left, by name."""
    found = []
    for folder in sorted((run.folder / "evals").glob("*/")):
        paths = {int(m[1]): path for path in folder.iterdir() if (m := re.fullmatch(r"step-(\d+)\.jsonl", path.name))}
        counts = {step: counted for step, path in paths.items() if (counted := _count(path))}
        if counts:
            found.append(PassCurves(folder.name, counts))
    return found


def family(task: str) -> str:
    """What a task's id begins with, up to the split and the number: ``"gym/gcd/heldout/0/17"`` is of ``"gym/gcd"``."""
    whole = task.split("/")
    kept = list(whole)
    while kept and _SPLIT.fullmatch(kept[-1]):
        kept.pop()
    if kept and len(kept) == len(whole):
        kept[-1] = _NUMBER.sub("", kept[-1])
    return "/".join(kept) or "all"


def draw(run: Run, path: Path | None = None) -> Path:
    """Draw pass@k over k, a line for each evaluation; ``passk.png`` in the run's folder unless told otherwise."""
    path = path or run.folder / "passk.png"
    _figure(evaluations(run)).savefig(path, format="png", dpi=150)
    return path


def _figure(found: Sequence[PassCurves]) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    picture = Figure(figsize=(4.6 * max(1, len(found)), 3.6), layout="constrained")
    for index, curves in enumerate(found):
        axes = picture.add_subplot(1, len(found), index + 1)
        for at, step in enumerate(curves.steps):
            passed = [curves.passed(at, k) for k in curves.ks]
            color = colormaps["viridis"](0.9 * (1 - at / max(1, len(curves.steps) - 1)))
            axes.plot(curves.ks, [p.mean for p in passed], marker="o", markersize=3, color=color, label=f"step {step}")
            axes.fill_between(curves.ks, [p.low for p in passed], [p.high for p in passed], color=color, alpha=0.12)
        axes.set_xscale("log", base=2)
        axes.set_xticks(curves.ks, [str(k) for k in curves.ks])
        axes.set_xlabel("k")
        axes.set_ylabel("pass@k")
        axes.set_title(curves.name, loc="left", fontsize=10, fontweight="bold", parse_math=False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.legend(fontsize=7)
    return picture


def _count(path: Path) -> dict[tuple[int, str], tuple[int, int]]:
    """Judged and right answers by the group's number and task; what was played aside is no answer."""
    rewards: dict[tuple[int, str], list[float]] = {}
    for row in JsonLines(path):
        own = rewards.setdefault((row["group"], row["task"]), [])
        if row["reward"] is not None and row["sibling"] is not None:
            own.append(row["reward"])
    return {place: right(own) for place, own in rewards.items()}


def _told(curves: PassCurves) -> str:
    if not curves.ks:
        return f"{curves.name}: the evaluations have no judged tasks in common"
    head = f"{curves.name}: {len(curves.tasks)} tasks, up to {curves.fewest.max()} answers each; 95 % over tasks"
    rows = [["", *(f"pass@{k}" for k in curves.ks)]]
    rows += [
        [f"step {step}", *(f"{curves.passed(at, k):.3f}" for k in curves.ks)] for at, step in enumerate(curves.steps)
    ]
    lines = [head, *_table(rows)]
    if curves.ks == [1]:
        return "\n".join([*lines, "  one answer a task: what it could solve needs several (eval.*.siblings)"])
    if len(curves.steps) == 1:
        return "\n".join([*lines, "  one evaluation: nothing to compare it with"])
    return "\n".join([*lines, "", *_table(_compared(curves))])


def _compared(curves: PassCurves) -> list[list[str]]:
    """A row for all tasks, and one for each family, those that gained most first."""
    k, middle = curves.ks[-1], curves.middle
    families = sorted(curves.families.items(), key=lambda item: -np.nan_to_num(curves.change(0, k, item[1]).mean))
    since = [] if middle is None else [f"since step {curves.steps[middle]}"]
    rows = [[f"pass@{k}", "tasks", f"step {curves.steps[0]}", f"step {curves.steps[-1]}", "change", *since, "regime"]]
    for name, tasks in [("all", None), *families]:
        first, last = (f"{curves.passed(at, k, tasks).mean:.3f}" for at in (0, -1))
        late = [] if middle is None else [f"{curves.change(middle, k, tasks):+.3f}"]
        count = str(len(curves.tasks) if tasks is None else tasks.sum())
        rows.append([name, count, first, last, f"{curves.change(0, k, tasks):+.3f}", *late, curves.regime(tasks)])
    return rows


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
