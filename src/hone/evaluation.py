"""``hone eval``: the evaluations of a configuration, for the base model and for checkpoints, side by side.

Everything lies in one folder: ``config.yaml``, the rows of each checkpoint in ``<evaluation>/<checkpoint>.jsonl`` (those of
``rollouts.jsonl``), ``results.json`` and ``passk.png``. A task's rows are written as soon as it is played, so that a start
that was cut off goes on where it was. Noise is keyed by evaluation, task, sibling and position alone: checkpoints differ by
their weights, and the evaluations of a training run have the same noise.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hone import document
from hone.build import describe, describe_settings
from hone.candidates import Candidate, find, refuse_other_tokenizers
from hone.collect import refuse_without_verdict
from hone.config import Config, load_config
from hone.folder import write_settings
from hone.hooks import jsonl
from hone.hooks.rows import rows
from hone.report.evaluation import METHOD, draw, evaluated
from hone.report.lines import JsonLines
from hone.sections import EvalConfig
from hone.session import Session
from hone.synthesis.journal import write_rows
from hone.synthesis.rewriting import question
from hone.types import Group, Task

log = logging.getLogger("hone")

SHOWN = 12
"""Settings that differ of which a refusal tells."""
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
        progress: Told of evaluation, checkpoint, tasks done, and tasks in all.

    Returns:
        What is in ``results.json``.

    Raises:
        FileNotFoundError: A checkpoint is not there.
        ValueError: There are no evaluations, the folder holds one with other settings, tokenizers differ, or a task does
            not fit into the model.
        VerificationError: Not one answer of an evaluation could be judged.
    """
    if not config.eval:
        raise ValueError("there is no eval section: hone eval evaluates what stands in eval.<name>.tasks")
    candidates = find(config, checkpoints, base=base)
    refuse_other_tokenizers(config, candidates)
    folder = Path(folder)
    parts = [_Part(name, part, folder / name, _tasks(name, part)) for name, part in config.eval.items()]
    _claim(folder, config)
    for candidate in candidates:
        _play(config, candidate, parts, folder, progress)
    results = {part.name: evaluated(part.played(candidates), part.settings.siblings, seed) for part in parts}
    where = {candidate.label: candidate.path and str(candidate.path) for candidate in candidates}
    whole = {"checkpoints": where, "method": METHOD | {"seed": seed}, "evaluations": results}
    write_whole(folder / "results.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")
    draw(results, folder / "passk.png")
    return whole


