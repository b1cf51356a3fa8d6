"""The run's record: ``metrics.jsonl``, ``rollouts.jsonl`` and TensorBoard events, in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hone.hooks import jsonl
from hone.hooks.rows import rows
from hone.seats import State, settings


@settings
class Log:
    """Writes each step's metrics and trajectories.

    Place it after the hooks that add metrics (Evaluate), so that they are in the step's line, and before those that
    save checkpoints, so that no checkpoint is ahead of the record. A resumed run first drops the lines of steps that
    come after its checkpoint; it will do those steps again. A run that starts from the beginning starts new files.
    What is measured of a step after its line was written (an evaluation that was cut short, and is made when the run
    is resumed) is added to that line.

    A metric that is not finite is null in ``metrics.jsonl``; TensorBoard has it as it was.

    Attributes:
        tensorboard: Write TensorBoard events, to the folder ``tensorboard``.
        rollouts: Write every trajectory to ``rollouts.jsonl``, those of dropped groups included.
    """

    looks_on: ClassVar[bool] = True

    tensorboard: bool = True
    rollouts: bool = True

    def __post_init__(self) -> None:
        self._events: Any = None

    def on_start(self, state: State) -> None:
        """Open the record, cut back to the steps that are done; before the first step, log the evaluations so far."""
        first = state.step + 1 if state.step else 0
        state.folder.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            jsonl.cut(state.folder / name, first)
        (state.folder / "metrics.jsonl").touch()
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(state.folder / "tensorboard"), purge_step=first)
        self.on_stop(state)

    def on_step(self, state: State) -> None:
        """Log the step: trajectories first, so that where there is a line of metrics, its rollouts are complete."""
        if self.rollouts:
            jsonl.append(state.folder / "rollouts.jsonl", rows(state.step, state.groups, state.kept))
        self._log_metrics(state)

    def on_stop(self, state: State) -> None:
        """Add to the line of the step what was measured since."""
        if state.metrics:
            new = jsonl.amend(state.folder / "metrics.jsonl", {"step": state.step, **state.metrics})
            self._draw(state.step, {name: value for name, value in new.items() if name != "step"})

    def on_end(self, state: State) -> None:
        """Close the TensorBoard events; everything else is already on disk."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the files are the state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def _log_metrics(self, state: State) -> None:
        jsonl.append(state.folder / "metrics.jsonl", [{"step": state.step, **state.metrics}])
        self._draw(state.step, state.metrics)
        if self._events is None:
            return
        sample = next((trajectory for group in state.groups for trajectory in group), None)
        if sample is not None:
            text = "".join(segment.text for segment in sample.segments) + f"\n\nreward: {sample.reward}"
            # Indented by four it is a Markdown code block, so that TensorBoard shows the text as it is.
            self._events.add_text("sample", "    " + text.replace("\n", "\n    "), state.step)
        self._events.flush()

    def _draw(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()
