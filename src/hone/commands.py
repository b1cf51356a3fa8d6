"""What each command of ``hone`` does, given its arguments; the exit status is what it returns."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hone import launcher

INTERRUPTED = 130
"""What a shell makes of SIGINT."""


def train(chosen: argparse.Namespace) -> int:
    """Train."""
    from hone.config import load_config

    return _fit(load_config(chosen.config, chosen.overrides))


def resume(chosen: argparse.Namespace) -> int:
    """Go on with a run."""
    from hone.config import load_config, overridden

    folder = Path(chosen.folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.yaml")
    config = load_config(folder / "config.yaml", chosen.overrides)
    config.folder = chosen.folder  # where it is now
    return _fit(config, resume=True, allow=[*overridden(chosen.overrides), *chosen.allow])


def _fit(config, **how) -> int:
    from hone.report.story import story
    from hone.trainer import Trainer

    _quiet_libraries()
    trainer = Trainer.from_config(config)
    run = trainer.fit(**how)
    if trainer.leads:
        print(story(run))
    return INTERRUPTED if trainer.interrupted else 0


def check(chosen: argparse.Namespace) -> int:
    """Try a configuration out, of a run or of an evaluation; 1 if something failed."""
    from hone.check import check
    from hone.config import load_config
    from hone.document import read_mapping
    from hone.evaluation import load_evaluation

    _quiet_libraries()
    written = read_mapping(Path(chosen.config))
    trains = "eval" not in written or "tasks" in written or any(o.startswith("tasks") for o in chosen.overrides)
    config = (load_config if trains else load_evaluation)(chosen.config, chosen.overrides)
    if not trains:
        print("there is nothing to train on: tried as `hone eval` reads it, with the tasks of its first evaluation")
    return 0 if check(config) else 1


def plan(chosen: argparse.Namespace) -> int:
    """Predict what a run takes; 1 if it does not fit."""
    from hone.config import load_config
    from hone.planning.command import plan

    path = Path(chosen.config)
    if path.is_dir() and not (path / "config.yaml").is_file():
        raise FileNotFoundError(f"{path} is not the folder of a run: it has no config.yaml")
    run = path if path.is_dir() else chosen.against and Path(chosen.against)
    _quiet_libraries()
    config = load_config(path / "config.yaml" if path.is_dir() else path, chosen.given)
    return 0 if plan(config, chosen, run, _console()) else 1


def make(chosen: argparse.Namespace) -> int:
    """Have the sources that play make what is theirs: ``hone mine`` and ``hone synth``."""
    from hone.config import load_config
    from hone.session import make, within

    command, config, leads = chosen.command, load_config(chosen.config, chosen.overrides), not launcher.place()
    if getattr(chosen, "report", False):
        if not leads:
            return 0
        from hone.report.synthesis import plot, synthesis

        for source in within(config.tasks):
            if getattr(source, "command", None) == command:
                print(synthesis(source.store), plot(source.store, Path(source.store, "shift.png")), sep="\n\n")
        return 0
    _quiet_libraries()
    for made in make(config, command, print):
        if leads:
            print("\n".join(f"{name}: {value}" for name, value in made.items()))
    return 0


def calibrate(chosen: argparse.Namespace) -> int:
    """Measure what processors have to know."""
    from hone.config import load_config
    from hone.session import calibrate

    if chosen.questions < 1:
        raise ValueError(f"--questions {chosen.questions}: should be at least 1")
    _quiet_libraries()
    for measured in calibrate(load_config(chosen.config, chosen.overrides), chosen.questions):
        print("\n".join(f"{name}: {value}" for name, value in measured.items()))
    return 0


def evaluate(chosen: argparse.Namespace) -> int:
    """Evaluate a model and checkpoints."""
    from hone.evaluation import evaluate, load_evaluation
    from hone.report.evaluation import Progress, table

    checkpoints, overrides = _sorted(chosen.given)
    config, path = load_evaluation(chosen.config, overrides), Path(chosen.config)
    folder = chosen.output or Path("evals", path.stem if path.stem != "config" else path.resolve().parent.name)
    _quiet_libraries()
    leads = not launcher.place()
    with Progress(leads) as progress:
        results = evaluate(
            config, checkpoints, folder=folder, base=not chosen.no_base, seed=chosen.seed, progress=progress
        )
    if not leads:
        return 0
    for name, result in results["evaluations"].items():
        _console().print(table(name, result))
    print(f"results: {folder / 'results.json'}", f"picture: {folder / 'passk.png'}", sep="\n")
    return 0


def serve(chosen: argparse.Namespace) -> int:
    """Serve a configuration's model to its trainer."""
    from hone.config import load_config
    from hone.serving import serve

    serve(load_config(chosen.config, chosen.overrides), chosen.host, chosen.port)


def score(chosen: argparse.Namespace) -> int:
    """Judge saved answers anew."""
    from hone.report.evaluation import Progress
    from hone.scoring import score, table

    files, overrides = _sorted(chosen.given)
    if len(files) > 1:
        raise ValueError(f"one configuration at most, not {len(files)}: {', '.join(files)}")
    with Progress() as progress:
        folder, results = score(chosen.folder, *files, overrides=overrides, output=chosen.output, progress=progress)
    _console().print(table(results))
    print(f"results: {folder / 'results.json'}")
    return 0


def _console():
    """Standard output; tables have room where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _sorted(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths, and settings: what has an equals sign and is no path."""
    overrides = [text for text in given if "=" in text and not Path(text).exists()]
    return [text for text in given if text not in overrides], overrides


def report(chosen: argparse.Namespace) -> int:
    """Tell what a run did."""
    from hone.report.regimes import draw, regimes
    from hone.report.run import Run

    run = Run(chosen.folder)
    print(run.summary(), regimes(run), draw(run), sep="\n\n")
    return 0


def plot(chosen: argparse.Namespace) -> int:
    """Draw the curves of a run."""
    from hone.report.run import Run

    print(Run(chosen.folder).plot(chosen.output))
    return 0


def schema(chosen: argparse.Namespace) -> int:
    """Print the JSON schema of configurations."""
    from hone.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _quiet_libraries() -> None:
    """No progress bars beside the live view."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when datasets is imported, which is slow
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