def load_evaluation(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration that need not say how to train: ``tasks`` and ``verifier`` are those of its first evaluation.

    Args:
        path: The YAML file, or the folder of a run.
        overrides: As in :func:`hone.load_config`.
    """
    path = Path(path) / "config.yaml" if Path(path).is_dir() else Path(path)
    written = document.read_mapping(path)
    first = next(iter(written["eval"].values()), None) if isinstance(written.get("eval"), Mapping) else None
    lent = {name: first[name] for name in ("tasks", "verifier") if isinstance(first, Mapping) and name in first}
    return load_config(path, overrides, defaults=lent)


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


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
        """The rows of the finished tasks: all siblings are there, and not all of them unjudged."""
        found: dict[str, list[Row]] = {}
        for row in JsonLines(self.path(candidate)):
            found.setdefault(row["task"], []).append(row)
        wanted = set(range(self.settings.siblings))
        return {
            task: group
            for task, group in found.items()
            if {row["sibling"] for row in group} - {None} == wanted and any(row["reward"] is not None for row in group)
        }

    def remaining(self, candidate: Candidate) -> list[int]:
        """The places of the tasks to play; what is left of others is dropped from the file."""
        path, known = self.path(candidate), self.groups(candidate)
        for task in self.tasks:
            if task.id in known:
                self._refuse_another(task, known[task.id][0], path)
        if stray := known.keys() - self.ids:
            raise ValueError(f"{path}: has answers to {len(stray)} other tasks, such as {min(stray)!r}; {_ELSEWHERE}")
        kept = [row for group in known.values() for row in group]
        if path.exists() and (len(kept) != len(JsonLines(path)) or not path.read_bytes().endswith(b"\n")):
            write_rows(path, kept)
        return [place for place, task in enumerate(self.tasks) if task.id not in known]

    def played(self, candidates: Sequence[Candidate]) -> dict[str, list[list[Row]]]:
        """For each checkpoint the rows of each task."""
        found = {}
        for candidate in candidates:
            groups = self.groups(candidate)
            found[candidate.label] = [groups.get(task.id, []) for task in self.tasks]
        return found

    def _refuse_another(self, task: Task, row: Row, path: Path) -> None:
        asked = {"question": question(task), "answer": jsonl.plain(task.answer)}
        for name, value in asked.items():
            if row[name] != value:
                raise ValueError(f"{path}: task {task.id!r} had another {name}: the data have changed; {_ELSEWHERE}")


_ELSEWHERE = "give another --output"


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
    todo = {part.name: part.remaining(candidate) for part in parts}
    if not any(todo.values()):
        _identify(folder, candidate, None)
        return
    with Session(_playing(config, candidate)) as session:
        candidate.take_over(session)
        _identify(folder, candidate, session.fingerprint())
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
    progress(part.name, candidate.label, done, len(part.tasks))

    def keep(index: int, group: Group) -> None:
        nonlocal done
        made = rows(session.policy.version, [group], kept=[False])
        jsonl.append(path, ({**row, "group": places[index]} for row in made))
        done += 1
        progress(part.name, candidate.label, done, len(part.tasks))

    params = settings.sampling.keyed("evaluate", part.name)
    tasks = [part.tasks[place] for place in places]
    try:
        groups = session.collector.play(
            tasks, settings.siblings, params, settings.verifier, settings.environment, finished=keep
        )
    except BaseException:
        log.info("%d of %d tasks are kept in %s; the same command goes on", done, len(part.tasks), path)
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
            f"eval.{part.name}: {candidate.label} has {limit} positions, and task {task.id!r} needs {most} for its prompt "
            f"and {room} for the answer (too much in {many} of {len(part.tasks)} tasks); use "
            + (f"eval.{way}" if most < limit else way)
        )


def _claim(folder: Path, config: Config) -> None:
    """Make the folder, or go on in it.

    Raises:
        FileExistsError: It holds something else.
        ValueError: It holds an evaluation with other settings.
    """
    written = folder / "config.yaml"
    if written.exists():
        if (folder / "metrics.jsonl").exists():
            raise FileExistsError(f"{folder} is the folder of a training run; {_ELSEWHERE}")
        _refuse_other_settings(written, config)
        return
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else; {_ELSEWHERE}")
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, config.dump())


def _refuse_other_settings(written: Path, config: Config) -> None:
    before, now = _settings(load_config(written)), _settings(config)
    names = [name for name in {**before, **now} if before.get(name, _ABSENT) != now.get(name, _ABSENT)]
    if names:
        told = [
            f"  {name}: {before.get(name, _ABSENT)!r:.200} there, {now.get(name, _ABSENT)!r:.200} now" for name in names
        ]
        more = [f"  and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        head = f"{written.parent} holds an evaluation with other settings; go back to them, or {_ELSEWHERE}:"
        raise ValueError("\n".join([head, *told[:SHOWN], *more]))


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _settings(config: Config) -> dict[str, Any]:
    """Every setting that the answers or the verdicts depend on, by its path."""
    parts: dict[str, Any] = {"model": describe(config.model), "sampler": next(iter(_named(describe(config.sampler))))}
    for name, part in config.eval.items():
        spec = describe_settings(part)
        spec["verifier"] = describe(part.verifier or config.verifier)
        spec["environment"] = describe(part.environment or config.environment)
        parts[f"eval.{name}"] = {key: value for key, value in spec.items() if key != "every"}
    if processors := getattr(config.sampler, "processors", None):
        parts["sampler.processors"] = [describe(processor) for processor in processors]
    return dict(_flat("", parts))


def _named(spec: Any) -> Mapping[str, Any]:
    return spec if isinstance(spec, Mapping) else {spec: {}}


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), inner)
    else:
        yield path, value


def _identify(folder: Path, candidate: Candidate, weights: str | None) -> None:
    """Remember what lies behind a label.

    Raises:
        ValueError: It was another checkpoint, or has other weights now.
    """
    path = folder / "checkpoints.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    own = {"path": candidate.path and str(candidate.path.resolve()), "weights": weights}
    before = known.get(candidate.label)
    if before is None:
        write_whole(path, json.dumps({**known, candidate.label: own}, indent=2) + "\n")
        return
    if before["path"] != own["path"]:
        raise ValueError(f"{folder}: {candidate.label} was {before['path']}, and is {own['path']} now; {_ELSEWHERE}")
    if weights not in (None, before["weights"]):
        raise ValueError(f"{folder}: the weights of {candidate.label} have changed since; {_ELSEWHERE}")
