"""Saves the whole run now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from hone.seats import State, settings


@settings
class Checkpoint:
    """Saves every so often, and after the last step. Place it after the hook that logs.

    Attributes:
        every: Steps between checkpoints; 0 for none on the way.
        at_end: Save after the last step.
    """

    every: int = Field(0, ge=0)
    at_end: bool = True

    def __post_init__(self) -> None:
        self._saved: int | None = None
        """The latest step that was saved by this hook."""

    def on_start(self, state: State) -> None:
        """Nothing to save yet."""

    def on_step(self, state: State) -> None:
        """Save when it is time to."""
        due = self.every and state.step % self.every == 0
        if due or (self.at_end and (state.step >= state.steps or state.stop)):
            self._save(state)

    def on_stop(self, state: State) -> None:
        """Save what has turned out to be the last step."""
        if self.at_end and self._saved != state.step:
            self._save(state)

    def on_end(self, state: State) -> None:
        """Nothing: the last step was saved as a step."""

    def state_dict(self) -> dict[str, Any]:
        """The latest step that was saved."""
        return {"saved": self._saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what was saved."""
        self._saved = state.get("saved")

    def _save(self, state: State) -> None:
        self._saved = state.step
        state.save()
