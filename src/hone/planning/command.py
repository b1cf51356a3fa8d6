"""``hone plan``: predict, print, and refuse what cannot fit."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from hone.planning import against, hardware, remedies, report
from hone.planning.hardware import Hardware
from hone.planning.memory import Layout
from hone.planning.plan import Planner
from hone.report.run import Run


def plan(config: Any, chosen: argparse.Namespace, run: Path | None, console: Console) -> bool:
    """Print the plan of a configuration, and beside a run what it measured.

    Args:
        config: Nothing of it is loaded.
        chosen: ``hardware``, ``devices``, ``sharding``, ``prompt_tokens``, ``response_tokens``, ``measure``.
        run: The folder of a run, or None.
        console: Where to print.

    Returns:
        Whether it fits.

    Raises:
        ValueError: If an argument is wrong.
    """
    for name, most in (("devices", remedies.MOST), ("prompt_tokens", None), ("response_tokens", None)):
        value = getattr(chosen, name)
        if value is not None and (value < 1 or (most and value > most)):
            raise ValueError(f"--{name.replace('_', '-')} {value}: should be 1{f' to {most}' if most else ' or more'}")
    gear = _hardware(config, chosen)
    planner = Planner(config, gear, prompt=chosen.prompt_tokens, response=chosen.response_tokens)
    made = planner.plan(Layout(chosen.devices, chosen.sharding))
    console.print(report.report(made))
    if run is not None:
        console.print(against.table(against.against(planner, Run(run), made.layout)))
    if made.fits:
        return True
    name, most = made.peak
    ways = remedies.remedies(planner, made) + remedies.other_hardware(planner, made, hardware.shipped())
    console.print(
        f"does not fit: {name} needs {most / report.GIB:.1f} GiB, {gear.title} has {gear.memory / report.GIB:.1f}; "
        + (f"each of these would do: {'; '.join(ways)}" if ways else "nothing that can be set here would do"),
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return False


def _hardware(config: Any, chosen: argparse.Namespace) -> Hardware:
    """The device that is asked for, or the one at hand."""
    if chosen.measure:
        from hone.planning.measure import measured

        if chosen.hardware not in (None, "cpu"):
            raise ValueError(f"--measure: measures this machine's CPU, not --hardware {chosen.hardware}")
        return measured(hardware.load("cpu"))
    if chosen.hardware:
        return hardware.load(chosen.hardware)
    gear = hardware.load(hardware.at_hand(config.device))
    return replace(gear, memory=hardware.here(gear))
