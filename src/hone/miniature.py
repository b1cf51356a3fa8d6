"""A miniature of a configuration's model, on which `hone check` tries the rest: it trains, and answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hone.config import Config
from hone.hooks.log import Log
from hone.judging import refuse_without_verdict
from hone.math.gates import everything
from hone.seats import SamplingParams
from hone.session import Session
from hone.trainer import Trainer
from hone.types import Group, Task

TOKENS = 8
"""Of an answer, at most."""


class Skipped(Exception):
    """There is nothing to try."""


def step(config: Config, tasks: Sequence[Task]) -> str:
    """Train it for one step; what came of it.

    Raises:
        Skipped: If there can be no miniature.
    """
    with _shrunk(config, tasks) as small:
        trainer = Trainer(small)
        trainer.hooks = [Log(tensorboard=False)]
        metrics = trainer.fit().metrics[-1]
    norm = f"sampled {metrics['tokens/sampled']} tokens, gradient norm {metrics.get('grad_norm', 0.0):.3g}"
    terms = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("loss/")}
    return norm + "".join(f"; {name} adds {value:.3g} to the loss" for name, value in terms.items())


def answers(config: Config, tasks: Mapping[int, Sequence[Task]]) -> str:
    """Have it answer a task of every evaluation; what came of it.

    Args:
        config: A variant.
        tasks: By the identity of their source.

    Raises:
        Skipped: If there can be no miniature, or nothing is asked.
    """
    if not config.eval:
        raise Skipped("there is no evaluation that asks it anything")
    groups: list[Group] = []
    with _shrunk(config, tasks[id(config.tasks)]) as small, Session(small) as session:
        for part in config.eval.values():
            if asked := tasks.get(id(part.tasks), ())[:1]:
                how = (min(2, part.siblings), _short(part.sampling), part.verifier, part.environment)
                groups += session.play(asked, *how)
    refuse_without_verdict(groups)
    return f"{sum(map(len, groups))} answers of a miniature, {sum(group.generated for group in groups)} tokens"


@contextmanager
def _shrunk(config: Config, tasks: Sequence[Task]) -> Iterator[Config]:
    """The configuration of one small step by two layers, on the CPU; its folder goes with it."""
    shrink = getattr(config.model, "miniature", None)
    if shrink is None:
        raise Skipped("this policy has no miniature")
    if hasattr(config.sampler, "urls"):
        raise Skipped("the sampler's servers have the model of the run")
    with tempfile.TemporaryDirectory() as folder:
        small = config.model_copy(
            update={
                "model": shrink(Path(folder, "model")),
                "tasks": _Few(tasks),
                "stages": {},
                "sampling": _short(config.sampling),
                "update": replace(config.update, sequence_parallel=1),
                "steps": 1,
                "prompts": min(2, config.prompts),
                "siblings": min(2, config.siblings),
                "max_rounds": 1,
                "gate": everything,
                "advantage": _alternate,  # so that there is a gradient, whatever the miniature babbles
                "eval": {},
                "hooks": [],
                "folder": str(Path(folder, "run")),
                "device": "cpu",
            }
        )
        small._stages = {}
        yield small


def _short(sampling: SamplingParams) -> SamplingParams:
    return replace(sampling, max_tokens=min(TOKENS, sampling.max_tokens))


def _alternate(groups: Sequence[Group]) -> None:
    for group in groups:
        for i, trajectory in enumerate(group):
            trajectory.advantage = 1.0 - 2.0 * (i % 2)


class _Few:
    """The tasks at hand, over and over: a miniature is not to move, bind or fill the sources of the run."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks, self._cursor = tasks, 0

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        self._cursor += 1
        return self._tasks[(self._cursor - 1) % len(self._tasks)]

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self._cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._cursor = state["cursor"]
