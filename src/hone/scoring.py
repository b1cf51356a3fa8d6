"""``hone score``: judge saved answers anew, with another verifier or another version of it, without sampling.

It reads the rows of a run (``rollouts.jsonl``, ``evals/<name>/step-<N>.jsonl``) or of an evaluation
(``<name>/<checkpoint>.jsonl``) and writes them, with new verdicts, to the same paths in a folder of its own; what it
reads it leaves alone. The old verdict is the row's ``verdict``: what the verifier said, before an environment or a
shaper made a reward of it. A row holds texts and no tokens, so a verifier that reads tokens fails on it, and that is an
error, not a score.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.config import Config, load_config
from hone.evaluation import load_evaluation
from hone.folder import write_settings
from hone.hooks import jsonl
from hone.ledger import write_whole
from hone.report.lines import JsonLines
from hone.seats import Verifier
from hone.types import Score, Segment, Task, Trajectory
from hone.verifiers.pool import Pools

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
SAME = 1e-9
"""Values that are so close are the same verdict."""
_AT_ONCE = 512
_NEEDED = ("question", "answer", "meta", "segments")


@dataclass(frozen=True)
class Saved:
    """A file of rows, and the evaluation that it is of; None for training."""

    path: Path
    evaluation: str | None


class Untold(Sequence[int]):
    """The tokens of a saved segment, of which only the number is known."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        raise ValueError("saved rows hold texts and no tokens: a verifier that reads tokens cannot judge them anew")


def score(
    folder: str | Path,
    config: str | Path | Config | None = None,
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    progress: Callable[[str, str, int, int], None] = lambda *_: None,
) -> tuple[Path, dict[str, Any]]:
    """Judge everything in a folder anew.

    Args:
        folder: Of a run, or of an evaluation.
        config: Names the verifiers, each in its place (``verifier``, ``eval.<name>.verifier``, stages); by default that
            of the folder.
        overrides: Settings over those of the file.
        output: A folder that is not there yet; by default the first ``scores-<n>`` in the other.
        progress: Told of the file, "", rows done, and rows in all.

    Returns:
        The new folder, and what is in its ``results.json``: by file how the verdicts differ.

    Raises:
        FileNotFoundError: The folder has no rows.
        FileExistsError: The output is there.
        ValueError: The rows are of an earlier version and lack what a verifier needs.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run or of an evaluation: it has no config.yaml")
    if not isinstance(config, Config):
        read = load_evaluation if config is not None else load_config
        config = read(config or folder / "config.yaml", overrides)
    files = list(saved(folder))
    if not any(len(JsonLines(each.path)) for each in files):
        raise FileNotFoundError(f"{folder} holds no answers: no rollouts.jsonl, and no rows of evaluations")
    target = Path(output) if output is not None else _free(folder)
    if target.exists():
        raise FileExistsError(f"{target} is there already; give another --output")
    chosen = [(each, _verifiers(config, each, folder)) for each in files]
    target.mkdir(parents=True)
    write_settings(target, config.dump())
    results = {}
    for each, verifiers in chosen:
        name = str(each.path.relative_to(folder))
        results[name] = _rejudge(each.path, target / name, verifiers, config.verification.pool, name, progress)
    write_whole(target / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    return target, results


def saved(folder: Path) -> Iterator[Saved]:
    """The files of rows in the folder of a run or of an evaluation, but for those that were scored."""
    if (folder / "rollouts.jsonl").is_file():
        yield Saved(folder / "rollouts.jsonl", None)
    is_run = (folder / "metrics.jsonl").is_file()
    for path in sorted((folder / "evals" if is_run else folder).glob("*/*.jsonl")):
        if not path.parent.name.startswith("scores-"):
            yield Saved(path, path.parent.name)


def remembered(row: Row, place: str) -> tuple[Task, Trajectory]:
    """A task and its trajectory from a row.

    Raises:
        ValueError: The row lacks something.
    """
    if lacking := [name for name in _NEEDED if name not in row]:
        raise ValueError(f"{place} has no {', '.join(lacking)}: it was written by an earlier version of hone")
    task = Task(row["task"], [{"role": "user", "content": row["question"]}], row["answer"], row["meta"])
    segments = [
        Segment(part["name"], part["source"], Untold(part["tokens"]), text=part["text"], train=part["train"])
        for part in row["segments"]
    ]
    return task, Trajectory(task, segments, stop=row["stop"], version=row["version"], agent=row["agent"])


def table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each file: old against new."""
    from rich.table import Table

    made = Table("", "answers", "old", "new", "changed", "up", "down", "errors before", "errors now")
    for name, found in results.items():
        means = ["-" if found[side] is None else f"{found[side]:.4f}" for side in ("old", "new")]
        counts = [str(found[key]) for key in ("changed", "up", "down", "errors before", "errors now")]
        made.add_row(name, str(found["answers"]), *means, *counts)
    return made


