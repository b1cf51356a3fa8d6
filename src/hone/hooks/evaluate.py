"""Held-out accuracy before, during and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from hone.hooks import jsonl
from hone.hooks.rows import rows
from hone.math.passk import budgets, mean_pass_at_k, right
from hone.seats import Environment, SamplingParams, State, TaskSource, Verifier, settings
from hone.types import Group, Task


@settings
class Evaluate:
    """Plays the same tasks with the same noise each time, so that two evaluations differ only by the weights.

    It runs before the first step, every ``every`` steps, and at the end. Place it before the hook that logs, and after
    any hook that may stop the run, so that the last evaluation is part of the last step. One that Ctrl-C cut short is
    made when the run is resumed, before anything else, and belongs to the step after which it was due. The metrics are
    ``eval/<name>/accuracy`` (mean reward of the judged trajectories), ``length`` (mean sampled tokens), ``truncated``
    (share that ran out of tokens), and ``errors`` (trajectories that could not be judged) when there are any. With
    siblings there are ``pass@<k>`` too, for k = 2, 4, 8, ... and all of them: the chance that one of k answers is
    right, that is has a reward of at least 1, estimated without bias. Pass@1 is the accuracy where rewards are 0 or 1.
    A task counts where k of its answers were judged. The trajectories are written to ``evals/<name>/step-<N>.jsonl``:
    the rows of ``rollouts.jsonl``.

    Attributes:
        name: Tells several evaluations apart: in metrics, files and curves.
        tasks: Its own source, not the one that is trained on: the first ``items`` tasks are taken from it.
        items: Number of tasks; fewer if the source ends before.
        every: Steps between evaluations during training; 0 for only before and after.
        siblings: Trajectories per task; more give a steadier number where sampling is not greedy.
        sampling: How to sample.
        verifier: Judges the trajectories; None for the run's own.
        environment: How a task is played; None for the run's own.
    """

    name: str = Field(pattern=r"^\w[\w.+-]*$")
    tasks: TaskSource
    items: int = Field(128, ge=1)
    every: int = Field(0, ge=0)
    siblings: int = Field(1, ge=1)
    sampling: SamplingParams
    verifier: Verifier | None = None
    environment: Environment | None = None

    def __post_init__(self) -> None:
        self.first: list[Group] = []
        """Groups of the evaluation before training; empty in a resumed run."""
        self.last: list[Group] = []
        """Groups of the latest evaluation."""
        self._items: list[Task] = []
        self._begun: int | None = None
        """Step of the latest evaluation; it was cut short if it is not the step of the latest that was ``_done``."""
        self._done: int | None = None

    def on_start(self, state: State) -> None:
        """Evaluate before training, or what is due; a resumed run forgets the evaluations of steps to do again."""
        for path in self._folder(state).glob("step-*.jsonl"):
            if int(path.stem.removeprefix("step-")) > state.step:
                path.unlink()
        if state.step == 0:
            self.first = self._evaluate(state)
        elif self._begun == state.step != self._done:
            self._evaluate(state)

    def on_step(self, state: State) -> None:
        """Evaluate when it is time to, and after the last step."""
        due = self.every > 0 and state.step % self.every == 0
        if due or state.step >= state.steps or state.stop:
            self._evaluate(state)

    def on_stop(self, state: State) -> None:
        """Evaluate after what has turned out to be the last step."""
        if self._done != state.step:
            self._evaluate(state)

    def on_end(self, state: State) -> None:
        """Nothing: the last step was evaluated as a step, so that its numbers are in the step's log."""

    def state_dict(self) -> dict[str, Any]:
        """The steps of the latest evaluations, begun and done; the tasks are the first of their source, whenever."""
        return {"begun": self._begun, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what is due."""
        self._begun, self._done = state.get("begun"), state.get("done")

    def _evaluate(self, state: State) -> list[Group]:
        self._begun = state.step
        self._items = self._items or list(islice(self.tasks, self.items))
        if not self._items:
            raise ValueError(f"evaluation {self.name!r}: its source has no tasks")
        params = self.sampling.keyed("evaluate", self.name)
        self.last = state.play(self._items, self.siblings, params, self.verifier, self.environment)
        state.metrics |= {f"eval/{self.name}/{name}": value for name, value in _measure(self.last).items()}
        path = self._folder(state) / f"step-{state.step}.jsonl"
        path.unlink(missing_ok=True)
        jsonl.append(path, rows(state.step, self.last, kept=[False] * len(self.last)))
        self._done = state.step
        return self.last

    def _folder(self, state: State) -> Path:
        return state.folder / "evals" / self.name


def _measure(groups: Sequence[Group]) -> dict[str, float]:
    played = [trajectory for group in groups for trajectory in group]
    rewards = [reward for group in groups for reward in group.rewards]
    metrics = {"accuracy": fmean(rewards)} if rewards else {}  # with no verdict there is no accuracy, not one of 0
    if len(rewards) < len(played):
        metrics["errors"] = float(len(played) - len(rewards))
    metrics["length"] = fmean(trajectory.generated for trajectory in played)
    metrics["truncated"] = fmean(trajectory.stop == "length" for trajectory in played)
    for name in dict.fromkeys(name for group in groups for name in group.metrics):
        metrics[name.rpartition("/")[2]] = fmean(group.metrics[name] for group in groups if name in group.metrics)
    counts = [right(group.rewards) for group in groups]
    for k in budgets(max(map(len, groups)))[1:]:  # the first is 1
        if (passed := mean_pass_at_k(counts, k)) is not None:
            metrics[f"pass@{k}"] = passed
    return metrics
