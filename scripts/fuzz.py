"""Coverage-guided fuzzing, by atheris, of whatever reads what a model, a writer or a file says.

    python scripts/fuzz.py [--seconds 60] [--inputs 1000000] [--folder runs/fuzz] [target ...]

The targets and what must hold of each are those of ``tests/fuzz``: it answers any text, in time, as its docstring says,
and does not pay in full for one from which the right answer cannot be read. Where the tests draw texts at random, these
grow towards code that no text has reached before. Each target is a process of its own; texts that it fails on are left
in ``<folder>/<target>/failures``, one of each kind. The exit status is 1 if there are any.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests" / "fuzz"
READERS = ["hone", "math_verify", "latex2sympy2_extended", "reasoning_gym"]
"""Packages whose branches guide the search."""
LONGEST = 2048
"""Bytes of a text."""
PATIENCE = 20
"""Seconds for one text, of a machine that may do other things too."""
SEEDS = 200


def read(data: bytes) -> str:
    """Any text: what is no UTF-8 comes out as lone surrogates, which a tokenizer can make too."""
    return data.decode("utf-8", "surrogateescape")


def written(text: str) -> bytes:
    """The bytes from which a text is read, but for lone surrogates."""
    return text.encode("utf-8", "replace")


def fuzz(name: str, folder: Path, seconds: int, inputs: int) -> None:
    """Try one target until time or number is over; this does not return."""
    import atheris

    with atheris.instrument_imports(include=READERS):
        from mutations import COMMON, texts
        from targets import TARGETS

        target, kinds = TARGETS[name], set()
        for text in (*target.right, "1"):
            with suppress(Exception):
                target.try_(text)  # what is imported when it is needed is to guide the search too

    failures, corpus = folder / "failures", folder / "corpus"
    corpus.mkdir(exist_ok=True)
    seeds = [*target.right, *texts(random.randrange(2**32), target.pieces, target.right, str, SEEDS)]
    for i, text in enumerate(seeds):
        (corpus / f"seed-{i}").write_bytes(written(text)[:LONGEST])
    words = {written(piece) for piece in (*COMMON, *target.pieces, *target.right)}
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in sorted(words) if len(word) < 64)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in escaped))

    def one(data: bytes) -> None:
        text = target.spoil(read(data))
        try:
            target.try_(text)
        except Exception as error:
            trace = error.__traceback__
            while trace.tb_next:
                trace = trace.tb_next
            kind = type(error).__name__, trace.tb_frame.f_code.co_filename, trace.tb_lineno
            if kind not in kinds:
                kinds.add(kind)
                told = f"{type(error).__name__}: {error}\n{kind[1]}:{kind[2]}\n{text!r}\n"
                (failures / f"{len(kinds)}.txt").write_text(told, errors="backslashreplace")

    options = {
        "dict": folder / "words", "max_total_time": seconds, "runs": inputs, "max_len": LONGEST, "timeout": PATIENCE,
        "report_slow_units": PATIENCE, "rss_limit_mb": 4096, "artifact_prefix": f"{failures}/", "print_final_stats": 1,
        "detect_leaks": 0,
    }  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *(f"-{key}={value}" for key, value in options.items())], one)
    atheris.Fuzz()


def tried(name: str, folder: Path, seconds: int, inputs: int) -> tuple[str, int]:
    """A line about a target, and how many failures were found."""
    own = folder / name.replace(" ", "-")
    shutil.rmtree(own / "failures", ignore_errors=True)  # the corpus may go on to grow
    (own / "failures").mkdir(parents=True)
    command = [sys.executable, __file__, "--one", "--folder", folder, "--seconds", seconds, "--inputs", inputs, name]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
    (own / "log").write_text(done.stderr)
    found = sorted(path.name for path in (own / "failures").iterdir())
    executed = re.search(r"number_of_executed_units:\s+(\d+)", done.stderr)
    branches = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)
    if executed is None or (done.returncode and not found):
        return f"{name:35} did not run: see {own / 'log'}", 1
    reached = branches[-1][0] if branches else "?"
    return f"{name:35} {executed[1]:>9} texts {reached:>6} branches {len(found):>3} failures {' '.join(found)}", len(
        found
    )


def main() -> int:
    """Read the command line, and try each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="by default all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="most texts for each target")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    if asked.one:
        [name] = asked.targets
        fuzz(name, asked.folder / name.replace(" ", "-"), asked.seconds, asked.inputs)
    from targets import TARGETS

    if strange := set(asked.targets) - set(TARGETS):
        parser.error(f"no target {min(strange)!r}; there are {', '.join(TARGETS)}")
    failures = 0
    for name in asked.targets or TARGETS:
        line, found = tried(name, asked.folder, asked.seconds, asked.inputs)
        print(line, flush=True)
        failures += found
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
