"""``hone check``: try a configuration on something small before it costs anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from hone import miniature
from hone.config import Config
from hone.miniature import Skipped
from hone.order import order
from hone.seats import TaskSource, Verifier
from hone.types import Score, Segment, Task, Trajectory
from hone.verifiers.pool import VerifierPool
from hone.verifiers.probes import adversarial

TASKS = 3


def check(config: Config, console: Console | None = None) -> bool:
    """Print the arithmetic of a run, judge golden and adversarial answers, train a miniature, and have it answer.

    It is trained for one step, and answers a few tasks in every variant.

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
        fine &= _try(console, [*judging, ("one step of a miniature", partial(miniature.step, config, training))])
        fine &= _try(console, _variants(config, tasks))
    return fine


class _Note(str):
    """What was found, and is worth a look."""


def _try(console: Console, steps: Iterable[tuple[str, Callable[[], str]]]) -> bool:
    """Take steps, print what each found, and return whether all went well."""
    fine = True
    for name, step in steps:
        try:
            found = step()
            mark = "[yellow]note[/]" if isinstance(found, _Note) else "[green]ok[/]  "
        except Skipped as reason:
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


def _variants(config: Config, tasks: Mapping[int, list[Task]]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Have the miniature answer what evaluations ask, in every variant."""
    for name in config.variants:
        yield f"variants.{name}", partial(_variant, config, name, tasks)


def _variant(config: Config, name: str, tasks: Mapping[int, list[Task]]) -> str:
    variant = config.every_variant()[name]
    if variant.sampler == config.sampler and variant.environment == config.environment:
        return _Note("it answers as the configuration itself does")
    return miniature.answers(variant, tasks)


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
            raise Skipped("this verifier gives no examples of right answers")
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
