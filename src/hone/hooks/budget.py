"""Ends a run when it has sampled so much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from hone.seats import State, settings


@settings
class Budget:
    """Stops after the step in which the run's sampled tokens reach a number: runs that cost the same can be compared.

    Counted are ``tokens/sampled`` and ``tokens/aside`` (what sources played to make tasks), not the evaluations. It
    logs the sum as ``tokens/total``.

    Attributes:
        tokens: The number.
    """

    tokens: int = Field(ge=1)

    def __post_init__(self) -> None:
        self._total = 0

    def on_start(self, state: State) -> None:
        """A run that starts from the beginning has sampled nothing; one that is resumed at its end has enough."""
        if state.step == 0:
            self._total = 0
        self._stop_if_enough(state)

    def on_step(self, state: State) -> None:
        """Count, and stop when it is enough."""
        self._total += int(state.metrics["tokens/sampled"] + state.metrics.get("tokens/aside", 0))
        state.metrics["tokens/total"] = self._total
        self._stop_if_enough(state)

    def on_end(self, state: State) -> None:
        """Nothing."""

    def _stop_if_enough(self, state: State) -> None:
        if self._total >= self.tokens:
            state.stop = state.stop or f"{self._total} tokens were sampled, of a budget of {self.tokens}"

    def state_dict(self) -> dict[str, Any]:
        """The tokens so far."""
        return {"total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._total = state["total"]
