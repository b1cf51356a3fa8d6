"""The command line. It imports little at the top, for the verifiers' worker processes import it too."""

from __future__ import annotations

import argparse
import io
import logging
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from hone import commands
from hone.hangs import EndedElsewhere
from hone.launcher import launched, place, refusal

UNREAD = 141
"""What a shell makes of SIGPIPE."""
RUNS = {"mine": "make", "synth": "make", "eval": "evaluate"}
"""The functions of commands that are not called as these are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hone``.

    Returns:
        The exit status: 0, 1 where a check failed, 2 for what the user can mend, 130 after Ctrl-C (of a run that can be
        resumed, too), 141 if nobody reads what is printed.
    """
    chosen = _parsed(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # models write what no terminal knows
    _show_notes()
    if told := refusal(chosen.command):
        return _refuse(told)
    try:
        status = chosen.run(chosen)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return commands.INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return UNREAD
        if isinstance(error, EndedElsewhere):
            return 1
        if not _can_be_mended(error):
            raise
        print(f"hone: {error}", file=sys.stderr)
        return 2


def _refuse(told: str) -> int:
    """The exit status; the first process says why, and the others end without a fault, so that it is heard."""
    if place():
        return 0
    print(f"hone: {told}", file=sys.stderr)
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
    """Show what hone itself logs; the loggers of other libraries are theirs.

    Of several processes all tell the same, but for errors.
    """
    notes, logger = _Notes(), logging.getLogger("hone")
    notes.setFormatter(logging.Formatter(f"%(levelname)s{f' ({place()})' if launched() > 1 else ''}: %(message)s"))
    logger.handlers = [notes]
    logger.setLevel(logging.ERROR if launched() > 1 and place() else logging.INFO)


def _can_be_mended(error: Exception) -> bool:
    """Whether it tells the user what to do; anything else is a defect, and shows its traceback."""
    from hone.judging import VerificationError

    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    ours = frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("hone.")
    return isinstance(error, OSError | VerificationError) or (ours and isinstance(error, ValueError | ImportError))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Argparse with lists that may go on behind an option, which it takes for unknown."""
    parser = _parser()
    chosen, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(chosen, "given") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        chosen.given += rest
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hone", description="Reinforcement learning post-training for language models.")
    package = sys.modules["hone"]  # is on no floor, and imported already
    parser.add_argument("--version", action="version", version=f"hone {package.__version__}")
    adding = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str, **argument: str) -> argparse.ArgumentParser:
        made = adding.add_parser(name, help=help, description=help)
        for key, text in argument.items():
            made.add_argument(key, help=text)
        made.set_defaults(run=getattr(commands, RUNS.get(name, name)), command=name)
        return made

    overrides = {
        "metavar": "key=value",
        "nargs": "*",
        "help": "settings over those of the file, such as optimizer.lr=1e-5",
    }
    command("train", "Train as a configuration says.", config="a YAML file").add_argument("overrides", **overrides)
    resume = command("resume", "Go on with a run from its newest checkpoint.", folder="the run's folder")
    resume.add_argument("overrides", **overrides)
    resume.add_argument(
        "--allow", action="append", default=[], choices=["settings", "data"],
        help="go on though settings that are not given here, or the files of tasks, are not those of the run",
    )  # fmt: skip
    command(
        "check", "Parse a configuration, try its parts on something small, and print what a run will do.",
        config="a YAML file",
    ).add_argument("overrides", **overrides)  # fmt: skip
    planned = command(
        "plan", "Predict memory, time and cost of a run from shapes alone; of one that was made, beside what it took.",
        config="a YAML file, or the folder of a run",
    )  # fmt: skip
    planned.add_argument("given", **overrides)
    planned.add_argument("--hardware", metavar="NAME|FILE", help="a device of the table, or of a file like it; by "
                         "default the one at hand")  # fmt: skip
    planned.add_argument("--devices", type=int, default=1, help="how many, 1 to 1024")
    planned.add_argument("--sharding", choices=["none", "fsdp"], default="none")
    planned.add_argument("--prompt-tokens", type=int, help="by default, those of the first tasks")
    planned.add_argument("--response-tokens", type=int, help="of an answer on the mean; by default sampling.max_tokens")
    planned.add_argument("--measure", action="store_true", help="take the rates of this machine's CPU, measured now")
    planned.add_argument("--against", metavar="RUN", help="a run's folder, whose figures are shown beside")
    command(
        "mine", "Play first attempts at the tasks of a configuration, and store those that failed.",
        config="a YAML file",
    ).add_argument("overrides", **overrides)  # fmt: skip
    synth = command(
        "synth", "Rewrite the tasks of a configuration into harder ones, and store those that hold.",
        config="a YAML file",
    )  # fmt: skip
    synth.add_argument("overrides", **overrides)
    synth.add_argument("--report", action="store_true", help="tell and draw what is in the store, and make nothing")
    calibrate = command(
        "calibrate", "Measure what processors have to know of a model, such as for how long it thinks.",
        config="a YAML file",
    )  # fmt: skip
    calibrate.add_argument("overrides", **overrides)
    calibrate.add_argument("--questions", type=int, default=10, help="tasks that are tried; 10 unless given")
    evaluated = command(
        "eval", "Evaluate a model and checkpoints as the eval sections of a configuration say, side by side.",
        config="a YAML file, or the folder of a run",
    )  # fmt: skip
    evaluated.add_argument(
        "given", nargs="*", metavar="CHECKPOINT | key=value",
        help="folders of runs, of checkpoints or of saved models; and settings over those of the file",
    )  # fmt: skip
    evaluated.add_argument("--output", type=Path, help="the folder to write; by default evals/<name of the file>")
    evaluated.add_argument("--no-base", action="store_true", help="leave out the configuration's own model")
    evaluated.add_argument("--seed", type=int, default=0, help="of the resampling for intervals and tests")
    served = command(
        "serve", "Start a vLLM server for the sampler vllm_server of a configuration; weights come from its trainer.",
        config="a YAML file",
    )  # fmt: skip
    served.add_argument("overrides", **overrides)
    served.add_argument(
        "--host", default="127.0.0.1", help="to bind to; others than this one take a key in HONE_API_KEY"
    )
    served.add_argument("--port", type=int, default=8000, help="likewise; 8000 unless given")
    scored = command(
        "score", "Judge saved answers anew, with a changed verifier, without sampling.",
        folder="the folder of a run or of an evaluation",
    )  # fmt: skip
    scored.add_argument(
        "given", nargs="*", metavar="CONFIG | key=value",
        help="a YAML file with the changed verifier, by default that of the folder; and settings over it",
    )  # fmt: skip
    scored.add_argument("--output", type=Path, help="the folder to write; by default scores-<n> in the other")
    command("report", "Tell what a run did, and which tasks its training can solve that it could not before.",
            folder="the run's folder")  # fmt: skip
    command("plot", "Draw the curves of a run into its folder.", folder="the run's folder").add_argument(
        "--output", type=Path, help="the PNG to write; by default curves.png in the folder"
    )
    command("schema", "Print a JSON schema of configurations, for editors.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
