"""Several sources as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from hone.keys import key
from hone.seats import TaskSource, settings
from hone.tasks.naming import suggest
from hone.types import Task


def choose(weights: Mapping[str, float], *parts: int | str) -> str:
    """Draw a name with a probability proportional to its weight; ``parts`` are the key of the draw."""
    point = key(*parts) / 2**63 * sum(weights.values())
    for name, weight in weights.items():
        point -= weight
        if point < 0:
            return name
    return name  # Rounding may leave the point at 0 after the last weight.


@settings
class Mixture:
    """Draws each task from one of several sources.

    Which source a task comes from depends on the seed and on the number of tasks before it alone. A source that ends
    drops out, the others keep their relative weights, and the mixture ends with its last source. A task's id is
    prefixed with its source's name, which is also its ``meta["source"]``.

    ::

        mixture:
          sources:
            sums: {reasoning_gym: {tasks: basic_arithmetic}}
            gsm8k: {files: {path: gsm8k/train.jsonl, prompt: "{question}", answer: "{answer}"}}
          weights: {sums: 1, gsm8k: 3}

    Attributes:
        sources: By name.
        weights: Of every source, in any unit; None draws all alike.
        seed: Of the draws between sources.
    """

    sources: dict[str, TaskSource] = Field(min_length=1)
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._cursor = 0
        self._ended: set[str] = set()
        if self.weights is None:
            return
        for name in self.weights.keys() - self.sources.keys():
            raise ValueError(f"weights: no source {name!r}; {suggest(name, self.sources)}")
        for name in self.sources.keys() - self.weights.keys():
            raise ValueError(f"weights: source {name!r} has none; give it one, or remove the source")

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        # In the order of ``sources``, so that the order in which weights are written does not matter.
        weights = {name: self.weights[name] if self.weights else 1.0 for name in self.sources}
        while live := {name: weight for name, weight in weights.items() if name not in self._ended}:
            name = choose(live, self.seed, self._cursor)
            try:
                task = next(self.sources[name])
            except StopIteration:
                self._ended.add(name)
                continue
            self._cursor += 1
            return replace(task, id=f"{name}/{task.id}", meta={**task.meta, "source": name})
        raise StopIteration

    def state_dict(self) -> dict[str, Any]:
        """The cursor, the sources that have ended, and every source's own state."""
        sources = {name: source.state_dict() for name, source in self.sources.items()}
        return {"cursor": self._cursor, "ended": sorted(self._ended), "sources": sources}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the mixture that gave this state would have gone on.

        Raises:
            ValueError: It had other sources.
        """
        if state["sources"].keys() != self.sources.keys():
            raise ValueError(f"the state is of sources {sorted(state['sources'])}, not of {sorted(self.sources)}")
        self._cursor, self._ended = state["cursor"], set(state["ended"])
        for name, source in self.sources.items():
            source.load_state_dict(state["sources"][name])
