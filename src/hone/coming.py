"""What is played for a step of a run: rounds of sampling, until enough groups pass the gate."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from hone import records
from hone.collect import Collector
from hone.seats import TaskSource
from hone.types import Group, Task


@dataclass(eq=False)
class Coming:
    """What is played for a step, or was.

    Attributes:
        step: Of the run; 0 is the first.
        updates: Steps of the run behind the weights that play it.
        version: Of these weights.
        copy: Of the policy with these weights, until the sampler has them; None if it comes by them without one.
        cursor: Of the step's task source, before its first task was drawn; None until then.
        tasks: As they were drawn.
        groups: Played from them, one each.
        kept: Which of them passed the gate.
        ended: Whether the source had no more.
        seconds: "sample", the part of "verify" that outlasted it, and where it was played ahead the "wait" for it.
        done: When it was, where it is played ahead.
    """

    step: int
    updates: int
    version: int
    copy: Any = None
    cursor: Any = None
    tasks: list[Task] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    ended: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: {"sample": 0.0, "verify": 0.0})
    done: Future[None] | None = None

    @property
    def behind(self) -> int:
        """Updates between the weights that play and those that are trained."""
        return self.step - self.updates

    def play(self, stage: Any, collector: Collector) -> None:
        """Play groups until enough pass the gate, at most ``max_rounds`` times (DAPO's dynamic sampling).

        Args:
            stage: The configuration that holds for the step.
            collector: Its sampler has the weights.
        """
        self.cursor = stage.tasks.state_dict()
        # What the sampler sees is what the policy sees for one optimiser step, if no other comes between.
        once = stage.update.minibatches * stage.update.epochs == 1 and not stage.max_staleness
        entropies = stage.sampling.entropies or (once and getattr(stage.objective, "reads_entropies", False))
        params = replace(stage.sampling, seed=stage.seed, entropies=entropies)
        for turn in range(stage.max_rounds):
            wanted = stage.prompts - sum(self.kept)
            tasks = list(islice(stage.tasks, wanted))
            if not tasks:
                break
            keyed = params.keyed("train", self.step, turn)
            played = collector.play(tasks, stage.siblings, keyed, stage.verifier, stage.environment)
            self.tasks += tasks
            self.groups += played
            self.kept += [bool(stage.gate(group)) for group in played]
            self.seconds = {name: total + collector.seconds[name] for name, total in self.seconds.items()}
        self.ended = len(tasks) < wanted

    def state_dict(self) -> dict[str, Any]:
        """As plain data; the tasks by their ids."""
        own = {name: getattr(self, name) for name in ("step", "updates", "version", "kept", "ended")}
        return own | {"ids": [task.id for task in self.tasks], "played": records.plain(self.groups, self.tasks)}

    @classmethod
    def restored(cls, held: Mapping[str, Any], source: TaskSource) -> Coming | None:
        """What gave this state, with its tasks drawn again; None, and none drawn, if the source has others now."""
        own, cursor = dict(held), source.state_dict()
        ids, played = own.pop("ids"), own.pop("played")
        tasks = list(islice(source, len(ids)))
        if [task.id for task in tasks] != ids:
            source.load_state_dict(cursor)
            return None
        made = cls(**own, cursor=cursor, tasks=tasks, groups=records.restored(played, tasks), done=Future())
        made.done.set_result(None)
        return made
