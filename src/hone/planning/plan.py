"""A plan: what a run will take of memory, time and money, and whether it fits, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hone.planning import flops
from hone.planning.flops import Flops
from hone.planning.hardware import Hardware
from hone.planning.memory import Layout, Memory, Phase
from hone.planning.speed import Speed
from hone.planning.work import Lengths, Work, work
from hone.policies import sequence
from hone.policies.hollow import Hollow, Shape


@dataclass(frozen=True)
class Plan:
    """The prediction for a configuration.

    Attributes:
        config: Of the run.
        hardware: A device, of which there are ``layout.devices``.
        layout: How the run is spread over them.
        dtype: In which the model computes.
        shape: Of the model.
        lengths: Of prompts and answers.
        work: Of a step, on the device that has most of it.
        phases: Memory of a device.
        sampling, update: Seconds of a step by what takes them.
        flops: Of a device in a step: sampling and update.
    """

    config: Any
    hardware: Hardware
    layout: Layout
    dtype: str
    shape: Shape
    lengths: Lengths
    work: Work
    phases: dict[str, Phase]
    sampling: dict[str, float] = field(repr=False)
    update: dict[str, float] = field(repr=False)
    flops: tuple[Flops, Flops] = field(repr=False)

    @property
    def peak(self) -> tuple[str, float]:
        """The phase that takes most memory of a device, and its bytes."""
        name = max(self.phases, key=lambda name: self.phases[name].total)
        return name, self.phases[name].total

    @property
    def fits(self) -> bool:
        """Whether every phase does."""
        return self.peak[1] <= self.hardware.memory

    @property
    def beside(self) -> bool:
        """Whether sampling goes on beside the update, on devices of its own."""
        return self.config.max_staleness > 0 and hasattr(self.config.sampler, "urls")

    @property
    def step(self) -> float:
        """Seconds of a step, without judging that outlasts sampling, and without evaluations."""
        phases = sum(self.sampling.values()), sum(self.update.values())
        return max(phases) if self.beside else sum(phases)

    @property
    def seconds(self) -> float:
        """Of the run."""
        return self.step * self.config.steps

    @property
    def cost(self) -> float | None:
        """Of the run in US dollars, where the table has a price."""
        price = self.hardware.price
        return None if price is None else price * self.layout.devices * self.seconds / 3600


class Planner:
    """Makes plans for one configuration: its model's shapes and its prompts' lengths are read once.

    Args:
        config: A :class:`hone.Config`; nothing of it is loaded.
        hardware: A device.
        prompt: Tokens of a prompt, instead of measuring the first tasks.
        response: Tokens of an answer on the mean, instead of ``sampling.max_tokens``.
        model: Its shapes, where they are known.

    Raises:
        ValueError: If the model cannot be planned, or prompts cannot be measured.
    """

    def __init__(
        self,
        config: Any,
        hardware: Hardware,
        *,
        prompt: int | None = None,
        response: int | None = None,
        model: Hollow | None = None,
    ) -> None:
        self.config, self.hardware = config, hardware
        self.hollow = model or hollow(config, hardware)
        self.lengths = Lengths.of(config, self.hollow, prompt, response)

    def plan(self, layout: Layout | None = None, *, kept: int | None = None, rounds: float = 1) -> Plan:
        """The plan over so many devices, of a step in which so many groups are kept of so many rounds."""
        config, hardware, layout = self.config, self.hardware, layout or Layout()
        sequence.refuse(self.hollow.policy.text_config, config.update.sequence_parallel)
        memory = Memory(config, self.hollow, hardware, layout)
        packs = self.hollow.packs
        of_step = work(config, self.lengths, devices=layout.devices, packs=packs, kept=kept, rounds=rounds)
        speed, shape = Speed(config, memory), self.hollow.shape
        further = memory.reads_reference + (not of_step.on_policy)
        _, keep = memory.head_steps
        recomputed = config.model.gradient_checkpointing
        return Plan(
            config, hardware, layout, hardware.dtype(config.model.dtype), shape, self.lengths, of_step,
            phases=memory.phases(of_step),
            sampling=speed.sampling(of_step),
            update=speed.update(of_step),
            flops=(
                flops.sampling(shape, of_step),
                flops.update(shape, of_step, keep=keep, recomputed=recomputed, passes=further),
            ),
        )  # fmt: skip


def hollow(config: Any, hardware: Hardware) -> Hollow:
    """The configuration's model without its weights.

    Raises:
        ValueError: If it has no such form.
    """
    if not hasattr(config.model, "hollow"):
        raise ValueError(f"model: {type(config.model).__name__} cannot be planned: it has no hollow()")
    return config.model.hollow(hardware.dtype(config.model.dtype))
