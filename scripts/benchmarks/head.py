"""Peak memory of the head in pieces beside that of full logits, each in a process of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.engine import Engine
from benchmarks.report import Report, Table


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--steps", nargs="+", type=int, default=[512, 2048, 8192])


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("head", vars(args))
    table = Table(["tokens", "in pieces, MiB", "full logits, MiB"])
    for steps in args.steps:
        row = [str(steps)]
        for chunked in (True, False):
            settings = {"steps": steps, "chunked": chunked}
            with Engine("head", settings, Path(args.output) / "logs" / "head.log") as engine:
                reply = engine.start()
            report.turns.append(settings | reply)
            row.append(str(reply["grown"] // 2**20))
        table.rows.append(row)
    report.tables.append(("", table))
    report.write(Path(args.output))
    return report
