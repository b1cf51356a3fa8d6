"""``hone eval``: the evaluations of a configuration, for the base model and checkpoints, in all variants, side by side.

Everything lies in one folder: ``config.yaml``, each checkpoint's rows in ``<evaluation>/<checkpoint>.jsonl`` (as in
``rollouts.jsonl``), ``results.json`` and ``passk.png``. A task's rows are written as soon as it is played, so that a
start that was cut off goes on where it was. Noise is keyed by evaluation, task, sibling and position alone: checkpoints
differ by their weights, and the evaluations of a training run have the same noise. Of several processes each plays a
share of the tasks, and the first one reads and writes the folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hone import document, ranks, runtime
from hone.candidates import Candidate, find, refuse_other_tokenizers
from hone.collect import Interrupted
from hone.config import Config, load_config
from hone.hooks import jsonl
from hone.hooks.rows import rows
from hone.interrupt import graceful
from hone.judging import refuse_without_verdict
from hone.ledger import ELSEWHERE, claim, identify, write_whole
from hone.papers.thinking import Words, thought_of
from hone.report.evaluation import METHOD, evaluated
from hone.report.lines import JsonLines
from hone.report.panels import draw
from hone.sections import EvalConfig
from hone.session import Session
from hone.synthesis.journal import write_rows
from hone.synthesis.rewriting import question
from hone.types import Group, Task

END = "</think>"
"""Of thinking, where a model thinks in tags."""

log = logging.getLogger("hone")
Row = dict[str, Any]


def evaluate(
    config: Config,
    checkpoints: Sequence[str | Path] = (),
    *,
    folder: str | Path,
    base: bool = True,
    seed: int = 0,
    progress: Callable[[str, str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Play what has not been played yet, and measure.

    Args:
        config: Its ``eval`` sections are evaluated.
        checkpoints: Runs, their checkpoints, or saved models; see :func:`hone.candidates.find`.
        folder: Where everything is written. Of an earlier start, its finished tasks are not played again.
        base: Evaluate the configuration's own model too.
        seed: Of the resampling behind intervals and tests.
        progress: Told of evaluation, checkpoint, tasks done, and tasks in all; in the first process.

    Returns:
        What is in ``results.json``.

    Raises:
        FileNotFoundError: A checkpoint is not there.
        ValueError: There are no evaluations, the folder holds one with other settings, tokenizers differ, or a task
            does not fit into the model.
        VerificationError: Not one answer of an evaluation could be judged.
        KeyboardInterrupt: After Ctrl-C, in all processes; the same call goes on.
    """
    if not config.eval:
        raise ValueError("there is no eval section: hone eval evaluates what stands in eval.<name>.tasks")
    folder = Path(folder)
    with runtime.joined(config.device, *runtime.limits(config)):
        candidates = find(config, checkpoints, base=base)
        refuse_other_tokenizers(config, candidates)
        parts = [_Part(name, part, folder / name, _tasks(name, part)) for name, part in config.eval.items()]
        ranks.first(lambda: claim(folder, config))
        told = progress if not ranks.index() else lambda *_: None
        for candidate in candidates:
            _play(config.every_variant()[candidate.variant], candidate, parts, folder, told)
        return ranks.first(lambda: _results(candidates, parts, folder, seed))


def _results(candidates: Sequence[Candidate], parts: Sequence[_Part], folder: Path, seed: int) -> dict[str, Any]:
    """Measure what was played, and write it."""
    results = {part.name: part.result(candidates, seed) for part in parts}
    where = {candidate.label: candidate.path and str(candidate.path) for candidate in candidates}
    whole = {"checkpoints": where, "method": METHOD | {"seed": seed}, "evaluations": results}
    write_whole(folder / "results.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")
    draw(results, folder / "passk.png")
    return whole


