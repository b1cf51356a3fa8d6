"""Rows to tasks: what the sources over files and over hub data sets have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from hone.keys import key
from hone.seats import settings
from hone.tasks.tables import Table
from hone.tasks.template import Template, readable
from hone.types import Message, Task

_CHECKED = 10_000


@settings
class Rows:
    """A source of tasks over a table. A subclass says where the rows come from (:meth:`read`).

    Templates are those of :mod:`hone.tasks.template`. Nothing is read before the first task is asked for. Then rows are
    mapped once, so that a bad one ends a run at its start: all of them where they are in memory, or are 10,000 or
    fewer; of a longer table on disk (Parquet, hub) the first, the last and as many evenly between, a matter of a second
    or two. A bad row that this passes over ends the run when it is drawn. Bytes in a prompt, an answer or an id are
    the UTF-8 text that they hold, or are refused.

    Attributes:
        prompt: Template of the user's message, or ``"{field}"`` of a field that holds text or chat messages.
        answer: Template of the reference answer; ``"{field}"`` keeps the value's type, null included.
        answer_pattern: Regular expression that is searched in the answer; its group (or else the whole match),
            stripped, becomes the answer.
        meta: Fields to keep for verifiers and logs; or a mapping of names to templates.
        id: Template of the task's id; "<name>/<row number>" if there is none.
        name: Prefix of ids; the subclass has a default.
        start: Row to begin at, counted from 0: with ``limit``, disjoint parts of one file train and test.
        limit: Most rows to use; None uses all.
        shuffle: Whether each epoch has an order of its own.
        seed: Of the shuffling.
        repeat: Whether to go on with another epoch, without end.
    """

    prompt: str
    answer: str | None = None
    answer_pattern: str | None = None
    meta: list[str] | dict[str, str] = Field(default_factory=list)
    id: str | None = None
    name: str | None = None
    start: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    shuffle: bool = True
    seed: int = 0
    repeat: bool = True

    def __post_init__(self) -> None:
        self._cursor = 0
        self._table: Table | None = None
        self._order: tuple[int, list[int]] = (-1, [])
        meta = self.meta if isinstance(self.meta, dict) else {name: f"{{{name}}}" for name in self.meta}
        wanted = {"prompt": self.prompt, "answer": self.answer, "id": self.id}
        wanted |= {f"meta.{name}": text for name, text in meta.items()}
        self._templates = {name: _template(name, text) for name, text in wanted.items() if text is not None}
        if self.answer_pattern is not None:
            _check_pattern(self.answer_pattern, self.answer)

    def read(self) -> Table:
        """The rows. Called once, before the first task."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        if self._table is None:
            self._table = self._checked(self.read())
        epoch, position = divmod(self._cursor, len(self._selected(self._table)))
        if epoch > 0 and not self.repeat:
            raise StopIteration
        task = self._task(self._table, self._ordered(epoch)[position])
        self._cursor += 1
        return task

    def state_dict(self) -> dict[str, Any]:
        """The cursor: how many tasks have been handed out."""
        return {"cursor": self._cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the source that gave this state would have gone on."""
        self._cursor = state["cursor"]

    def _selected(self, table: Table) -> range:
        return range(len(table.rows))[self.start :][: self.limit]

    def _checked(self, table: Table) -> Table:
        rows = self._selected(table)
        if not len(table.rows):
            raise ValueError(f"{self.name}: has no rows")
        if not rows:
            raise ValueError(f"{self.name}: start={self.start} leaves none of its {len(table.rows)} rows")
        if not isinstance(table.rows, list) and len(rows) > _CHECKED:
            rows = [rows[i * (len(rows) - 1) // (_CHECKED - 1)] for i in range(_CHECKED)]
        ids = Counter(self._task(table, row).id for row in rows)
        [(most, times)] = ids.most_common(1)
        if times > 1:
            raise ValueError(f"{self.name}: id: {self.id!r} names {times} rows {most!r}")
        return table

    def _ordered(self, epoch: int) -> Sequence[int]:
        """The rows in the order of this epoch: sorted by a keyed hash, so that the seed alone decides."""
        if not self.shuffle:
            return self._selected(self._table)
        if self._order[0] != epoch:
            rows = self._selected(self._table)
            self._order = epoch, sorted(rows, key=lambda row: key(self.seed, epoch, row))
        return self._order[1]

    def _task(self, table: Table, index: int) -> Task:
        row = table.rows[index]
        made = {}
        for name, template in self._templates.items():
            try:
                made[name] = self._shaped(name, template.fill(row))
            except ValueError as error:
                raise ValueError(f"{table.where(index)}: {name}: {error}") from None
        meta = {name.removeprefix("meta."): value for name, value in made.items() if name.startswith("meta.")}
        return Task(made.get("id", f"{self.name}/{index}"), made["prompt"], made.get("answer"), meta)

    def _shaped(self, name: str, value: Any) -> Any:
        if name.startswith("meta."):
            return value
        value = readable(value)
        if name == "prompt":
            return _messages(value)
        if name == "answer" and self.answer_pattern is not None:
            return _extract(self.answer_pattern, value)
        return str(value) if name == "id" else value


def _template(name: str, text: str) -> Template:
    try:
        return Template(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    chat = (
        isinstance(value, list)
        and value
        and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)
    )
    if not chat:
        raise ValueError(f"neither text nor a list of messages with role and content: {value!r:.80}")
    if value[-1]["role"] == "assistant":
        raise ValueError("the messages end with the assistant's turn, which is the policy's to write")
    return value


def _check_pattern(pattern: str, answer: str | None) -> None:
    if answer is None:
        raise ValueError("answer_pattern: there is no answer to search; set answer")
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"answer_pattern: {pattern!r} is not a regular expression: {error}") from None
    if groups > 1:
        raise ValueError(f"answer_pattern: {pattern!r} has {groups} groups; write the others as (?:...)")


def _extract(pattern: str, answer: Any) -> str:
    match = re.search(pattern, str(answer))
    found = match and match.group(match.re.groups)
    if found is None:
        raise ValueError(f"answer_pattern {pattern!r} is not in {str(answer)[-80:]!r}")
    return found.strip()
