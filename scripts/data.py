"""Put the data of the configurations where they look for it.

    scripts/data countdown [--train 4500] [--test 256] [--seed 0]    made here, into data/countdown
    scripts/data gsm8k                                               downloaded, into data/gsm8k
    scripts/data bfcl                                                downloaded, into data/bfcl
    scripts/data humaneval                                           downloaded, into data/humaneval
    scripts/data mbpp                                                downloaded, into data/mbpp

A file that is there already is checked, and never written over. Downloads come from GitHub, each repository at one
commit, and are checked against what is known of them; they have been tried with a mirror on the same machine only
(``--mirror``: another place with the same paths). Needs Python 3.11 and nothing else.
"""

import argparse
import gzip
import hashlib
import http.client
import json
import operator
import os
import random
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GITHUB = "https://raw.githubusercontent.com"
SIGNS = "+++--*/"
"""How often each is drawn."""
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
GSM8K = "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
BFCL = "ShishirPatil/gorilla/6ea57973c7a6097fd7c5915698c54c17c5b1b6c8/berkeley-function-call-leaderboard/bfcl_eval/data"

HUMANEVAL = "openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d/data"
MBPP = "deepseek-ai/DeepSeek-Coder/2f9fd85927c669dae3c0fbb2d607274023af243e/Evaluation/MBPP/data"
"""A copy of google-research's file."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from (one that ends in .gz is unpacked), and what is known of it."""

    path: str
    rows: int
    fields: tuple[str, ...]
    sha256: str | None = None


DOWNLOADS = {
    "gsm8k": {
        "train.jsonl": Source(
            f"{GSM8K}/train.jsonl",
            7473,
            ("question", "answer"),
            "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        ),
        "test.jsonl": Source(f"{GSM8K}/test.jsonl", 1319, ("question", "answer")),
    },
    "bfcl": {
        "BFCL_v4_simple_python.jsonl": Source(
            f"{BFCL}/BFCL_v4_simple_python.json",
            400,
            ("id", "question", "function"),
            "82dd63ba502eb2520c6b5d1d9a5c4b590e03ff261565175561f6228a367d1991",
        ),
        "answers_simple_python.jsonl": Source(
            f"{BFCL}/possible_answer/BFCL_v4_simple_python.json",
            400,
            ("id", "ground_truth"),
            "90cd5bc653690ee8e459b5b3f3fc9458606f7f3fcbf795bb51b7dc581f8c86dc",
        ),
    },
    "humaneval": {
        "HumanEval.jsonl": Source(
            f"{HUMANEVAL}/HumanEval.jsonl.gz",
            164,
            ("task_id", "prompt", "entry_point", "canonical_solution", "test"),
            "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2",
        ),
    },
    "mbpp": {
        "mbpp.jsonl": Source(
            f"{MBPP}/mbpp.jsonl",
            974,
            ("task_id", "text", "code", "test_setup_code", "test_list"),
            "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
        ),
    },
}


def games(seed: int) -> Iterator[dict[str, object]]:
    """Different games without end: 3 or 4 numbers from 1 to 99, and a target from 10 to 999 that they reach.

    A game is made backwards, from an equation: two numbers are joined by a sign, the result takes their place, and so
    on, all drawn at random. Each result on the way is a whole number; it may be negative.
    """
    draw = random.Random(seed)
    seen = set()
    while True:
        numbers = [draw.randint(1, 99) for _ in range(draw.randint(3, 4))]
        made = joined(numbers, draw)
        if made is None or not 10 <= made[0] <= 999:
            continue
        game = (*sorted(numbers), made[0])
        if game not in seen:
            seen.add(game)
            yield {"nums": numbers, "target": made[0], "solution": made[1]}


def joined(numbers: list[int], draw: random.Random) -> tuple[int, str] | None:
    """A value that the numbers reach, and its equation; None where a division leaves a remainder."""
    parts = [(number, str(number)) for number in numbers]
    while len(parts) > 1:
        (left, wrote), (right, then) = (parts.pop(draw.randrange(len(parts))) for _ in range(2))
        sign = draw.choice(SIGNS)
        if sign == "/" and (right == 0 or left % right):
            return None
        parts.append((OPERATORS[sign](left, right), f"({wrote} {sign} {then})"))
    return parts[0][0], parts[0][1][1:-1]


def countdown(folder: Path, train: int, test: int, seed: int) -> None:
    """Write rows of games, the test rows first: they do not depend on how many others there are."""
    made = games(seed)
    for name, rows in (("test.jsonl", test), ("train.jsonl", train)):
        keep(folder / name, "".join(json.dumps(next(made)) + "\n" for _ in range(rows)).encode())


def download(folder: Path, name: str, mirror: str) -> None:
    """Fetch the files of a data set that are not there, and check all.

    Raises:
        SystemExit: One cannot be had, or is not what it should be.
    """
    for file, source in DOWNLOADS[name].items():
        path, url = folder / file, f"{mirror}/{source.path}"
        if path.exists():
            check(path.read_bytes(), source, path)
            print(f"{path} is there")
            continue
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                content = answer.read()
            if source.path.endswith(".gz"):
                content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            wanted = [f"  {mirror}/{other.path}\n    as {folder / file}" for file, other in DOWNLOADS[name].items()]
            by_hand = "Fetch these where there is a network (unpack .gz), and run this again, which checks them:"
            raise SystemExit("\n".join([f"cannot download {url}: {error}", by_hand, *wanted])) from None
        check(content, source, url)
        keep(path, content)


def check(content: bytes, source: Source, place: object) -> None:
    """Compare with what is known of the file.

    Raises:
        SystemExit: It differs.
    """
    try:
        rows = [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise SystemExit(f"{place} is not JSON Lines: {error}") from None
    if len(rows) != source.rows or any(not set(source.fields) <= set(row) for row in rows):
        raise SystemExit(f"{place} should hold {source.rows} rows with {', '.join(source.fields)}; it has {len(rows)}")
    found = hashlib.sha256(content).hexdigest()
    if source.sha256 not in (None, found):
        raise SystemExit(f"{place} is not the file that is known here: its SHA-256 is {found}, not {source.sha256}")


def keep(path: Path, content: bytes) -> None:
    """Write a file in one go.

    Raises:
        SystemExit: Another one is there.
    """
    if path.exists():
        if path.read_bytes() != content:
            raise SystemExit(f"{path} is there, with other contents; move it away, or name another --folder")
        print(f"{path} is there")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_bytes(content)
    os.replace(aside, path)
    print(f"{path}: {len(content.splitlines())} rows")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["countdown", *DOWNLOADS])
    parser.add_argument("--folder", type=Path, help="instead of data/<name>")
    parser.add_argument("--train", type=int, default=4500, help="rows of countdown to train on (%(default)s)")
    parser.add_argument("--test", type=int, default=256, help="rows of countdown to test on (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of countdown (%(default)s)")
    parser.add_argument("--mirror", default=GITHUB, help="where downloads come from (%(default)s)")
    asked = parser.parse_args(arguments)
    folder = asked.folder or Path("data", asked.data)
    if asked.data == "countdown":
        countdown(folder, asked.train, asked.test, asked.seed)
    else:
        download(folder, asked.data, asked.mirror.rstrip("/"))


if __name__ == "__main__":
    main()
