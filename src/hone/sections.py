"""The sections of a configuration: settings of the loop itself, where there is no implementation to choose."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hone.seats import Environment, SamplingParams, TaskSource, Verifier, settings

Decay = Annotated[float, Field(ge=0, lt=1)]


@settings
class OptimizerConfig:
    """AdamW, and the course of its learning rate.

    Attributes:
        lr: Learning rate after the warm-up.
        schedule: Its course from there to the last step.
        warmup_steps: Steps of the run in which the learning rate rises linearly from 0.
        weight_decay: Decoupled, on all trained weights.
        betas: Decay of the running mean of the gradient, and of its square.
        eps: Added to the root of the second.
        max_grad_norm: Gradients are scaled down to this norm.
    """

    lr: float = Field(1e-6, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)


@settings
class UpdateConfig:
    """How the groups of a step become optimiser steps.

    Attributes:
        minibatches: Optimiser steps per pass over the groups; with one pass and one of these, training is on-policy.
        epochs: Passes.
        tokens: Most tokens of a micro-batch, padding included. Only memory and speed depend on it: of a group that
            does not fit, the prompt is computed for each part anew.
        sequence_parallel: Processes that compute each micro-batch together, for rows that are too long for one: each
            holds a part of its steps, and of the heads while these attend (Ulysses). Of ``tokens`` as many more fit.
        spike: An optimiser step whose gradient norm is more than so many times the median of the 20 before is bad, as
            is one whose norm is not finite; None for no such limit. A bad one is never taken.
        on_bad: What else follows on it: "skip" nothing, "rollback" the weights and moments of the newest checkpoint
            (at most three times in vain), "stop" the run. Without a checkpoint, "rollback" is "skip".
    """

    minibatches: int = Field(1, ge=1)
    epochs: int = Field(1, ge=1)
    tokens: int = Field(4096, ge=1)
    sequence_parallel: int = Field(1, ge=1)
    spike: float | None = Field(None, gt=1)
    on_bad: Literal["skip", "rollback", "stop"] = "skip"


@settings
class VerificationConfig:
    """Where verifiers run: in worker processes, with limits.

    Attributes:
        workers: Number of processes.
        timeout: Seconds for one verdict.
        prepare_timeout: Seconds for a worker to start and to import what the verifier needs; None for no limit.
        memory_gb: GiB that a verdict may add to a worker's memory; None for no limit.
        on_error: When judging fails, "drop" the trajectory from its group or "stop" the run. A step in which it fails
            for every trajectory ends the run in any case.
    """

    workers: int = Field(2, ge=1)
    timeout: float = Field(10.0, gt=0)
    prepare_timeout: float | None = Field(120.0, gt=0)
    memory_gb: float | None = Field(4.0, gt=0)
    on_error: Literal["drop", "stop"] = "drop"

    @property
    def pool(self) -> dict[str, Any]:
        """The settings of each :class:`~hone.verifiers.pool.VerifierPool`."""
        names = ("workers", "timeout", "prepare_timeout", "memory_gb")
        return {name: getattr(self, name) for name in names}


@settings
class LimitsConfig:
    """Seconds after which something hangs: the stacks of all threads are logged, and the run ends; None for no limit.

    Attributes:
        sampling: For playing the tasks of a round, of an evaluation or of a source, verdicts included.
        update: For the update of a step, and for saving a checkpoint.
    """

    sampling: float | None = Field(7200.0, gt=0)
    update: float | None = Field(7200.0, gt=0)


@settings
class EvalConfig:
    """One evaluation: the same tasks before, during and after training.

    Attributes:
        tasks: A source of its own.
        items: Number of tasks that are taken from it.
        every: Steps between evaluations; 0 for only before and after training.
        siblings: Trajectories per task.
        sampling: What it does not set is as in training, but for the temperature: without one, an evaluation is
            greedy. An object made in Python is taken as it is.
        verifier: None is that of training.
        environment: None is that of training.
    """

    tasks: TaskSource
    items: int = Field(128, ge=1)
    every: int = Field(0, ge=0)
    siblings: int = Field(1, ge=1)
    sampling: SamplingParams | None = None
    verifier: Verifier | None = None
    environment: Environment | None = None


@settings
class CheckpointConfig:
    """When the whole run is saved.

    Attributes:
        every: Steps between checkpoints; 0 for none on the way.
        keep: The newest that are kept.
        best: A metric, such as "eval/heldout/accuracy": after each step that has a better value of it than any before,
            the run is saved too. That checkpoint is kept beside the newest, and ``checkpoints/best`` is a link to it.
            More is better; with a "-" before the name, less.
        at_end: Save after the last step.
    """

    every: int = Field(0, ge=0)
    keep: int = Field(2, ge=1)
    best: str | None = Field(None, pattern=r"^-?[^-\s]\S*$")
    at_end: bool = True
