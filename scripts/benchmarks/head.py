"""Peak memory of an update with the head in pieces beside that with full logits, each in a process of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import models, rates
from benchmarks.engine import Engine
from benchmarks.report import Report, Table

NOTE = (
    "Growth of the peak memory over one update of a model that is hardly more than SmolLM2's head (576 x 49152): one "
    "small layer, float32, random weights. Full logits: plain transformers with the next-token loss on as many tokens "
    "in one batch."
)
CONTEXT, RESPONSE, SIBLINGS = 8, 128, 4


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--steps", nargs="+", type=int, default=[512, 2048, 8192], help="trained tokens; of 512 each")


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("head", vars(args))
    model = models.describe("shape:135m", Path(args.output) / "models", num_hidden_layers=1, intermediate_size=64)
    settings = model | {"device": "cpu", "dtype": "float32", "update": {"tokens": 10**6}}
    table = Table(["trained tokens", "in pieces, MiB", "full logits, MiB"])
    for steps in args.steps:
        groups = max(1, steps // (RESPONSE * SIBLINGS))
        hone = {"groups": groups, "context": CONTEXT, "siblings": SIBLINGS, "response": RESPONSE}
        plain = {"length": RESPONSE, "tokens": groups * SIBLINGS * RESPONSE, "micro": 10**6}
        grown = []
        for module, asked in (("update_hone", hone), ("update_plain", plain)):
            with Engine(module, settings, Path(args.output) / "logs" / "head.log") as engine:
                engine.start()
                report.turns.append({"engine": module} | engine.turn(**asked))
            grown.append(report.turns[-1]["grown"])
        table.rows.append([str(groups * SIBLINGS * RESPONSE), *(str(value // 2**20) for value in grown)])
    report.machine = rates.machine("cpu")
    report.tables.append(("", table))
    report.notes.append(NOTE)
    report.write(Path(args.output))
    return report
