"""The parts of a run in the order in which they act, each with what it does to the loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from rich.table import Table

from hone.build import describe
from hone.config import Config
from hone.session import within


def order(config: Config) -> Table:
    """A table of what acts in a step: from where tasks come from to what is done between steps."""
    table = Table("", "part", "decides", title="order of a step")
    for place, part, effect in _acts(config):
        table.add_row(place, _name(part), effect)
    for first, changes in sorted(config.stages.items()):
        table.add_row(f"stage, from {first} on", ", ".join(map(str, changes)), "instead of the above")
    return table


def _acts(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Place, part and effect, in order."""
    for source in reversed(list(within(config.tasks))):
        yield "tasks", source, "what is asked"
    yield "environment", config.environment, "what is sampled, and which of it trains"
    for part in getattr(config.sampler, "processors", ()):
        yield "processor", part, "which token comes next"
    yield "verifier", config.verifier, "the reward"
    yield "gate", config.gate, "which groups are in the loss"
    for part in config.shapers:
        yield "shaper", part, "the reward, or which answers train"
    yield "advantage", config.advantage, "sign and size of each answer's surrogate"
    objective = config.objective
    yield "objective", objective, "the loss, from the parts below"
    if surrogate := getattr(objective, "surrogate", None):
        yield "surrogate", surrogate, "the loss of each trained step, from its advantage"
    for part in getattr(objective, "weights", ()):
        yield "weight", part, "times the surrogate of each step"
    for part in getattr(objective, "penalties", ()):
        yield "penalty", part, "added to the loss of each step"
    if reduction := getattr(objective, "reduction", None):
        yield "reduction", reduction, "how steps are summed, and what divides the sum"
    for part in config.run_hooks():
        yield "hook", part, "what is done between steps"


def _name(part: Any) -> str:
    spec = describe(part)
    name = spec if isinstance(spec, str) else next(iter(spec))
    coefficient = part.keywords.get("coefficient") if isinstance(part, partial) else None
    return name if coefficient is None else f"{name} x {coefficient:g}"
