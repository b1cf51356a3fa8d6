"""Saves the whole run now and then."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from hone.seats import State, settings

log = logging.getLogger("hone")


@settings
class Checkpoint:
    """Saves every so often, and after the last step. Place it after the hook that logs.

    Attributes:
        every: Steps between checkpoints; 0 for none on the way.
        at_end: Save after the last step.
        best: Save after each step with a better value of this metric than any before; less is better with a "-" before
            its name.
    """

    every: int = Field(0, ge=0)
    at_end: bool = True
    best: str | None = None

    def __post_init__(self) -> None:
        self._saved: int | None = None
        """The latest step that was saved by this hook."""
        self._best: tuple[str, float] | None = None
        """The metric, and its best value so far: of the steps of training, not of the policy before it."""

    def on_start(self, state: State) -> None:
        """Nothing to save yet, and nothing is known of a run that starts from the beginning."""
        if state.step == 0:
            self._saved = self._best = None

    def on_step(self, state: State) -> None:
        """Save when it is time to."""
        due = self.every and state.step % self.every == 0
        if self._is_best(state.metrics) or due or (self.at_end and (state.step >= state.steps or state.stop)):
            self._save(state)

    def on_stop(self, state: State) -> None:
        """Save what has turned out to be the last step."""
        if self.at_end and self._saved != state.step:
            self._save(state)

    def on_end(self, state: State) -> None:
        """Say if there was nothing to choose the best by; the last step was saved as a step."""
        if self.best and self._best is None and state.step:
            log.warning("checkpoint.best: no step has a metric %r", self.best.removeprefix("-"))

    def state_dict(self) -> dict[str, Any]:
        """The latest step that was saved, and the best value."""
        return {"saved": self._saved, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what was saved."""
        self._saved = state.get("saved")
        self._best = best if (best := state.get("best")) and best[0] == self.best else None

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        value = metrics.get(self.best.removeprefix("-")) if self.best else None
        if value is None or not math.isfinite(value):
            return False
        sign = -1.0 if self.best.startswith("-") else 1.0
        if better := self._best is None or sign * value > sign * self._best[1]:
            self._best = self.best, value
        return better

    def _save(self, state: State) -> None:
        self._saved = state.step
        state.save()