def load_evaluation(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration that need not say how to train: it lends ``tasks`` and ``verifier`` of its first evaluation.

    Args:
        path: The YAML file, or the folder of a run.
        overrides: As in :func:`hone.load_config`.
    """
    path = Path(path) / "config.yaml" if Path(path).is_dir() else Path(path)
    written = document.read_mapping(path)
    first = next(iter(written["eval"].values()), None) if isinstance(written.get("eval"), Mapping) else None
    lent = {name: first[name] for name in ("tasks", "verifier") if isinstance(first, Mapping) and name in first}
    return load_config(path, overrides, defaults=lent)


@dataclass
class _Part:
    """One evaluation: its tasks, and the files of its answers."""

    name: str
    settings: EvalConfig
    folder: Path
    tasks: list[Task]
    ids: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = {task.id for task in self.tasks}

    def path(self, candidate: Candidate) -> Path:
        return self.folder / f"{candidate.label.replace('/', '.')}.jsonl"

    def groups(self, candidate: Candidate) -> dict[str, list[Row]]:
        """The rows of the tasks of which all siblings are there."""
        found: dict[str, list[Row]] = {}
        for row in JsonLines(self.path(candidate)):
            found.setdefault(row["task"], []).append(row)
        wanted = set(range(self.settings.siblings))
        return {task: rows for task, rows in found.items() if {row["sibling"] for row in rows} - {None} == wanted}

    def remaining(self, candidate: Candidate) -> list[int]:
        """The places of the tasks to play: those without all siblings, or one verdict. Their rows are dropped."""
        path, known = self.path(candidate), self.groups(candidate)
        known = {task: group for task, group in known.items() if any(row["reward"] is not None for row in group)}
        for task in self.tasks:
            if task.id in known:
                self._refuse_another(task, known[task.id][0], path)
        if stray := known.keys() - self.ids:
            raise ValueError(f"{path}: has answers to {len(stray)} other tasks, such as {min(stray)!r}; {ELSEWHERE}")
        kept = [row for group in known.values() for row in group]
        if path.exists() and (len(kept) != len(JsonLines(path)) or not path.read_bytes().endswith(b"\n")):
            write_rows(path, kept)
        return [place for place, task in enumerate(self.tasks) if task.id not in known]

    def result(self, candidates: Sequence[Candidate], seed: int) -> dict[str, Any]:
        """What the rows of all candidates say."""
        played = {}
        for candidate in candidates:
            groups = self.groups(candidate)
            played[candidate.label] = [groups.get(task.id, []) for task in self.tasks]
        return evaluated(played, self.settings.siblings, self.settings.sampling.max_tokens, seed)

    def _refuse_another(self, task: Task, row: Row, path: Path) -> None:
        asked = {"question": question(task), "answer": jsonl.plain(task.answer)}
        for name, value in asked.items():
            if row[name] != value:
                raise ValueError(f"{path}: task {task.id!r} had another {name}: the data have changed; {ELSEWHERE}")


def _tasks(name: str, part: EvalConfig) -> list[Task]:
    """The first ``items`` tasks; a source that begins anew has given all it has. The source is where it was."""
    cursor, found = part.tasks.state_dict(), {}
    try:
        for task in islice(part.tasks, part.items):
            if task.id in found:
                break
            found[task.id] = task
    finally:
        part.tasks.load_state_dict(cursor)
    if not found:
        raise ValueError(f"eval.{name}.tasks: the source has no tasks")
    if part.siblings > 1 and part.sampling.temperature == 0:
        log.warning("eval.%s: %d siblings without a temperature are all alike", name, part.siblings)
    return list(found.values())


def _play(
    config: Config, candidate: Candidate, parts: Sequence[_Part], folder: Path, progress: Callable[..., None]
) -> None:
    """Play what one checkpoint has not played; its weights are loaded only if there is anything."""
    todo = ranks.first(lambda: {part.name: part.remaining(candidate) for part in parts})
    if not any(todo.values()):
        ranks.first(lambda: identify(folder, candidate, None))
        return
    with Session(_playing(config, candidate)) as session:
        candidate.take_over(session)
        weights = session.fingerprint()
        ranks.first(lambda: identify(folder, candidate, weights))
        for part in parts:
            _refuse_too_long(session, candidate, part, config)
        for part in parts:
            if todo[part.name]:
                _play_part(session, candidate, part, todo[part.name], progress)


def _play_part(
    session: Session, candidate: Candidate, part: _Part, places: Sequence[int], progress: Callable[..., None]
) -> None:
    path, settings = part.path(candidate), part.settings
    done = len(part.tasks) - len(places)
    words = Words.of(session.sampler.renderer, END, 0)
    progress(part.name, candidate.label, done, len(part.tasks))

    def keep(index: int, group: Group) -> None:
        nonlocal done
        made = zip(rows(session.policy.version, [group], kept=[False]), [*group, *group.aside], strict=True)
        own = {"group": places[index]}
        jsonl.append(path, ({**row, **own, "thinking": thought_of(words, played)} for row, played in made))
        done += 1
        progress(part.name, candidate.label, done, len(part.tasks))

    params = settings.sampling.keyed("evaluate", part.name)
    tasks = [part.tasks[place] for place in places]
    try:
        with graceful(session.collector.cancel, "stopping"):
            groups = session.collector.play(
                tasks, settings.siblings, params, settings.verifier, settings.environment, finished=keep
            )
    except BaseException as error:
        log.info("%d of %d tasks are kept in %s; the same command goes on", done, len(part.tasks), path)
        if isinstance(error, Interrupted):
            raise KeyboardInterrupt from None
        raise
    refuse_without_verdict(groups)


def _playing(config: Config, candidate: Candidate) -> Config:
    """The configuration with the candidate's policy, and without what only training needs."""
    first = next(iter(config.eval.values()))
    made = config.model_copy(update={"model": candidate.policy(), "tasks": first.tasks, "stages": {}})
    made._stages = {}
    return made


def _refuse_too_long(session: Session, candidate: Candidate, part: _Part, config: Config) -> None:
    """Compare the longest prompt with the model, where both can be told, before anything is sampled.

    Raises:
        ValueError: It has too few positions.
    """
    environment = part.settings.environment or config.environment
    limit = getattr(getattr(session.policy, "text_config", None), "max_position_embeddings", None)
    if not limit or not hasattr(environment, "messages"):
        return
    lengths = [len(session.policy.renderer.prompt(environment.messages(task))) for task in part.tasks]
    most, room = max(lengths), part.settings.sampling.max_tokens
    if most + room > limit:
        task, many = part.tasks[lengths.index(most)], sum(length + room > limit for length in lengths)
        way = f"{part.name}.sampling.max_tokens to at most {limit - most}" if most < limit else "a model with more"
        raise ValueError(
            f"eval.{part.name}: {candidate.label} has {limit} positions, and task {task.id!r} needs {most} for its "
            f"prompt and {room} for the answer (too much in {many} of {len(part.tasks)} tasks); use "
            + (f"eval.{way}" if most < limit else way)
        )
