"""First attempts that failed, mined once and stored: the data of Reflect, Retry, Reward (arXiv 2505.24726)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from hone.keys import key
from hone.seats import Environment, Player, SamplingParams, TaskSource, settings
from hone.synthesis.journal import append_rows, mend, read_rows
from hone.synthesis.provenance import described, digest
from hone.synthesis.reading import batches, once
from hone.types import Group, Task

Row = Mapping[str, Any]


@settings
class Failures:
    """Tasks that the policy has failed, each with the failed attempt, for the environment ``reflect_retry``.

    ``hone mine`` attempts the tasks of the source and stores what failed; an interrupted run goes on where it was. Then
    the tasks come from the store, whatever becomes of the source: each with an attempt in its ``meta["attempt"]``, every
    one once in an epoch, without end. The store is JSON Lines, a line a task, also for those that were always solved.

    The attempts are made as the environment of the run makes its first ones, so that they are answers to what is asked
    in training; a store of answers to anything else is refused. They stay those of the policy that made them: as
    training goes on, they are less and less its own. Then mine again, or train without this source.

    Attributes:
        source: Of the tasks.
        store: The file.
        attempts: Most attempts at a task; the paper's number. Larger models need more, for they fail less often.
        keep: Most failures of a task that are kept; the same text twice is one.
        stop_early: Go on to other tasks when so many failures are there. Pass rates are then of few attempts, and biased
            towards failure.
        success: Reward from which on an attempt passes.
        low: Least pass rate of the tasks that are used.
        high: Pass rate from which on tasks are not used. A band of pass rates needs ``stop_early: false``.
        environment: How attempts are made; None is as the run makes its first ones.
        limit: Tasks of the source that are looked at; None goes to where it ends, or repeats.
        batch: Tasks that are attempted together.
        chunk: Attempts at each of them that are made at once.
        seed: Of the attempts, and of the order of the tasks.
    """

    command: ClassVar[str] = "mine"

    source: TaskSource
    store: str = Field(min_length=1)
    attempts: int = Field(64, ge=1)
    keep: int = Field(1, ge=1)
    stop_early: bool = True
    success: float = 1.0
    low: float = Field(0.0, ge=0, le=1)
    high: float = Field(1.0, ge=0, le=1)
    environment: Environment | None = None
    limit: int | None = Field(None, ge=1)
    batch: int = Field(16, ge=1)
    chunk: int = Field(8, ge=1)
    seed: int = 0

    _player: Any = field(default=None, init=False, repr=False, compare=False)
    _tasks: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._cursor = 0
        self._order: tuple[int, list[int]] = (-1, [])
        if self.low >= self.high:
            raise ValueError(f"low = {self.low}: must be below high ({self.high})")
        if self.stop_early and (self.low, self.high) != (0.0, 1.0):
            raise ValueError(
                "low, high: pass rates that stop_early has cut short are not to be sorted by; set it to false"
            )

    def bind(self, player: Player) -> None:
        """Take what attempts the tasks."""
        self._player, self._tasks = player, None

    def make(self, report: Callable[[str], None]) -> dict[str, Any]:
        """Attempt the tasks that are not in the store.

        Returns:
            What the store then holds.

        Raises:
            ValueError: The source is not bound, or the store was made in another way.
        """
        if self._player is None:
            raise ValueError("tasks.failures: bind(player) comes first; `hone mine` does so")
        path, made = Path(self.store), self._provenance()
        mend(path)
        rows = {row["id"]: row for row in read_rows(path)}
        for row in rows.values():
            _refuse_other(path, row["made"], made)
        cursor, unjudged = self.source.state_dict(), 0
        try:
            for tasks in batches(
                (task for task in once(self.source, self.limit) if self._is_new(task, rows)), self.batch
            ):
                for tally in self._attempt(tasks):
                    if tally.unclear:
                        unjudged += 1
                        continue
                    row = rows[tally.task.id] = tally.row(self._asked(tally.task), made)
                    append_rows(path, [row])
                report(f"{len(rows)} tasks, {sum(len(row['failures']) for row in rows.values())} failures")
        finally:
            self.source.load_state_dict(cursor)
            self._tasks = None
        return _summary(path, rows.values()) | ({"tasks without a verdict, not stored": unjudged} if unjudged else {})

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        if not Path(self.store).exists():
            if self._player is not None:
                raise FileNotFoundError(
                    f"tasks.failures: there is no {self.store}; make it first, with `hone mine` and this configuration"
                )
            return next(self.source)
        tasks = self._read()
        epoch, position = divmod(self._cursor, len(tasks))
        if self._order[0] != epoch:
            self._order = epoch, sorted(range(len(tasks)), key=lambda i: key(self.seed, epoch, tasks[i].id))
        self._cursor += 1
        return tasks[self._order[1][position]]

    def state_dict(self) -> dict[str, Any]:
        """How many failures were handed out, and the source's own state."""
        return {"cursor": self._cursor, "source": self.source.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the source that gave this state would have gone on."""
        self._cursor = state["cursor"]
        self.source.load_state_dict(state["source"])

    def _read(self) -> list[Task]:
        """The failures in the store as tasks, in the order of mining."""
        if self._tasks is None:
            rows = list(read_rows(Path(self.store)))
            if self._player is not None:
                for row in rows:
                    self._refuse_other_question(row, Task(row["id"], row["prompt"], row["answer"], row["meta"]))
            tasks = [task for row in rows if self._in_band(row) for task in _tasks_of(row)]
            if not tasks:
                raise ValueError(f"tasks.failures: none of the {len(rows)} tasks in {self.store} has a failure to use")
            self._tasks, self._order = tasks, (-1, [])
        return self._tasks

    def _in_band(self, row: Row) -> bool:
        judged = row["passed"] + row["failed"]
        return bool(row["failures"]) and self.low <= row["passed"] / judged < self.high

    def _attempt(self, tasks: Sequence[Task]) -> Iterator[_Tally]:
        """Attempt tasks together; each is given back as soon as it needs no more attempts."""
        tallies = [_Tally(task, self.success, self.keep) for task in tasks]
        params = replace(self._player.sampling, seed=self.seed)
        for start in range(0, self.attempts, self.chunk):
            n = min(self.chunk, self.attempts - start)
            keyed = params.keyed("mine", start)
            groups = self._player.play([tally.task for tally in tallies], n, keyed, environment=self._attempting)
            for tally, group in zip(tallies, groups, strict=True):
                tally.count(group)
            last = start + n == self.attempts
            ready = [last or (self.stop_early and len(tally.failures) == self.keep) for tally in tallies]
            yield from (tally for tally, done in zip(tallies, ready, strict=True) if done)
            tallies = [tally for tally, done in zip(tallies, ready, strict=True) if not done]
            if not tallies:
                return

    @property
    def _attempting(self) -> Environment:
        """The environment that makes attempts."""
        chosen = self.environment or self._player.environment
        return getattr(chosen, "first_attempts", chosen)

    def _asked(self, task: Task) -> str:
        """A hash of what the policy reads before it attempts a task."""
        environment = self._attempting
        messages = getattr(environment, "messages", None)
        return digest(messages(task) if messages else [described(environment), list(task.prompt)])

    def _provenance(self) -> dict[str, Any]:
        """What attempts and verdicts depend on, as plain data."""
        sampling: SamplingParams = getattr(self._attempting, "sampling", None) or self._player.sampling
        own = ("attempts", "keep", "stop_early", "success", "chunk", "seed")
        made = {
            "model": self._player.fingerprint(),
            "verifier": described(self._player.verifier),
            "sampling": asdict(replace(sampling, seed=0)),
            **{name: getattr(self, name) for name in own},
        }
        return json.loads(json.dumps(made))

    def _is_new(self, task: Task, rows: Mapping[str, Row]) -> bool:
        if task.id in rows:
            self._refuse_other_question(rows[task.id], task)
        return task.id not in rows

    def _refuse_other_question(self, row: Row, task: Task) -> None:
        if row["asked"] != self._asked(task):
            raise ValueError(
                f"tasks.failures: task {task.id!r} in {self.store} is an answer to another prompt than the environment's "
                "(its system, examples and suffix); mine into another store, or ask as it was asked"
            )


@dataclass
class _Tally:
    """What became of the attempts at one task."""

    task: Task
    success: float
    keep: int
    passed: int = 0
    failed: int = 0
    errors: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """The first failed texts, and why each of them ended."""

    def count(self, group: Group) -> None:
        """Take more attempts in; those without a verdict are no failures."""
        for attempt in group:
            if attempt.reward is None:
                self.errors += 1
            elif attempt.reward >= self.success:
                self.passed += 1
            else:
                self.failed += 1
                if len(self.failures) < self.keep:
                    self.failures.setdefault(attempt.response, attempt.stop)

    @property
    def unclear(self) -> bool:
        """Whether nothing was judged: then nothing is known, and the task is to be tried again."""
        return not self.passed + self.failed

    def row(self, asked: str, made: Row) -> dict[str, Any]:
        """A line of the store."""
        task = self.task
        row = {
            "id": task.id,
            "prompt": list(task.prompt),
            "answer": task.answer,
            "meta": dict(task.meta),
            "failures": [{"text": text, "stop": stop} for text, stop in self.failures.items()],
            "passed": self.passed,
            "failed": self.failed,
            "errors": self.errors,
            "asked": asked,
            "made": made,
        }
        try:
            json.dumps(row)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tasks.failures: task {task.id!r} cannot be stored as JSON: {error}") from error
        return row


def _tasks_of(row: Row) -> Iterator[Task]:
    """A task for each failure that is kept, with an id of its own."""
    for number, attempt in enumerate(row["failures"]):
        yield Task(f"{row['id']}#{number}", row["prompt"], row["answer"], {**row["meta"], "attempt": attempt})


def _refuse_other(path: Path, theirs: Row, ours: Row) -> None:
    """Refuse to add to attempts that were made or judged in another way."""
    other = [
        f"{name} was {theirs.get(name)!r} and is {ours[name]!r}" for name in ours if theirs.get(name) != ours[name]
    ]
    if other:
        raise ValueError(f"tasks.failures: {path} was mined in another way: {'; '.join(other)}. Give another store")


def _summary(path: Path, rows: Iterator[Row]) -> dict[str, Any]:
    rows = list(rows)
    passed, failed = (sum(row[name] for row in rows) for name in ("passed", "failed"))
    return {
        "store": str(path),
        "tasks": len(rows),
        "tasks with a failure": sum(bool(row["failures"]) for row in rows),
        "failures": sum(len(row["failures"]) for row in rows),
        "attempts passed": passed,
        "attempts failed": failed,
        "attempts without a verdict": sum(row["errors"] for row in rows),
    }
