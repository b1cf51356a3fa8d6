"""The command line. It imports little at the top, for the verifiers' worker processes import it too."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

INTERRUPTED, UNREAD = 130, 141
"""What a shell makes of SIGINT and of SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hone``.

    Returns:
        The exit status: 0, 1 where a check failed, 2 for what the user can mend, 130 after Ctrl-C (of a run that can be
        resumed, too), 141 if nobody reads what is printed.
    """
    chosen = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # models write what no terminal knows
    _show_notes()
    try:
        status = chosen.run(chosen)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return UNREAD
        if not _can_be_mended(error):
            raise
        print(f"hone: {error}", file=sys.stderr)
        return 2


def _is_unread() -> bool:
    """Whether standard output is a pipe that has no reader any more; what is still to be written is then dropped."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):  # it tells of nothing but errors
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


class _Notes(logging.StreamHandler):
    """Writes to what is standard error at the moment: the live view stands before it while it draws."""

    stream = property(lambda self: sys.stderr, lambda self, _: None)


def _show_notes() -> None:
    """Show what hone itself logs; the loggers of other libraries are theirs."""
    notes, logger = _Notes(), logging.getLogger("hone")
    notes.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers = [notes]
    logger.setLevel(logging.INFO)


def _can_be_mended(error: Exception) -> bool:
    """Whether it tells the user what to do; anything else is a defect, and shows its traceback."""
    from hone.collect import VerificationError

    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    ours = frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("hone.")
    return isinstance(error, OSError | VerificationError) or (ours and isinstance(error, ValueError))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hone", description="Reinforcement learning post-training for language models.")
    package = sys.modules["hone"]  # is on no floor, and imported already
    parser.add_argument("--version", action="version", version=f"hone {package.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, help: str, **argument: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        for key, text in argument.items():
            made.add_argument(key, help=text)
        made.set_defaults(run=run, command=name)
        return made

    overrides = {
        "metavar": "key=value",
        "nargs": "*",
        "help": "settings over those of the file, such as optimizer.lr=1e-5",
    }
    command("train", _train, "Train as a configuration says.", config="a YAML file").add_argument(
        "overrides", **overrides
    )
    resume = command("resume", _resume, "Go on with a run from its newest checkpoint.", folder="the run's folder")
    resume.add_argument("overrides", **overrides)
    resume.add_argument(
        "--allow", action="append", default=[], choices=["settings", "data"],
        help="go on though settings that are not given here, or the files of tasks, are not those of the run",
    )  # fmt: skip
    command(
        "check", _check, "Parse a configuration, try its parts on something small, and print what a run will do.",
        config="a YAML file",
    ).add_argument("overrides", **overrides)  # fmt: skip
    command(
        "mine", _make, "Play first attempts at the tasks of a configuration, and store those that failed.",
        config="a YAML file",
    ).add_argument("overrides", **overrides)  # fmt: skip
    synth = command(
        "synth", _make, "Rewrite the tasks of a configuration into harder ones, and store those that hold.",
        config="a YAML file",
    )  # fmt: skip
    synth.add_argument("overrides", **overrides)
    synth.add_argument("--report", action="store_true", help="tell and draw what is in the store, and make nothing")
    command("report", _report, "Tell what a run did, and which tasks its training can solve that it could not before.",
            folder="the run's folder")  # fmt: skip
    command("plot", _plot, "Draw the curves of a run into its folder.", folder="the run's folder").add_argument(
        "--output", type=Path, help="the PNG to write; by default curves.png in the folder"
    )
    command("schema", _schema, "Print a JSON schema of configurations, for editors.")
    return parser


def _train(chosen: argparse.Namespace) -> int:
    from hone.config import load_config

    return _fit(load_config(chosen.config, chosen.overrides))


def _resume(chosen: argparse.Namespace) -> int:
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
    print(story(trainer.fit(**how)))
    return INTERRUPTED if trainer.interrupted else 0


def _check(chosen: argparse.Namespace) -> int:
    from hone.check import check
    from hone.config import load_config

    _quiet_libraries()
    return 0 if check(load_config(chosen.config, chosen.overrides)) else 1


def _make(chosen: argparse.Namespace) -> int:
    from hone.config import load_config
    from hone.session import make, within

    command, config = chosen.command, load_config(chosen.config, chosen.overrides)
    if getattr(chosen, "report", False):
        from hone.report.synthesis import plot, synthesis

        for source in within(config.tasks):
            if getattr(source, "command", None) == command:
                print(synthesis(source.store), plot(source.store, Path(source.store, "shift.png")), sep="\n\n")
        return 0
    _quiet_libraries()
    for made in make(config, command, print):
        print("\n".join(f"{name}: {value}" for name, value in made.items()))
    return 0


def _report(chosen: argparse.Namespace) -> int:
    from hone.report.regimes import draw, regimes
    from hone.report.run import Run

    run = Run(chosen.folder)
    print(run.summary(), regimes(run), draw(run), sep="\n\n")
    return 0


def _plot(chosen: argparse.Namespace) -> int:
    from hone.report.run import Run

    print(Run(chosen.folder).plot(chosen.output))
    return 0


def _schema(chosen: argparse.Namespace) -> int:
    from hone.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _quiet_libraries() -> None:
    """No progress bars beside the live view."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when datasets is imported, which is slow
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    sys.exit(main())
