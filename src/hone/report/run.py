"""What a run did, read from its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from hone.report.lines import JsonLines

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: when, how well, and what was answered."""

    step: int
    accuracy: float
    rollouts: JsonLines


class Run:
    """A run's folder, finished or still being written; metrics are as of when the object was made.

    Example::

        run = Run("runs/countdown")
        print(run.summary())
        steps, reward = run.series("reward/mean")
        run.rollouts.at(10)[0]["segments"][-1]["text"]
        run.evaluations["heldout"]["last"].accuracy

    Attributes:
        folder: Where the run lies.
        metrics: One mapping per step, with step 0 for what was measured before training.
        rollouts: Every trajectory, read when asked for; see :class:`~hone.report.lines.JsonLines`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no run at {self.folder}: there is no such folder")
        missing = [name for name in ("config.yaml", "metrics.jsonl") if not (self.folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{self.folder} is not the folder of a run: it has no {' and no '.join(missing)}")
        self.metrics: Sequence[dict[str, Any]] = list(JsonLines(self.folder / "metrics.jsonl"))
        self.rollouts = JsonLines(self.folder / "rollouts.jsonl")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")) or {}

    @property
    def steps(self) -> int:
        """Steps completed."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints' folders, by step."""
        found = [path for path in self.folder.glob("checkpoints/step-*") if re.fullmatch(r"step-\d+", path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best value of the metric that ``checkpoint.best`` names."""
        link = self.folder / "checkpoints" / "best"
        return link.resolve() if link.exists() else None

    @property
    def evaluations(self) -> dict[str, dict[str, Evaluation]]:
        """The ``first`` and the ``last`` evaluation under each name."""
        found = {}
        for name in dict.fromkeys(m[1] for row in self.metrics for m in map(_ACCURACY.fullmatch, row) if m):
            steps, values = self.series(f"eval/{name}/accuracy")
            each = [
                Evaluation(int(step), float(value), JsonLines(self.folder / "evals" / name / f"step-{step}.jsonl"))
                for step, value in ((steps[0], values[0]), (steps[-1], values[-1]))
            ]
            found[name] = dict(zip(("first", "last"), each, strict=True))
        return found

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one metric, where it was logged; values that were not finite are NaN."""
        points = [(row["step"], row[name]) for row in self.metrics if name in row]
        steps = np.array([step for step, _ in points], dtype=np.int64)
        return steps, np.array([np.nan if value is None else value for _, value in points], dtype=np.float64)

    def frame(self) -> DataFrame:
        """The metrics as a table with a row for each step."""
        from pandas import DataFrame

        return DataFrame(self.metrics, columns=None if self.metrics else ["step"]).set_index("step")

    def plot(self, path: str | Path | None = None) -> Path:
        """Draw the curves as a PNG, ``curves.png`` in the run's folder unless told otherwise."""
        from hone.report.curves import plot

        return plot(self, Path(path) if path is not None else self.folder / "curves.png")

    def summary(self) -> str:
        """A few lines: accuracy before and after, reward of the first and the last tenth of the steps, time."""
        lines = [f"{name}: {_course(each['first'], each['last'])}" for name, each in self.evaluations.items()]
        _, rewards = self.series("reward/mean")
        rewards = rewards[np.isfinite(rewards)]
        if len(rewards):
            part = max(1, len(rewards) // 10)
            lines.append(f"reward: {rewards[:part].mean():.3f} -> {rewards[-part:].mean():.3f}")
        seconds = np.nansum(self.series("time/step")[1])
        return "\n".join([*lines, f"steps: {self.steps} in {timedelta(seconds=round(seconds))}"])

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})\n" + "\n".join(f"  {line}" for line in self.summary().splitlines())

    def _repr_png_(self) -> bytes:
        """The curves, for a notebook; leaves the folder alone."""
        from hone.report.curves import figure

        image = BytesIO()
        figure(self).savefig(image, format="png", dpi=100)
        return image.getvalue()


_ACCURACY = re.compile(r"eval/([^/]+)/accuracy")


def _course(first: Evaluation, last: Evaluation) -> str:
    before = f"{first.accuracy:.3f} -> " if first.step < last.step else ""
    return f"{before}{last.accuracy:.3f} (step {last.step})"
