"""ProRL: prolonged training under a KL penalty whose reference is replaced on the way.

M. Liu et al., "ProRL: Prolonged Reinforcement Learning Expands Reasoning Boundaries in Large Language Models", 2025
(arXiv 2505.24864, sections 2 and 3, appendix E). The options called v2 are from the authors' notes "ProRL v2" (NVIDIA
developer blog, 13 August 2025) and from the public recipes of NeMo-RL and OpenRLHF.

Claim: reinforcement learning, kept up for thousands of steps, solves what the base model cannot solve in any number of
attempts; what keeps it up is a penalty on the divergence from a reference policy that follows at a distance.

Equation, with the advantage A of GRPO, asymmetric clip (0.2, 0.4) and the ratio r::

    L(theta) = E[ min(r A, clip(r, 1 - 0.2, 1 + 0.4) A) ] - beta KL(pi_theta || pi_ref)

    on a reset:  pi_ref <- pi_theta,  and the optimiser's moments and step count are forgotten

Under a fixed reference the penalty comes to outweigh the advantage, and training stands still at the best policy that
the divergence allows. Each reset allows as much divergence again.

Everything but the reset is made of other parts, by configuration (``configs/prorl.yaml``, ``configs/prorl_v2.yaml``):
``kl_penalty``, ``ppo_clip``, ``informative`` with ``max_rounds`` (dynamic sampling), ``stages`` (number of siblings,
length, data or temperature that change at a step), and for v2 ``batch_whitened``, ``masked_importance``,
``stop_properly`` and ``cosine_length``. Here is the hook that resets.

Differs from the paper in:

- When to reset is a human decision there; no patience, no threshold and no period is given. Here triggers decide
  (:mod:`hone.math.triggers`), and every setting of a trigger is ours or, for 500 steps, that of the notes on v2.
- The coefficient beta and the estimator of the KL are not in the paper; the v2 recipes set 1e-4 and k2. Ours clamps
  nothing in k2, where NeMo-RL clamps the log-ratio at 20 and the estimate at 10.
- The notes on v2 keep the optimiser (``clear_optimizer: false``), and speak of a reset to the best checkpoint in one
  place and to the current policy in another (``target``). ``rollback`` and ``restart_schedule`` are ours.
- Dynamic sampling drops prompts with an accuracy of exactly 0 or 1. ``informative`` drops groups whose rewards are all
  equal. That is the same for right and wrong; for graded rewards it is stricter, for a group of equal halves has no
  gradient either. So no group that is trained on has zero variance.

Together with other parts:

- The KL is counted on the steps that are trained and on no others: under reflect-retry on the reflections.
- Reference log-probabilities are computed when a group enters the update, never when it is played. A reset lies
  between two steps of the run, so groups that were played before it and are trained on after it see the new reference.
- High-entropy weights multiply the surrogate alone: the KL stays on all trained steps.
- SynthRL plays outside of training and sees the policy, which a reset leaves as it is (unless there is a rollback).
- The loss of the penalty is logged as ``loss/kl_penalty`` beside ``loss/surrogate``, and the divergence as ``kl/mean``;
  a ``spike`` may watch either.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from hone.seats import State, Trigger, settings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("hone")


class Reset(NamedTuple):
    """A decision to reset, and what it rests on.

    Attributes:
        step: After which it came.
        trigger: The name of the trigger that called for it.
        reason: What the trigger says, with the numbers that it saw.
        target: The step whose policy became the reference.
    """

    step: int
    trigger: str
    reason: str
    target: int


@settings
class ProRL:
    """Replaces the reference policy, and starts the optimiser anew, when a trigger calls for it.

    The triggers are asked after every step and see the metrics of the steps since the last reset, evaluations included
    (those before training too, as step 0). Each step logs ``reset/happened`` (0 or 1) and ``reset/count``, a step with
    a reset also ``reset/target``, the step whose policy became the reference. ``resets.jsonl`` in the run's folder has
    a line for each reset with its reason; :func:`replay` finds the same ones from ``metrics.jsonl`` alone.

    ::

        hooks:
          - prorl:
              triggers:
                - plateau: {metric: eval/heldout/accuracy, patience: 3, min_delta: 0.01}
                - spike: {limit: 0.1}
              cooldown: 100

    Attributes:
        triggers: Asked in this order; the first reason counts.
        target: What becomes the reference: the "current" policy, as in the paper, or the "best" of the run so far.
            The best is kept in memory and in checkpoints, once in float32.
        metric: Tells the best, such as "eval/heldout/accuracy"; among equals the latest is best.
        mode: Whether "max" or "min" of it is best.
        rollback: The policy itself goes back to the best, too.
        clear_optimizer: Forget the optimiser's moments and step count: the paper does, the notes on v2 do not.
        restart_schedule: Start the learning rate's course anew, over the steps that remain.
        cooldown: Fewest steps from one reset to the next.
    """

    reads_evaluations: ClassVar[bool] = True

    triggers: list[Trigger] = Field(min_length=1)
    target: Literal["current", "best"] = "current"
    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    rollback: bool = False
    clear_optimizer: bool = True
    restart_schedule: bool = False
    cooldown: int = Field(0, ge=0)

    def __post_init__(self) -> None:
        if self.target == "best" and self.metric is None:
            raise ValueError('target = "best": needs a metric that tells which policy is best')
        if self.rollback and self.target != "best":
            raise ValueError('rollback: goes back to the best policy, so target must be "best"')
        self._forget()

    def _forget(self) -> None:
        self._history: list[dict[str, float]] = []
        """The finite metrics of the steps since the last reset."""
        self._resets: list[Reset] = []
        self._best: tuple[int, float] | None = None
        """Step and value of the best so far."""
        self._weights: dict[str, Tensor] = {}
        """The trainable weights of that step, on the CPU."""

    def on_start(self, state: State) -> None:
        """Look at the evaluations before training; in a resumed run, drop the record of resets that it will do again.

        Raises:
            ValueError: If there is no reference, or a trigger reads an evaluation that this run does not make.
        """
        if state.reference is None:
            raise ValueError(
                "hooks.prorl: there is no reference to reset, for nothing reads one; add one that does, such as "
                "objective.policy_gradient.penalties: [{kl_penalty: {coefficient: 1.0e-4, estimator: k2}}]"
            )
        if state.step == 0:
            self._forget()
            self._check_names(state.metrics)
            self._see({"step": 0, **state.metrics})
            self._keep_best(state)
        elif self._history and self._history[-1]["step"] == state.step:
            # An evaluation of the last step that was cut short has been made up for.
            self._history[-1] |= {name: float(v) for name, v in state.metrics.items() if _finite(v)}
        self._write(state)

    def on_step(self, state: State) -> None:
        """Ask the triggers, and reset if one has a reason to."""
        found = self._see({"step": state.step, **state.metrics})
        self._keep_best(state)
        if found:
            self._reset(found, state)
        state.metrics |= {"reset/happened": float(found is not None), "reset/count": float(len(self._resets))}

    def on_end(self, state: State) -> None:
        """Nothing: every reset is on disk already."""

    def state_dict(self) -> dict[str, Any]:
        """What the next decision depends on, and the weights of the best policy if it may become the reference."""
        return {
            "history": [dict(row) for row in self._history],
            "resets": [reset._asdict() for reset in self._resets],
            "best": self._best,
            "weights": dict(self._weights),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the hook that gave this state would have gone on."""
        self._history = [dict(row) for row in state["history"]]
        self._resets = [Reset(**reset) for reset in state["resets"]]
        self._best, self._weights = state["best"], dict(state["weights"])

    def _see(self, metrics: Mapping[str, Any]) -> Reset | None:
        """Take in the metrics of a step, and decide."""
        row = {name: float(value) for name, value in metrics.items() if _finite(value) and not name.startswith(_UNSEEN)}
        row["step"] = step = int(row["step"])
        self._history.append(row)
        if self.target == "best" and self.metric in row:
            value, sign = row[self.metric], 1.0 if self.mode == "max" else -1.0
            if self._best is None or sign * value >= sign * self._best[1]:
                self._best = step, value
        reasons = [(_name(trigger), reason) for trigger in self.triggers if (reason := trigger(self._history))]
        cooling = self._resets and step - self._resets[-1].step < self.cooldown
        if not reasons or step == 0 or cooling or (self.target == "best" and self._best is None):
            return None
        self._history = []
        self._resets.append(Reset(step, *reasons[0], self._best[0] if self.target == "best" else step))
        return self._resets[-1]

    def _keep_best(self, state: State) -> None:
        if self._best and self._best[0] == state.step:
            self._weights = {name: w.detach().to("cpu", copy=True) for name, w in state.policy.state_dict().items()}

    def _reset(self, reset: Reset, state: State) -> None:
        state.anchor(self._weights if self.target == "best" else None)
        if self.rollback and reset.target != state.step:
            state.policy.load_state_dict(self._weights)
            state.policy.advance()  # these are other weights, so they have a version of their own
        if self.clear_optimizer or self.restart_schedule:
            state.restart(optimizer=self.clear_optimizer, schedule=self.restart_schedule)
        state.metrics["reset/target"] = float(reset.target)
        self._write(state)
        log.info("step %d: the policy of step %d is the reference now: %s", reset.step, reset.target, reset.reason)

    def _write(self, state: State) -> None:
        """Write the record anew from what this hook remembers, so that it never holds more."""
        path = state.folder / "resets.jsonl"
        if not self._resets:
            path.unlink(missing_ok=True)
            return
        done = {"rollback": self.rollback, "optimizer": self.clear_optimizer, "schedule": self.restart_schedule}
        lines = [json.dumps(reset._asdict() | done, ensure_ascii=False) + "\n" for reset in self._resets]
        scratch = path.with_name(".resets.jsonl.partial")
        scratch.write_text("".join(lines), encoding="utf-8")
        scratch.replace(path)

    def _check_names(self, metrics: Mapping[str, float]) -> None:
        """A misspelt metric would never call for anything."""
        read = [getattr(trigger, "keywords", {}).get("metric") for trigger in self.triggers]
        for name in filter(None, (*read, self.metric if self.target == "best" else None)):
            unjudged = f"{name.rpartition('/')[0]}/errors" in metrics
            if name.startswith("eval/") and name not in metrics and not unjudged:
                there = ", ".join(sorted(other for other in metrics if other.startswith("eval/"))) or "none"
                raise ValueError(f"hooks.prorl: no evaluation gives the metric {name!r}; there are: {there}")


def replay(metrics: Iterable[Mapping[str, Any]], hook: ProRL) -> list[Reset]:
    """Decide again, from the rows of ``metrics.jsonl`` alone, as the hook with these settings did.

    Other settings show when it would have reset: up to its first other decision, for the run went on differently then.

    Args:
        metrics: The rows of the whole run, in order, such as ``Run(folder).metrics``.
        hook: With the settings to decide by; it is left as it is.
    """
    again = replace(hook)
    return [found for row in metrics if (found := again._see(row))]


_UNSEEN = ("reset/", "time/", "memory/")
"""What triggers do not see: their own doing, and times, on which no decision that is to be repeatable may rest."""


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _name(trigger: Trigger) -> str:
    function = getattr(trigger, "func", trigger)
    return getattr(function, "__name__", type(function).__name__)
