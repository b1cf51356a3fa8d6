"""What would make a run fit that does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from hone.planning.hardware import Hardware
from hone.planning.memory import Layout
from hone.planning.plan import Plan, Planner
from hone.policies.adapters import LoRA

MOST = 1024
"""Devices."""
LEAST = 256
"""Tokens of a micro-batch below which nothing is proposed."""


def remedies(planner: Planner, plan: Plan) -> list[str]:
    """Changes each of which alone makes every phase fit, and the first that do so together; none if none do."""
    found = [told for told, changed, layout in _tries(planner, plan) if _fits(changed, layout)]
    together = (told for told, changed, layout in _together(planner, plan) if _fits(changed, layout))
    return [*found, *islice(together, 1)]


def _tries(planner: Planner, plan: Plan) -> Iterator[tuple[str, Planner, Layout]]:
    config, layout = planner.config, plan.layout
    if smaller := _smaller(planner, plan):
        yield smaller
    for told, change in _models(config.model):
        yield told, _with(planner, config.model_copy(update={"model": replace(config.model, **change)})), layout
    if sharded := _sharded(planner, plan):
        yield sharded


def _together(planner: Planner, plan: Plan) -> Iterator[tuple[str, Planner, Layout]]:
    """All changes of the model at once, and these over several devices."""
    model, told = planner.config.model, []
    for text, change in _models(model):
        if not (change.keys() & {"lora"}):
            model, told = replace(model, **change), [*told, text]
            several = _with(planner, planner.config.model_copy(update={"model": model}))
            if len(told) > 1:
                yield " and ".join(told), several, plan.layout
            if sharded := _sharded(several, plan):
                yield f"{' and '.join(told)} and {sharded[0]}", *sharded[1:]


def _models(model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What may be changed in a model's settings."""
    if not model.gradient_checkpointing:
        yield "model.gradient_checkpointing=true", {"gradient_checkpointing": True}
    if not model.offload:
        yield "model.offload=true", {"offload": True}
    if not model.lora:
        yield "model.lora.rank=16", {"lora": LoRA(rank=16)}


def _smaller(planner: Planner, plan: Plan) -> tuple[str, Planner, Layout] | None:
    """The largest micro-batch that fits, of halves of this one."""
    tokens = planner.config.update.tokens // 2
    while tokens >= LEAST:
        update = replace(planner.config.update, tokens=tokens)
        changed = _with(planner, planner.config.model_copy(update={"update": update}))
        if _fits(changed, plan.layout):
            return f"update.tokens={tokens}", changed, plan.layout
        tokens //= 2
    return None


def _sharded(planner: Planner, plan: Plan) -> tuple[str, Planner, Layout] | None:
    """The fewest devices, a power of two, that fit when they share all weights."""
    devices = 2
    while devices <= MOST:
        layout = Layout(devices, "fsdp")
        if devices > plan.layout.parts and _fits(planner, layout):
            return f"--sharding fsdp --devices {devices}", planner, layout
        devices *= 2
    return None


def _with(planner: Planner, config: Any) -> Planner:
    """The same prompts and answers, with another configuration."""
    [first, *_] = planner.lengths.contexts
    model = planner.hollow if config.model.lora == planner.config.model.lora else None
    made = Planner(config, planner.hardware, prompt=first, response=planner.lengths.response, model=model)
    made.lengths = planner.lengths
    return made


def _fits(planner: Planner, layout: Layout) -> bool:
    return planner.plan(layout).fits


def other_hardware(planner: Planner, plan: Plan, table: dict[str, Hardware]) -> list[str]:
    """Names of devices in a table on which the run fits as it is, with their memory."""
    larger = {name: gear for name, gear in table.items() if gear.memory > plan.hardware.memory}
    return [
        f"--hardware {name} ({gear.memory / 1e9:.0f} GB)"
        for name, gear in larger.items()
        if gear.dtype(planner.config.model.dtype) == plan.dtype
        and gear.memory - gear.reserve >= plan.peak[1] - plan.hardware.reserve
    ]
