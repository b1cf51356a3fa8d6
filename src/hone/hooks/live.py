"""A live view of the run: in a terminal, in a notebook, or as a few plain lines where neither is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from pydantic import Field
from rich.console import Console

from hone.hooks.views import View, open_view
from hone.seats import State, settings

METRICS = ["reward/mean", "entropy/mean", "length/mean", "grad_norm", "tokens/second"]


@settings
class Live:
    """Shows the run as it goes. Place it last: it shows what the hooks before it have measured.

    A view that fails (a closed terminal) says so once in the log and stays quiet; the run goes on.

    Attributes:
        metrics: Names of the metrics to show with their course; ``tokens/second`` is sampled tokens over step time.
        sample: Show the first trajectory of each step.
        console: Where to draw; by default standard output.
    """

    looks_on: ClassVar[bool] = True

    metrics: list[str] = Field(default_factory=METRICS.copy)
    sample: bool = True
    console: Console | None = None

    def __post_init__(self) -> None:
        self._view: View | None = None

    def on_start(self, state: State) -> None:
        """Open the view that fits the place."""
        with self._guard():
            self._view = open_view(self.console or Console(), state, self.metrics, self.sample)
            self._view.start(state)

    def on_step(self, state: State) -> None:
        """Show the step."""
        with self._guard():
            if self._view is not None:
                self._view.step(state)

    def on_end(self, state: State) -> None:
        """Leave the last picture standing, and the terminal as it was."""
        with self._guard():
            if self._view is not None:
                self._view.end(state)
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the view begins anew with each process."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""

    @contextmanager
    def _guard(self) -> Iterator[None]:
        # Whatever a terminal does, hours of training are worth more than their picture.
        try:
            yield
        except Exception as error:
            self._close()
            logging.getLogger(__name__).warning("the live view failed and is off: %r", error)

    def _close(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            with suppress(Exception):
                view.close()
