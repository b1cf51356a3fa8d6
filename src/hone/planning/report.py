"""A plan, told in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.table import Table

from hone.planning.memory import Phase
from hone.planning.plan import Plan

GIB = 2**30


def report(plan: Plan) -> RenderableType:
    """All of it."""
    return Group(arithmetic(plan), memory(plan), speed(plan), *conclusion(plan))


def arithmetic(plan: Plan) -> Table:
    """What is computed, and how much of it."""
    shape, work, config = plan.shape, plan.work, plan.config
    layout = plan.layout
    table = Table("", "", title=f"{layout.devices} x {plan.hardware.title}, {plan.dtype}, sharding {layout.sharding}")
    micros = [len(mini) for mini in work.minibatches]
    largest, contexts = work.largest, plan.lengths.contexts
    rows = {
        "weights": f"{shape.parameters:,}",
        "of them trained": f"{shape.trained:,}",
        "prompt, tokens": f"{sum(contexts) / len(contexts):.0f} (at most {max(contexts)})",
        "answer, tokens": f"{work.response:,} of at most {config.sampling.max_tokens:,}",
        "answers a step = prompts x siblings": f"{config.prompts:,} x {config.siblings:,}",
        "of a device": f"{work.sequences:,}",
        "mini-batches x epochs": f"{len(micros)} x {work.epochs}",
        "micro-batches of each": ", ".join(map(str, micros)) or "none",
        "largest, tokens": f"{largest.tokens:,} of at most {config.update.tokens:,}" if largest else "none",
        "FLOPs of sampling": f"{plan.flops[0].total:.3g}",
        "FLOPs of the update": f"{plan.flops[1].total:.3g}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def memory(plan: Plan) -> Table:
    """Of a device, a column a phase."""
    table = Table("memory of a device, GiB", *plan.phases, title="memory")
    names = dict.fromkeys(name for phase in plan.phases.values() for name in phase.device)
    for name in names:
        table.add_row(name, *(_gib(phase.device.get(name)) for phase in plan.phases.values()))
    table.add_section()
    table.add_row("all", *(_gib(phase.total) for phase in plan.phases.values()))
    if any(phase.host for phase in plan.phases.values()):
        table.add_row("beside, on the host", *(_gib(_host(phase)) for phase in plan.phases.values()))
    return table


def speed(plan: Plan) -> Table:
    """Seconds of a step, and tokens a second of its two phases."""
    table = Table("seconds of a step", "sampling", "update", title="time")
    for name in dict.fromkeys([*plan.sampling, *plan.update]):
        table.add_row(name, _seconds(plan.sampling, name), _seconds(plan.update, name))
    table.add_section()
    phases = [sum(part.values()) for part in (plan.sampling, plan.update)]
    table.add_row("all", *(f"{seconds:.3g}" for seconds in phases))
    micros = [micro for mini in plan.work.minibatches for micro in mini]
    tokens = plan.work.sequences * plan.work.response, sum(micro.tokens for micro in micros)
    rates = [f"{count * plan.layout.devices / seconds:,.0f}" if seconds else "" for count, seconds in
             zip(tokens, phases, strict=True)]  # fmt: skip
    table.add_row("tokens/s, all devices", *rates)
    return table


def conclusion(plan: Plan) -> Iterator[str]:
    """The run's time and cost, and how full a device is."""
    name, most = plan.peak
    share = most / plan.hardware.memory
    yield f"a step: {plan.step:.3g} s; {plan.config.steps:,} steps: {timedelta(seconds=round(plan.seconds))}"
    if plan.config.max_staleness:
        where = "on devices of its own" if plan.beside else "on the same device: what each leaves idle is not counted"
        yield f"Sampling goes on beside the update, {where}."
    if plan.cost is not None:
        yield f"cost: {plan.cost:,.2f} USD at {plan.hardware.price:g} an hour and device"
    yield f"most memory: {_gib(most)} of {_gib(plan.hardware.memory)} GiB ({share:.0%}), in {name}"
    yield "Evaluations, checkpoints, and judging that outlasts sampling are not counted; all groups are kept."


def _host(phase: Phase) -> float:
    return sum(phase.host.values())


def _gib(amount: float | None) -> str:
    return "" if amount is None else f"{amount / GIB:.2f}"


def _seconds(parts: Mapping[str, float], name: str) -> str:
    return f"{parts[name]:.3g}" if parts.get(name) else ""
