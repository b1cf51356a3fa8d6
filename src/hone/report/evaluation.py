"""What an evaluation found: numbers with intervals for each checkpoint, side by side, as data and as a table.

Every number is a mean over tasks, and its interval a bootstrap over tasks (:mod:`hone.math.resampling`). A trajectory
that could not be judged is no answer: it is counted under ``errors`` and in nothing else but length and truncation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hone.math.efficiency import reasoning_efficiency
from hone.math.majority import majority_at_k
from hone.math.passk import budgets, pass_at_k, right
from hone.math.resampling import RESAMPLES, Interval, bootstrap, paired

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
LEVEL = 0.95
METHOD = {
    "intervals": "BCa bootstrap of the mean over tasks",
    "level": LEVEL,
    "resamples": RESAMPLES,
    "test": "two-sided paired sign-flip permutation of the differences of tasks, not corrected for several tests",
}
"""How intervals and p-values came about, for the record."""


class Progress:
    """Bars on standard error, if it is a terminal. Called with what is played, by whom, how far, and of how many.

    Args:
        shown: Whether there are any: several processes may have one terminal.
    """

    def __init__(self, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bars = Bars(*columns, console=console, disable=not (shown and console.is_terminal))
        self._known: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, name: str, label: str, done: int, total: int) -> None:
        """Show how far it is."""
        if (name, label) not in self._known:
            self._known[name, label] = self._bars.add_task(f"{name} {label}".strip(), total=total)
        self._bars.update(self._known[name, label], completed=done)


class Answers:
    """The answers of one checkpoint to the tasks of one evaluation.

    Args:
        groups: The rows of each task, in the order of the tasks; what was played aside is left out.
        samples: Answers that a task should have.

    Attributes:
        lengths: ``[answer]``: tokens, imposed ones included.
        thinking: ``[answer]``: tokens of thinking, all of an answer that did not end it; empty if none did.
        accuracy: ``[task]``: mean reward of the judged answers.
        passed: ``[task, k]``: pass@k, for k from 1.
        voted: ``[task, index]``: maj@k for the k of ``votes``; None where the verifier reads no answers.
        votes: The k of the votes.
    """

    def __init__(self, groups: Sequence[Sequence[Row]], samples: int) -> None:
        self.rows = [row for group in groups for row in group if row["sibling"] is not None]
        self.lengths = [sum(p["tokens"] for p in row["segments"] if p["source"] != "given") for row in self.rows]
        ended = [row.get("thinking") for row in self.rows]
        self.thinking = [n or whole for n, whole in zip(ended, self.lengths, strict=True)] if any(ended) else []
        judged = [[r for r in group if r["sibling"] is not None and r["reward"] is not None] for group in groups]
        rewards = [[row["reward"] for row in group] for group in judged]
        self.accuracy = np.array([np.mean(own) if own else np.nan for own in rewards])
        counts = [right(own) for own in rewards]
        self.passed = np.array(
            [[pass_at_k(n, c, k) if n >= k else np.nan for k in range(1, samples + 1)] for n, c in counts]
        ).reshape(len(groups), samples)
        self.votes = budgets(samples)
        self.voted = None
        if any(row.get("extracted") is not None for row in self.rows):
            self.voted = np.array([_votes(group, self.votes) for group in judged]).reshape(len(groups), -1)

    def measured(self, seed: int) -> dict[str, Any]:
        """All numbers of the checkpoint."""
        wrong = Counter(row["error"].partition(":")[0] for row in self.rows if row["error"] is not None)
        columns = [self.accuracy[:, None], self.passed, *([] if self.voted is None else [self.voted])]
        accuracy, *others = [_plain(found) for found in bootstrap(np.hstack(columns), level=LEVEL, seed=seed)]
        samples = self.passed.shape[1]
        return {
            "accuracy": accuracy,
            "pass@k": {str(k): others[k - 1] for k in range(1, samples + 1)},
            "maj@k": None if self.voted is None else dict(zip(map(str, self.votes), others[samples:], strict=True)),
            "length": float(np.mean(self.lengths)) if self.rows else None,
            "thinking": float(np.mean(self.thinking)) if self.thinking else None,
            "truncated": float(np.mean([row["stop"] == "length" for row in self.rows])) if self.rows else None,
            "answers": len(self.rows),
            "errors": dict(sorted(wrong.items())),
        }


def _votes(judged: Sequence[Row], ks: Sequence[int]) -> list[float]:
    said, fine = [row.get("extracted") for row in judged], [row["reward"] >= 1 for row in judged]
    return [majority_at_k(said, fine, k) if len(judged) >= k else np.nan for k in ks]


def compared(first: Answers, second: Answers, max_tokens: int, seed: int) -> dict[str, Any]:
    """How much better the second is than the first on the same tasks, in accuracy and in pass@k at the largest k.

    Where the second thinks there is its efficiency, too: see :func:`hone.math.efficiency.reasoning_efficiency`.
    """
    k = first.passed.shape[1]
    pairs = {"accuracy": (first.accuracy, second.accuracy)}
    if k > 1:
        pairs[f"pass@{k}"] = (first.passed[:, -1], second.passed[:, -1])
    found: dict[str, Any] = {}
    for name, (before, after) in pairs.items():
        difference = after - before
        [interval] = bootstrap(difference[:, None], level=LEVEL, seed=seed)
        found[name] = {
            "difference": _plain(interval),
            "p": paired(before, after, seed=seed) if np.isfinite(difference).any() else None,
            "tasks": int(np.isfinite(difference).sum()),
            "better": int((difference > 0).sum()),
            "worse": int((difference < 0).sum()),
        }
    gained = found["accuracy"]["difference"]["mean"]
    if second.thinking and gained is not None:
        found["efficiency"] = reasoning_efficiency(gained, 0.0, second.thinking, max_tokens)
    return found


def evaluated(
    played: Mapping[str, Sequence[Sequence[Row]]], samples: int, max_tokens: int, seed: int
) -> dict[str, Any]:
    """The results of one evaluation.

    Args:
        played: The groups of each checkpoint, all of them of the same tasks in the same order.
        samples: Answers that a task should have.
        max_tokens: Most tokens of an answer.
        seed: Of the resampling.
    """
    answers = {label: Answers(groups, samples) for label, groups in played.items()}
    first, *others = answers
    return {
        "tasks": len(played[first]),
        "samples": samples,
        "checkpoints": {label: own.measured(seed) for label, own in answers.items()},
        "compared with": first,
        "differences": {label: compared(answers[first], answers[label], max_tokens, seed) for label in others},
    }


def table(name: str, result: Mapping[str, Any]) -> Table:
    """A row for each checkpoint."""
    from rich.table import Table

    samples, found = result["samples"], result["checkpoints"]
    ks = budgets(samples)[1:]
    has_votes = samples > 1 and any(own["maj@k"] for own in found.values())
    heads = ["", "accuracy", *(f"pass@{k}" for k in ks), *([f"maj@{samples}"] if has_votes else [])]
    thinks = any(own["thinking"] for own in found.values())
    heads += ["length", *(["thinking"] if thinks else []), "truncated", "errors"]
    heads += ["difference", "p", *(["efficiency"] if thinks else [])] if result["differences"] else []
    title = f"{name}: {result['tasks']} tasks, {samples} {'answers' if samples > 1 else 'answer'} each; "
    made = Table(title=title + f"{LEVEL:.0%} intervals over tasks")
    for head in heads:
        made.add_column(head, overflow="fold")
    for label, own in found.items():
        cells = [label, _told(own["accuracy"]), *(_number(own["pass@k"][str(k)]["mean"]) for k in ks)]
        if has_votes:
            cells.append(_number(own["maj@k"][str(samples)]["mean"]) if own["maj@k"] else "-")
        cells += [_number(own["length"], 1), *([_number(own["thinking"], 1)] if thinks else [])]
        cells += [_number(own["truncated"]), str(sum(own["errors"].values()))]
        if label in result["differences"]:
            against = result["differences"][label]
            cells += [_told(against["accuracy"]["difference"], "+"), _number(against["accuracy"]["p"], 4)]
            cells += [_number(against.get("efficiency"))] if thinks else []
        made.add_row(*cells)
    return made


def _plain(interval: Interval) -> dict[str, float | None]:
    fields = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in fields.items()}


def _told(interval: Mapping[str, float | None], sign: str = "") -> str:
    if interval["mean"] is None:
        return "-"
    return f"{interval['mean']:{sign}.3f} [{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"


def _number(value: float | None, places: int = 3) -> str:
    return "-" if value is None else f"{value:.{places}f}"
