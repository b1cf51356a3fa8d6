"""Where a run can be watched: a terminal, a notebook, or plain lines of text."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live as Screen
from rich.text import Text

from hone.hooks.dashboard import Dashboard, evaluations, printable
from hone.seats import State


class View:
    """Shows a run at its start, after each step and at its end. ``close`` is safe at any moment."""

    def start(self, state: State) -> None:
        """Show that the run begins."""

    def step(self, state: State) -> None:
        """Show what the step brought."""

    def end(self, state: State) -> None:
        """Show how the run ended."""

    def close(self) -> None:
        """Give back what the view holds."""


class TerminalView(View):
    """The dashboard, redrawn in place; its clock ticks between steps."""

    def __init__(self, console: Console, dashboard: Dashboard) -> None:
        self._console, self._dashboard = console, dashboard
        self._screen = Screen(console=console, refresh_per_second=2)

    def start(self, state: State) -> None:
        """Draw the first picture, and start the thread that redraws it."""
        self._screen.update(self._dashboard.draw(state))
        self._screen.start(refresh=True)

    def step(self, state: State) -> None:
        """Draw the step's picture."""
        self._screen.update(self._dashboard.draw(state), refresh=True)

    def close(self) -> None:
        """Leave the last picture standing and show the cursor again."""
        self._screen.stop()


class NotebookView(View):
    """The dashboard as the output of a cell. Needs no widgets, so that it survives in a saved notebook."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._handle: Any = None

    def start(self, state: State) -> None:
        """Draw the first picture."""
        from IPython.display import display

        self._handle = display(self._dashboard.draw(state), display_id=True)

    def step(self, state: State) -> None:
        """Replace the picture."""
        self._handle.update(self._dashboard.draw(state))


class PlainView(View):
    """One line for the start, for each evaluation and for the end: for files, pipes and batch jobs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, state: State) -> None:
        """Say where the run is written, and where it stands."""
        self._began = time.monotonic()
        self._say(f"{state.folder}: {state.steps} steps" + (f", {state.step} done" if state.step else ""))
        self._say_evaluations(state)

    def step(self, state: State) -> None:
        """Say what an evaluation found, if there was one."""
        self._say_evaluations(state)

    def end(self, state: State) -> None:
        """Say how far the run came, and in what time."""
        took = timedelta(seconds=round(time.monotonic() - self._began))
        reason = f": {state.stop}" if state.stop else ""
        self._say(f"{state.folder}: ended at step {state.step} of {state.steps} after {took}{reason}")

    def _say_evaluations(self, state: State) -> None:
        found = evaluations(state.metrics).items()
        if found:
            self._say(f"step {state.step}: " + ", ".join(f"{name} {accuracy:.4g}" for name, accuracy in found))

    def _say(self, line: str) -> None:
        self._console.print(Text(printable(line)), soft_wrap=True)


def open_view(console: Console, state: State, names: list[str], sample: bool) -> View:
    """The view that fits the console; the dashboard needs block characters, hence Unicode."""
    if console.is_jupyter:
        return NotebookView(Dashboard(state, names, sample))
    if console.is_interactive and console.encoding.startswith("utf"):
        return TerminalView(console, Dashboard(state, names, sample))
    return PlainView(console)