def _verifiers(config: Config, each: Saved, folder: Path) -> Callable[[Row], Verifier]:
    """Who judges a row: training's verifier may change with the stage, an evaluation may have its own."""
    if each.evaluation is None:
        return lambda row: config.at(row["step"] - 1).verifier
    if each.evaluation not in config.eval:
        names = ", ".join(config.eval) or "none"
        raise ValueError(f"{each.path}: the configuration has no eval.{each.evaluation}; its evaluations: {names}")
    verifier = config.eval[each.evaluation].verifier or config.verifier
    return lambda row: verifier


def _rejudge(
    source: Path,
    target: Path,
    verifiers: Callable[[Row], Verifier],
    limits: Mapping[str, Any],
    name: str,
    progress: Callable[..., None],
) -> dict[str, Any]:
    lines, counts, sums = JsonLines(source), Counter(), Counter()
    pools = Pools(**limits)

    async def judged(rows: Sequence[Row], first: int) -> list[Score]:
        asked = [remembered(row, f"{source}, line {first + i}") for i, row in enumerate(rows, start=1)]
        return await asyncio.gather(*(pools.of(verifiers(row))(*pair) for row, pair in zip(rows, asked, strict=True)))

    done = 0
    try:
        while done < len(lines):
            rows = lines[done : done + _AT_ONCE]
            with ThreadPoolExecutor(1) as thread:  # where no event loop runs yet
                scores = thread.submit(asyncio.run, judged(rows, done)).result()
            done += len(rows)
            jsonl.append(target, (_compared(row, new, counts, sums) for row, new in zip(rows, scores, strict=True)))
            progress(name, "", done, len(lines))
    finally:
        pools.close()
    return {
        "answers": done,
        "old": sums["old"] / counts["old"] if counts["old"] else None,
        "new": sums["new"] / counts["new"] if counts["new"] else None,
        **{key: counts[key] for key in ("changed", "up", "down", "errors before", "errors now")},
    }


def _compared(row: Row, new: Score, counts: Counter[str], sums: Counter[str]) -> dict[str, Any]:
    """The row with its new verdict, and what it was before; counted."""
    failed = row["error"] is not None
    said = row.get("verdict")
    old = None if failed else row["reward"] if said is None else said
    for side, value in (("old", old), ("new", new.value)):
        if value is not None:
            counts[side] += 1
            sums[side] += value
    counts["errors before"] += failed
    counts["errors now"] += new.error is not None
    if old is None or new.value is None:
        counts["changed"] += (old is None) != (new.value is None)
    elif abs(new.value - old) > SAME:
        counts["changed"] += 1
        counts["up" if new.value > old else "down"] += 1
    before = {name: row.get(name) for name in ("reward", "verdict", "extracted", "parts", "error")}
    now = {"reward": new.value, "verdict": new.value, "extracted": new.answer, "parts": new.parts, "error": new.error}
    return {**row, **now, "before": before}


def _free(folder: Path) -> Path:
    return next(path for n in count(1) if not (path := folder / f"scores-{n}").exists())
