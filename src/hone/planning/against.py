"""What was predicted beside what a run measured."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from rich.table import Table

from hone.planning.memory import Layout
from hone.planning.plan import Plan, Planner
from hone.report.run import Run

MIB = 2**20
MEMORY, TIME = ("memory/sample", "memory/update"), ("time/sample", "time/update", "time/step")


@dataclass(frozen=True)
class Compared:
    """A metric, as it was predicted and as it was measured: the median over the steps of a run."""

    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """By which share of what was measured the prediction is off."""
        return self.predicted / self.measured - 1


def against(planner: Planner, run: Run, layout: Layout | None = None) -> list[Compared]:
    """Predict the mean step of a run, from how long its answers were and how many groups it kept, and compare.

    Neither follows from shapes. The first step is left out where there are others: caches and moments are made in it.

    Args:
        planner: Stays as it is.
        run: Was measured.
        layout: Of the devices that it had.

    Raises:
        ValueError: If the run has no steps whose memory was logged.
    """
    rows = [row for row in run.metrics if row["step"] and "memory/update" in row]
    if not rows:
        raise ValueError(f"{run.folder}: there is no step whose memory was logged; runs before 0.4 did not")
    rows = [row for row in rows if row["step"] > 1] or rows
    plan = _mean_step(copy(planner), rows, layout)
    sampling, update = (sum(part.values()) for part in (plan.sampling, plan.update))
    phases = {name: phase.total / MIB for name, phase in plan.phases.items()}
    predicted = {
        "memory/sample": phases["sample"],
        "memory/update": max((size for name, size in phases.items() if name not in ("load", "sample")), default=0.0),
        "time/sample": sampling,
        "time/update": update,
        "time/step": plan.step,
    }
    return [
        Compared(name, predicted[name], measured)
        for name in (*MEMORY, *TIME)
        if predicted[name] and (measured := median(row[name] for row in rows))
    ]


def _mean_step(planner: Planner, rows: list[dict[str, Any]], layout: Layout | None) -> Plan:
    played = fmean(row["groups/kept"] + row["groups/dropped"] for row in rows)
    kept = round(fmean(row["groups/kept"] for row in rows))
    response = max(1, round(fmean(row["length/mean"] for row in rows)))
    most = planner.config.sampling.max_tokens
    cut = any(row["length/truncated"] for row in rows)
    planner.lengths = replace(planner.lengths, response=response, longest=most if cut else min(most, 2 * response))
    return planner.plan(layout, kept=kept, rounds=played / planner.config.prompts)


def table(compared: list[Compared]) -> Table:
    """A row a metric: MiB and seconds."""
    made = Table("", "predicted", "measured, median", "off by", title="predicted against measured")
    for each in compared:
        places = 0 if each.name in MEMORY else 2
        shown = (f"{value:,.{places}f}" for value in (each.predicted, each.measured))
        made.add_row(each.name, *shown, f"{each.error:+.0%}")
    return made
