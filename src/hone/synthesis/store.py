"""The folder of a synthesised data set, and what its rows say together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from hone import ranks
from hone.synthesis.journal import Journal, append_rows, mend, read_rows, write_rows
from hone.synthesis.overlap import Questions

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """``accepted.jsonl``, ``rejected.jsonl``, and ``journal.jsonl``, from which the other two can be made again.

    Of several processes all write together, and the first does it.

    Attributes:
        folder: Where they are; it need not exist.
    """

    folder: Path

    @property
    def accepted(self) -> Path:
        """The rows that are tasks."""
        return self.folder / "accepted.jsonl"

    @property
    def rejected(self) -> Path:
        """The rows that are not, with the reason."""
        return self.folder / "rejected.jsonl"

    def journal(self) -> Journal:
        """What was paid for."""
        return Journal(self.folder / "journal.jsonl")

    def write(self, accepted: Iterable[Row], rejected: Iterable[Row]) -> None:
        """Put these rows in place of those that are there."""

        def write() -> None:
            write_rows(self.rejected, rejected)
            write_rows(self.accepted, accepted)

        ranks.first(write)

    def add(self, accepted: Iterable[Row], rejected: Iterable[Row]) -> None:
        """Put these rows to those that are there."""

        def add() -> None:
            for path in (self.rejected, self.accepted):
                mend(path)
            append_rows(self.rejected, rejected)
            append_rows(self.accepted, accepted)

        ranks.first(add)

    def by_seed(self) -> dict[str, list[dict[str, Any]]]:
        """The accepted rewrites of each seed, by its hash: their names and texts."""
        found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for row in read_rows(self.accepted):
            found[row["seed"]["hash"]][row["id"]] = {"name": row["id"], "question": row["question"]}
        return {seed: list(rewrites.values()) for seed, rewrites in found.items()}


class Tale:
    """What the rows of a store say together; a row that is there twice, because training was resumed, counts once.

    Args:
        accepted: Rows that are tasks.
        rejected: Rows that are not.
    """

    def __init__(self, accepted: Iterable[Row], rejected: Iterable[Row]) -> None:
        self.accepted, self.rejected = _distinct(accepted), _distinct(rejected)

    @classmethod
    def of(cls, folder: str | Path) -> Tale:
        """What a folder holds.

        Raises:
            FileNotFoundError: It holds no data set.
        """
        store = Store(Path(folder))
        if not store.accepted.exists():
            raise FileNotFoundError(f"there is no synthesised data set in {folder}: no {store.accepted.name}")
        return cls(read_rows(store.accepted), read_rows(store.rejected))

    @cached_property
    def reasons(self) -> dict[str, int]:
        """Number of rejected rows by their reason, the commonest first."""
        return dict(Counter(row["reason"] for row in self.rejected).most_common())

    @cached_property
    def passes(self) -> dict[str, list[int]]:
        """Pass counts of whom: all measured tasks, the seeds among them, what was accepted, and both played afresh."""
        tasks = {row["seed"]["hash"]: row for row in (*self.rejected, *self.accepted) if "before" in row["rollouts"]}
        tasks = {seed: row for seed, row in tasks.items() if row.get("reason") != "unmeasured seed"}
        used = {row["seed"]["hash"]: row for row in self.accepted}
        return {
            "tasks": _counts(tasks.values(), "before"),
            "seeds": _counts((row for row in tasks.values() if "attempt" in row), "before"),
            "rewritten": _counts(used.values(), "before"),
            "accepted": _counts(self.accepted, "after"),
            "rewritten, fresh": _counts(used.values(), "fresh_before"),
            "accepted, fresh": _counts(self.accepted, "fresh_after"),
        }

    @property
    def rollouts(self) -> int:
        """Rollouts that make a full set; 0 if nothing was measured."""
        wanted = (tally["wanted"] for row in (*self.accepted, *self.rejected) for tally in row["rollouts"].values())
        return max(wanted, default=0)

    def summary(self) -> dict[str, Any]:
        """Counts and means, as plain data. ``share`` is that of the accepted in the union with all tasks."""
        tasks = len({row["seed"]["hash"] for row in (*self.accepted, *self.rejected)})
        accepted = len(self.accepted)
        means = {name: round(fmean(counts), 3) for name, counts in self.passes.items() if counts}
        return {
            "tasks": tasks,
            "seeds": len(self.passes["seeds"]),
            "accepted": accepted,
            "share": round(accepted / (tasks + accepted), 4) if tasks else 0.0,
            "near_duplicates": _near_duplicates(self.accepted),
            "mean_passes": means,
            "rejected": self.reasons,
            "tokens": self._tokens(),
        }

    def _tokens(self) -> int:
        spent: dict[Any, int] = {}
        for row in (*self.accepted, *self.rejected):
            for name, tally in row["rollouts"].items():
                of = row["seed"]["hash"] if name.endswith("before") else (row["seed"]["hash"], row["attempt"])
                spent[name, of] = tally["tokens"]
        return sum(spent.values())


def _distinct(rows: Iterable[Row]) -> list[Row]:
    told = {
        (row["seed"]["hash"], row["seed"]["id"], row.get("attempt"), row["provenance"]["solver"]): row for row in rows
    }
    return list(told.values())


def _counts(rows: Iterable[Row], name: str) -> list[int]:
    return [row["rollouts"][name]["passes"] for row in rows if name in row["rollouts"]]


def _near_duplicates(rows: Sequence[Row]) -> int:
    """How many accepted questions are similar to one before them."""
    seen, near = Questions(), 0
    for row in rows:
        near += seen.similar(row["question"]) is not None
        seen.add(row["question"])
    return near
