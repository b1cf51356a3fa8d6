"""First attempts that failed, mined once and stored: the data of Reflect, Retry, Reward (arXiv 2505.24726)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from hone import ranks
from hone.keys import key
from hone.seats import Environment, Player, TaskSource, settings
from hone.synthesis.journal import append_rows, mend, read_rows
from hone.synthesis.provenance import described, digest, digest_of_file
from hone.synthesis.reading import batches, once
from hone.tasks.attempts import Row, Tally, asked_again, differences, pass_rate, summary, with_failures
from hone.types import Task


@settings
class Failures:
    """Tasks that the policy has failed, each with the failed attempt, for the environment ``reflect_retry``.

    ``hone mine`` attempts the tasks of the source and stores what failed; an interrupted run goes on where it was.
    Of several processes each attempts a share, and the first writes. Then the tasks come from the store alone: each
    with an attempt in its ``meta["attempt"]``, every one once in an epoch, without end. The store is JSON Lines, a line
    a task, also for those that were always solved. While it holds no failure, tasks are the source's in a dry run, and
    training is refused.

    Attempts are made as the environment of the run makes its first ones, for they must answer what is asked in
    training: a store of answers to anything else is refused. They stay those of the policy that made them, and as
    training goes on, they are less and less its own. Then mine again, or train without this source.

    Attributes:
        source: Of the tasks.
        store: The file.
        attempts: Most attempts at a task; the paper's number. Larger models need more, for they fail less often.
        keep: Most failures of a task that are kept; the same text twice is one.
        stop_early: Leave a task when so many failures are there. Its pass rate is then of few attempts, and too low.
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
        self._order: tuple[int, list[Task]] = (-1, [])
        if self.low >= self.high:
            raise ValueError(f"low = {self.low}: must be below high ({self.high})")
        if self.stop_early and (self.low, self.high) != (0.0, 1.0):
            raise ValueError("low, high: need stop_early = false; it cuts the attempts short that pass rates are of")

    def bind(self, player: Player) -> None:
        """Take what attempts the tasks."""
        self._player, self._tasks = player, None

    def make(self, report: Callable[[str], None]) -> dict[str, Any]:
        """Attempt the tasks that are not in the store.

        A task without any verdict is not stored, so that it is tried again the next time.

        Returns:
            What the store then holds.

        Raises:
            ValueError: The source is not bound, or the store was made in another way.
        """
        if self._player is None:
            raise ValueError("tasks.failures: bind(player) comes first; `hone mine` does so")
        path, made, unjudged = Path(self.store), self._made(), 0
        rows = ranks.first(partial(self._open, path, made))
        cursor = self.source.state_dict()
        try:
            missing = (task for task in once(self.source, self.limit) if self._is_missing(task, rows))
            for tasks in batches(missing, self.batch):
                for tally in self._attempt(tasks):
                    if not tally.judged:
                        unjudged += 1
                        continue
                    row = rows[tally.task.id] = tally.row(self._asked(tally.task), made)
                    ranks.first(partial(append_rows, path, [row]))
                report(f"{len(rows)} tasks, {sum(len(row['failures']) for row in rows.values())} failures")
        finally:
            self.source.load_state_dict(cursor)
            self._tasks = None
        found = {"store": self.store, **summary(rows.values())}
        return found | ({"tasks without a verdict, not stored": unjudged} if unjudged else {})

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        tasks = self._read()
        if not tasks:
            if self._player is None:
                return next(self.source)
            raise self._nothing()
        epoch, position = divmod(self._cursor, len(tasks))
        if self._order[0] != epoch:
            self._order = epoch, sorted(tasks, key=lambda task: key(self.seed, epoch, task.id))
        self._cursor += 1
        return self._order[1][position]

    def state_dict(self) -> dict[str, Any]:
        """How many failures were handed out, and the source's own state."""
        return {"cursor": self._cursor, "source": self.source.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the source that gave this state would have gone on."""
        self._cursor = state["cursor"]
        self.source.load_state_dict(state["source"])

    def fingerprint(self) -> dict[str, str]:
        """The store, once there is one, and a hash of what is in it."""
        return {self.store: digest_of_file(Path(self.store))} if Path(self.store).exists() else {}

    def _read(self) -> list[Task]:
        """The failures in the store as tasks, in the order of mining."""
        if self._tasks is None:
            rows = list(read_rows(Path(self.store)))
            if self._player is not None:
                for row in rows:
                    self._refuse_other_prompt(row, asked_again(row))
            used = [row for row in rows if row["failures"] and self.low <= pass_rate(row) < self.high]
            self._tasks, self._order = [task for row in used for task in with_failures(row)], (-1, [])
        return self._tasks

    def _nothing(self) -> Exception:
        """What is wrong with a store that has nothing to train on."""
        if not Path(self.store).exists():
            there = f"there is no {self.store}; first make it: `hone mine`, with this configuration"
            return FileNotFoundError(f"tasks.failures: {there}")
        return ValueError(
            f"tasks.failures: no task in {self.store} has a failure to use; mine more, or widen low, high"
        )

    def _open(self, path: Path, made: Row) -> dict[str, Row]:
        """The lines of the store by their tasks, without one that was torn."""
        mend(path)
        rows = {row["id"]: row for row in read_rows(path)}
        for row in rows.values():
            if found := differences(row["made"], made):
                raise ValueError(f"tasks.failures: {path} was mined in another way: {'; '.join(found)}; name another")
        return rows

    def _attempt(self, tasks: Sequence[Task]) -> Iterator[Tally]:
        """Attempt tasks together; each is given back as soon as it needs no more attempts."""
        tallies = [Tally(task, self.success, self.keep) for task in tasks]
        for tally in tallies:
            tally.row("", {})  # raises for what cannot be stored, before it is paid for
        params = replace(self._player.sampling, seed=self.seed)
        for start in range(0, self.attempts, self.chunk):
            end = min(start + self.chunk, self.attempts)
            groups = self._player.play(
                [tally.task for tally in tallies],
                end - start,
                params.keyed("mine", start),
                environment=self._attempting,
            )
            going_on = []
            for tally, group in zip(tallies, groups, strict=True):
                tally.count(group)
                if end == self.attempts or (self.stop_early and len(tally.failures) == self.keep):
                    yield tally
                else:
                    going_on.append(tally)
            if not (tallies := going_on):
                return

    @property
    def _attempting(self) -> Environment:
        """The environment that makes attempts: of one that goes on after its first ones, what makes these alone."""
        chosen = self.environment or self._player.environment
        return getattr(chosen, "first_attempts", chosen)

    def _asked(self, task: Task) -> str:
        """A hash of what the policy reads before it attempts a task."""
        environment = self._attempting
        messages = getattr(environment, "messages", None)
        return digest(messages(task) if messages else [described(environment), list(task.prompt)])

    def _made(self) -> dict[str, Any]:
        """What attempts and verdicts depend on, as plain data."""
        sampling = getattr(self._attempting, "sampling", None) or self._player.sampling
        own = ("attempts", "keep", "stop_early", "success", "chunk", "seed")
        made = {
            "model": self._player.fingerprint(),
            "verifier": described(self._player.verifier),
            "sampling": asdict(replace(sampling, seed=0)),
            **{name: getattr(self, name) for name in own},
        }
        return json.loads(json.dumps(made))  # as it is read back

    def _is_missing(self, task: Task, rows: Mapping[str, Row]) -> bool:
        if task.id in rows:
            self._refuse_other_prompt(rows[task.id], task)
        return task.id not in rows

    def _refuse_other_prompt(self, row: Row, task: Task) -> None:
        if row["asked"] != self._asked(task):
            raise ValueError(
                f"tasks.failures: task {task.id!r} in {self.store} was attempted behind another prompt than it has now "
                "(environment: system, examples, suffix); ask as it was asked, or mine into another store"
            )
