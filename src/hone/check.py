"""``hone check``: try a configuration on something small before it costs anything."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hone.config import Config
from hone.hooks.log import Log
from hone.math.gates import everything
from hone.order import order
from hone.seats import TaskSource
from hone.trainer import Trainer
from hone.types import Group, Score, Segment, Task, Trajectory
from hone.verifiers.pool import VerifierPool
from hone.verifiers.probes import adversarial

TASKS = 3


def check(config: Config, console: Console | None = None) -> bool:
    """Print the arithmetic of a run, judge golden and adversarial answers, and train a miniature for one step.

    Args:
        config: Its task sources are read from.
        console: Where to print.

    Returns:
        Whether everything went well.
    """
    console = console or Console()
    console.print(arithmetic(config))
    console.print(order(config))
    tasks: list[Task] = []
    steps: list[tuple[str, Callable[[], str]]] = [
        ("tasks", lambda: _tasks(config.tasks, tasks)),
        *((f"tasks of eval {name}", partial(_tasks, part.tasks, [])) for name, part in config.eval.items()),
        ("verifier, right answers", lambda: _golden(config, tasks)),
        ("verifier, adversarial answers", lambda: _adversarial(config, tasks)),
        ("one step of a miniature", lambda: _miniature(config, tasks)),
    ]
    fine = True
    for name, step in steps:
        try:
            found, mark = step(), "[green]ok[/]  "
        except Exception as error:
            fine = False
            found, mark = f"{type(error).__name__}: {error}", "[red]FAIL[/]"
        console.print(f"{mark} {name}: ", end="")
        console.print(found, markup=False, highlight=False, soft_wrap=True)
        if not tasks:
            break  # nothing else can be tried
    return fine


def arithmetic(config: Config) -> Table:
    """How many of what a step and the run do."""
    trajectories, sampling = config.prompts * config.siblings, config.sampling
    most = getattr(config.environment, "most_tokens", lambda n, params: n * params.max_tokens)
    updates = config.update.minibatches * config.update.epochs
    table = Table("", "a step", "the run", title="batch arithmetic")
    rows = {
        "prompts (groups)": (config.prompts, 1),
        "trajectories = prompts x siblings": (trajectories, 1),
        "sampled tokens, at most": (config.prompts * most(config.siblings, sampling), 1),
        "optimiser steps = minibatches x epochs": (updates, 1),
    }
    for name, (each, _) in rows.items():
        table.add_row(name, f"{each:,}", f"{each * config.steps:,}")
    table.add_row("groups in an optimiser step", f"{-(-config.prompts // config.update.minibatches):,}", "")
    table.add_row("rows of an update", f"{config.prompts:,} (contexts shared) to {trajectories:,}", "")
    table.add_row("tokens in a micro-batch, at most", f"{config.update.tokens:,}", "")
    if config.max_rounds > 1:
        table.add_row("prompts with refills, at most", f"{config.prompts * config.max_rounds:,}", "")
    for name, part in config.eval.items():
        times = 1 + (config.steps > 0) + (max(0, config.steps - 1) // part.every if part.every else 0)
        table.add_row(f"evaluation {name}", "", f"{times} x {part.items} items x {part.siblings}")
    return table


def _tasks(source: TaskSource, tasks: list[Task]) -> str:
    """Take the first few, and leave the source as it was."""
    cursor = source.state_dict()
    tasks += islice(source, TASKS)
    source.load_state_dict(cursor)
    if not tasks:
        raise ValueError("the source has no tasks")
    question = " ".join(str(tasks[0].prompt[-1]["content"]).split())
    return f"{tasks[0].id}: {question[:100]!r} (answer: {str(tasks[0].answer)[:60]!r})"


def _golden(config: Config, tasks: Sequence[Task]) -> str:
    example = getattr(config.verifier, "example", None)
    answers = [(task, example(task)) for task in tasks] if example else []
    known = [(task, text) for task, text in answers if text is not None]
    if not known:
        return "this verifier gives no examples of right answers; skipped"
    for (task, text), score in zip(known, _judge(config, known)[0], strict=True):
        if score.error or score.value < 1:
            raise ValueError(f"task {task.id!r}: the right answer {text!r} scored {score.value} ({score.error})")
    return f"{len(known)} of {len(known)} scored 1"


def _adversarial(config: Config, tasks: Sequence[Task]) -> str:
    probes = adversarial()
    task = max(tasks, key=lambda task: len(str(task.answer)))  # the least likely to be hit by chance
    scores, seconds = _judge(config, [(task, text) for text in probes.values()])
    failed = [f"{name} ({score.error})" for name, score in zip(probes, scores, strict=True) if score.error]
    paid = [name for name, score in zip(probes, scores, strict=True) if score.value]
    if failed:
        raise ValueError(f"no verdict on: {', '.join(failed)}")
    note = f"; it pays for: {', '.join(paid)}" if paid else ", none is paid for"
    return f"{len(probes)} judged in {seconds:.1f} s{note}"


def _judge(config: Config, answers: Sequence[tuple[Task, str]]) -> tuple[list[Score], float]:
    limits = config.verification

    async def judge_all() -> list[Score]:
        with VerifierPool(
            config.verifier, workers=limits.workers, timeout=limits.timeout, memory_gb=limits.memory_gb
        ) as pool:
            return await asyncio.gather(
                *(
                    pool(task, Trajectory(task, [Segment("response", "policy", (), text=text)]))
                    for task, text in answers
                )
            )

    started = time.perf_counter()
    with ThreadPoolExecutor(1) as thread:  # where no event loop runs yet
        return thread.submit(asyncio.run, judge_all()).result(), time.perf_counter() - started


def _alternate(groups: Sequence[Group]) -> None:
    for group in groups:
        for i, trajectory in enumerate(group):
            trajectory.advantage = 1.0 - 2.0 * (i % 2)


class _Few:
    """The tasks at hand, over and over: a miniature is not to move, bind or fill the sources of the run."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = cycle(tasks)

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        return next(self._tasks)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def _miniature(config: Config, tasks: Sequence[Task]) -> str:
    shrink = getattr(config.model, "miniature", None)
    if shrink is None:
        return "this policy has no miniature; skipped"
    with tempfile.TemporaryDirectory() as folder:
        small = config.model_copy(
            update={
                "model": shrink(Path(folder, "model")),
                "tasks": _Few(tasks),
                "stages": {},
                "sampling": replace(config.sampling, max_tokens=min(8, config.sampling.max_tokens)),
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
        trainer = Trainer(small)
        trainer.hooks = [Log(tensorboard=False)]
        metrics = trainer.fit().metrics[-1]
    norm = f"sampled {metrics['tokens/sampled']} tokens, gradient norm {metrics.get('grad_norm', 0.0):.3g}"
    terms = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("loss/")}
    return norm + "".join(f"; {name} adds {value:.3g} to the loss" for name, value in terms.items())
