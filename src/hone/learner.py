"""The update: from judged groups to new weights."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from hone import collate, ranks
from hone.keys import key
from hone.meter import Meter
from hone.seats import Engine, Objective, Policy, Reference
from hone.sections import OptimizerConfig, UpdateConfig
from hone.shards import full, kept, placed
from hone.types import Batch, Group, Loss

log = logging.getLogger("hone")

USUAL = 20
"""Gradient norms whose median is the measure of a spike."""
WASTE = 1.5
"""Tokens that are computed for each that there is, above which that is told."""
SKETCH = 4096
"""Most entries of a weight's gradient that :meth:`Learner.gradient` gives."""


class Learner:
    """Owns the optimiser; ``update`` is one training step.

    In a run of several processes all make it with the same groups, each on its share of them.

    Args:
        policy: Loaded.
        objective: Gives each micro-batch's loss as a sum and its weight.
        optimizer: Settings.
        update: Settings.
        steps: Of the run, for the schedule.
        temperature: Of sampling.
        seed: Of the order of mini-batches within an epoch.
        engine: Brings the gradients of several processes together.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        optimizer: OptimizerConfig,
        update: UpdateConfig,
        *,
        steps: int,
        temperature: float,
        seed: int = 0,
        engine: Engine | None = None,
    ) -> None:
        self.policy, self.objective, self.settings, self.engine = policy, objective, update, engine
        self.temperature, self.seed = temperature, seed
        self.max_grad_norm = optimizer.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._course, self._steps = optimizer, steps
        self._norms: list[float] = []
        """Gradient norms of the last steps that were taken."""
        self._told = False
        self._schedule(began=0)

    @property
    def settings(self) -> UpdateConfig:
        """Which may be others from a step on."""
        return self._settings

    @settings.setter
    def settings(self, update: UpdateConfig) -> None:
        if update.sequence_parallel > 1:
            if not hasattr(self.policy, "spread"):
                raise ValueError(f"update.sequence_parallel: a {type(self.policy).__name__} cannot be spread")
            self.policy.spread(update.sequence_parallel)
        self._settings = update

    def update(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """Train on the groups, and return the means of the objective's metrics over all micro-batches."""
        for group in groups:
            if any(t.advantage is None for t in group if t.trained and t.reward is not None):
                raise ValueError(f"task {group.task.id!r}: a judged trajectory has no advantage; who writes it?")
        self._tell_waste(groups)
        meter = Meter()
        minibatches = self._minibatches(groups)
        on_policy = len(minibatches) * self.settings.epochs == 1
        if not on_policy:
            for batch in (batch for mini in minibatches for batch in mini):
                batch.old_logprobs = self._score(batch)
        for epoch in range(self.settings.epochs):
            for mini in sorted(range(len(minibatches)), key=lambda i: key(self.seed, step, epoch, i)):
                self._step(minibatches[mini], meter, key(self.seed, "draws", step, epoch, mini))
        metrics = meter.means() | {"lr": self.scheduler.get_last_lr()[0]}
        if follow := getattr(self.objective, "follow", None):
            metrics |= follow(metrics)
        with warnings.catch_warnings():  # a step without signal is one of the run all the same, though nothing stepped
            warnings.simplefilter("ignore", UserWarning)
            self.scheduler.step()
        return metrics

    def annotate(self, groups: Sequence[Group], reference: Reference) -> None:
        """Write the reference's log-probabilities into the trained segments."""
        trajectories = [trajectory for group in groups for trajectory in group]
        own = [collate.spread(reference.score(batch).logprobs, batch) for batch in self._batches(groups)]
        for found in (found for part in ranks.each(lambda: own) for found in part):
            for index, values in found.items():
                rest = iter(values)
                trajectories[index].segments = [
                    replace(s, reference_logprobs=tuple(next(rest) for _ in s.actions)) if s.train else s
                    for s in trajectories[index].segments
                ]

    def restart(self, *, optimizer: bool = True, schedule: bool = False) -> None:
        """Begin anew from the weights as they are.

        Args:
            optimizer: Forget the moments of the gradient and the number of steps.
            schedule: Start the learning rate's course again, warm-up included, over the steps that remain.
        """
        if optimizer:
            self.optimizer.state.clear()
        if schedule:
            self._schedule(began=self._began + self.scheduler.last_epoch)

    def _schedule(self, *, began: int) -> None:
        """A course of the learning rate from the step ``began`` of the run to its last."""
        from transformers import get_scheduler

        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = self._course.lr
        name = "constant_with_warmup" if self._course.schedule == "constant" else self._course.schedule
        self._began = began
        self.scheduler = get_scheduler(name, self.optimizer, self._course.warmup_steps, self._steps - began)

    def _minibatches(self, groups: Sequence[Group]) -> list[list[Batch]]:
        parts = self.settings.minibatches
        cuts = [len(groups) * i // parts for i in range(parts + 1)]
        return [batches for a, b in pairwise(cuts) if (batches := self._batches(groups[a:b]))]

    def _batches(self, groups: Sequence[Group]) -> list[Batch]:
        """The micro-batches of this process."""
        how = {"tokens": self.settings.tokens, "temperature": self.temperature}
        together = self.settings.sequence_parallel
        hand, hands = ranks.index() // together, ranks.count() // together
        return self._joint(collate.share(groups, self.policy, **how, hand=hand, hands=hands))

    def unshared(
        self, groups: Sequence[Group], *, tokens: int | None = None, temperature: float | None = None
    ) -> list[Batch]:
        """Micro-batches of groups that every process scores, or those that compute together; for looks, not updates."""
        heat = self.temperature if temperature is None else temperature
        return self._joint(
            collate.batches(groups, self.policy, tokens=tokens or self.settings.tokens, temperature=heat)
        )

    def _joint(self, batches: Sequence[Batch]) -> list[Batch]:
        return [replace(batch, processes=self.settings.sequence_parallel) for batch in batches]

    def _tell_waste(self, groups: Sequence[Group]) -> None:
        """Say once that most of the work is done several times over."""
        if self._told or ranks.index():
            return
        times, enough = collate.repeated(groups, self.policy, self.settings.tokens)
        self._told = times > WASTE
        if self._told:
            log.warning(
                "update.tokens = %d: groups do not fit, so their prompts are computed anew for parts of them: %.1f "
                "tokens for each that there is; with %d each is computed once, for more memory",
                self.settings.tokens, times, enough,
            )  # fmt: skip

    @torch.no_grad()
    def _score(self, batch: Batch) -> torch.Tensor:
        return self.policy.score(batch).logprobs

    def _step(self, micro_batches: Sequence[Batch], meter: Meter, seed: int) -> None:
        """One optimiser step: sum gradients over micro-batches and processes, divide once by the summed weight."""
        own = self._backward(micro_batches, meter, seed)
        counts = ranks.index() % self.settings.sequence_parallel == 0  # of those that computed the same
        total, weight = ranks.summed(*(own if counts else (0.0, 0.0)))
        if self.engine is not None:
            self.engine.reduce(self.policy.parameters())
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        if weight:
            norm = self._scale(parameters, weight)
            meter.add("loss", total / weight, 1)
            meter.add("grad_norm", norm, 1)
            bad = self._bad(norm)
            meter.add("update/skipped", float(bad is not None), 1)
            if bad is None:
                self.optimizer.step()
                self.policy.advance()
                self._norms = [*self._norms, norm][-USUAL:]
            else:
                log.warning("an optimiser step was skipped: %s", bad)
        self.optimizer.zero_grad(set_to_none=True)

    def _scale(self, parameters: Sequence[torch.nn.Parameter], weight: float) -> float:
        """Divide summed gradients by their weight and clip them, in one pass; the norm before it was clipped."""
        norm = float(full(torch.nn.utils.get_total_norm([p.grad for p in parameters]))) / weight
        clipped = min(1.0, self.max_grad_norm / (norm + 1e-6)) if math.isfinite(norm) else 1.0
        if parameters:
            torch._foreach_mul_([p.grad for p in parameters], clipped / weight)
        return norm

    def _backward(self, micro_batches: Sequence[Batch], meter: Meter, seed: int) -> tuple[float, float]:
        """Add up the gradients of micro-batches; the sums of their losses and weights."""
        total = weight = 0.0
        for batch in micro_batches:
            batch.seed = seed
        if survey := getattr(self.objective, "survey", None):
            survey(self.policy, micro_batches)
        for batch in micro_batches:
            loss: Loss = self.objective(self.policy, batch)
            loss.total.backward()
            total, weight = total + float(loss.total.detach()), weight + loss.weight
            for name, (value, count) in loss.metrics.items():
                meter.add(name, value, count)
        return total, weight

    def _bad(self, norm: float) -> str | None:
        """Why a gradient of this norm must not be followed, or None."""
        if not math.isfinite(norm):
            return f"the norm of its gradient is {norm}"
        spike = self.settings.spike
        if spike is not None and len(self._norms) == USUAL and norm > spike * (usual := statistics.median(self._norms)):
            return f"the norm of its gradient is {norm:.4g}, more than {spike:g} times the usual {usual:.4g}"
        return None

    def gradient(self, groups: Sequence[Group], *, tokens: int) -> torch.Tensor:
        """The gradient that groups have when they are cut into micro-batches of so many tokens; nothing is updated.

        Every process computes all of it, or with its neighbours; an engine that sums in the backward pass gives a
        multiple, and a field that pools over processes sees each step once from every one.

        Returns:
            ``[N]`` float32 on the CPU: of each weight, entries at equal distances, at most about 4096.
        """
        _, weight = self._backward(self.unshared(groups, tokens=tokens), Meter(), seed=0)
        pieces = [
            full(parameter.grad).flatten()[:: -(-parameter.numel() // SKETCH)].float().cpu() / (weight or 1.0)
            for parameter in self.policy.parameters()
            if parameter.grad is not None
        ]
        self.optimizer.zero_grad(set_to_none=True)
        return ranks.together(torch.cat(pieces) if pieces else torch.zeros(0), self.settings.sequence_parallel)

    def splits(self, *, exact: bool) -> bool:
        """Whether the objective's gradient must not depend on the micro-batches.

        Args:
            exact: Whether scores do not depend on them by rounding either, which may flip a choice by rank.
        """
        parts = getattr(self.objective, "weights", ())
        whole = not any(getattr(part, "layout_matters", False) for part in parts)
        return whole and (exact or not any(getattr(part, "pooled", False) for part in parts))

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and schedule; of sharded moments the first process has all."""
        scheduler = self.scheduler.state_dict()
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            place: {name: kept(v) if isinstance(v, torch.Tensor) else v for name, v in moments.items()}
            for place, moments in optimizer["state"].items()
        }
        return {"optimizer": optimizer, "scheduler": scheduler, "began": self._began, "norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over moments and progress; the settings (learning rate, decay, schedule) stay those of this run."""
        self._schedule(began=state.get("began", 0))
        self._norms = list(state.get("norms", []))
        groups, bases = self.optimizer.state_dict()["param_groups"], self.scheduler.base_lrs
        weights = self.policy.parameters()
        moments = {
            place: {
                name: v.clone() if name == "step" else placed(v, weights[place], own=True) for name, v in saved.items()
            }
            for place, saved in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.scheduler.load_state_dict(state["scheduler"] | {"base_lrs": bases})
        for group, base, factor in zip(self.optimizer.param_groups, bases, self.scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.scheduler.last_epoch)
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
