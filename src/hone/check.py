"""``hone check``: try a configuration on something small before it costs anything."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hone.config import Config
from hone.hooks.log import Log
from hone.math.gates import everything
from hone.order import order
from hone.seats import TaskSource, Verifier
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
    tasks: dict[int, list[Task]] = {}
    fine = _try(console, _reading(config, tasks))
    if training := tasks.get(id(config.tasks)):  # else nothing more can be tried
        judging = [step for each in _judges(config, tasks) for step in each.steps()]
        fine &= _try(console, [*judging, ("one step of a miniature", lambda: _miniature(config, training))])
    return fine


class _Skipped(Exception):
    """There is nothing to try."""


class _Note(str):
    """What was found, and is worth a look."""


def _try(console: Console, steps: Iterable[tuple[str, Callable[[], str]]]) -> bool:
    """Take steps, print what each found, and return whether all went well."""
    fine = True
    for name, step in steps:
        try:
            found = step()
            mark = "[yellow]note[/]" if isinstance(found, _Note) else "[green]ok[/]  "
        except _Skipped as reason:
            found, mark = str(reason), "[yellow]skip[/]"
        except Exception as error:
            fine = False
            found, mark = f"{type(error).__name__}: {error}", "[red]FAIL[/]"
        console.print(f"{mark} {name}: ", end="")
        console.print(found, markup=False, highlight=False, soft_wrap=True)
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


def _places(config: Config) -> Iterator[tuple[str, TaskSource, Verifier]]:
    """Where tasks are judged: in training, in its stages and in evaluations, and from which source and by whom."""
    yield "", config.tasks, config.verifier
    for first in sorted(config.stages):
        stage = config.at(first)
        yield f" of stage {first}", stage.tasks, stage.verifier
    for name, part in config.eval.items():
        yield f" of eval {name}", part.tasks, part.verifier or config.verifier


def _reading(config: Config, tasks: dict[int, list[Task]]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Take the first tasks of every source; they are kept by its identity."""
    seen: set[int] = set()
    for place, source, _ in _places(config):
        if id(source) not in seen:
            seen.add(id(source))
            yield f"tasks{place}", partial(_tasks, source, tasks)


def _tasks(source: TaskSource, tasks: dict[int, list[Task]]) -> str:
    """Take the first few, and leave the source as it was."""
    cursor = source.state_dict()
    found = list(islice(source, TASKS))
    source.load_state_dict(cursor)
    if not found:
        raise ValueError("the source has no tasks")
    tasks[id(source)] = found
    question = " ".join(str(found[0].prompt[-1]["content"]).split())
    return f"{found[0].id}: {question[:100]!r} (answer: {str(found[0].answer)[:60]!r})"


@dataclass
class _Judged:
    """A verifier, and the tasks that it judges."""

    verifier: Verifier
    name: str
    pool: Mapping[str, Any]
    tasks: list[Task] = field(default_factory=list)

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """What is tried with it."""
        return [(f"{self.name}, right answers", self.golden), (f"{self.name}, adversarial answers", self.adversarial)]

    def golden(self) -> str:
        """It pays for the right answers that it knows."""
        example = getattr(self.verifier, "example", None)
        answers = [(task, example(task)) for task in self.tasks] if example else []
        known = [(task, text) for task, text in answers if text is not None]
        if not known:
            raise _Skipped("this verifier gives no examples of right answers")
        for (task, text), score in zip(known, self.judge(known)[0], strict=True):
            if score.error or score.value < 1:
                raise ValueError(f"task {task.id!r}: the right answer {text!r} scored {score.value} ({score.error})")
        return f"{len(known)} of {len(known)} scored 1"

    def adversarial(self) -> str:
        """It judges any text, in time."""
        probes = adversarial()
        task = max(self.tasks, key=lambda task: len(str(task.answer)))  # the least likely to be hit by chance
        scores, seconds = self.judge([(task, text) for text in probes.values()])
        failed = [f"{name} ({score.error})" for name, score in zip(probes, scores, strict=True) if score.error]
        paid = [name for name, score in zip(probes, scores, strict=True) if score.value]
        if failed:
            raise ValueError(f"no verdict on: {', '.join(failed)}")
        found = f"{len(probes)} judged in {seconds:.1f} s"
        return _Note(f"{found}; it pays for: {', '.join(paid)}") if paid else f"{found}, none is paid for"

    def judge(self, answers: Sequence[tuple[Task, str]]) -> tuple[list[Score], float]:
        """The verdicts, in worker processes, and the seconds that they took."""

        async def judge_all() -> list[Score]:
            with VerifierPool(self.verifier, **self.pool) as pool:
                return await asyncio.gather(
                    *(
                        pool(task, Trajectory(task, [Segment("response", "policy", (), text=text)]))
                        for task, text in answers
                    )
                )

        started = time.perf_counter()
        with ThreadPoolExecutor(1) as thread:  # where no event loop runs yet
            return thread.submit(asyncio.run, judge_all()).result(), time.perf_counter() - started


def _judges(config: Config, tasks: Mapping[int, list[Task]]) -> list[_Judged]:
    """The distinct verifiers, each with all tasks that it judges."""
    found: list[_Judged] = []
    for place, source, verifier in _places(config):
        judge = next((each for each in found if each.verifier is verifier or each.verifier == verifier), None)
        if judge is None:
            found.append(judge := _Judged(verifier, f"verifier{place}", config.verification.pool))
        judge.tasks += [task for task in tasks.get(id(source), ()) if all(task is not other for other in judge.tasks)]
    return [each for each in found if each.tasks]


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


def _miniature(config: Config, tasks: Sequence[Task]) -> str:
    shrink = getattr(config.model, "miniature", None)
    if shrink is None:
        raise _Skipped("this policy has no miniature")
    if hasattr(config.sampler, "urls"):
        raise _Skipped("the sampler's servers have the model of the run")
    with tempfile.TemporaryDirectory() as folder:
        small = config.model_copy(
            update={
                "model": shrink(Path(folder, "model")),
                "tasks": _Few(tasks),
                "stages": {},
                "sampling": replace(config.sampling, max_tokens=min(8, config.sampling.max_tokens)),
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
        trainer = Trainer(small)
        trainer.hooks = [Log(tensorboard=False)]
        metrics = trainer.fit().metrics[-1]
    norm = f"sampled {metrics['tokens/sampled']} tokens, gradient norm {metrics.get('grad_norm', 0.0):.3g}"
    terms = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("loss/")}
    return norm + "".join(f"; {name} adds {value:.3g} to the loss" for name, value in terms.items())
