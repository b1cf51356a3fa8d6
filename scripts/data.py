"""Put the data of the configurations where they look for it.

    scripts/data countdown [--train 4500] [--test 256] [--seed 0]    made here, into data/countdown
    scripts/data gsm8k                                               downloaded, into data/gsm8k
    scripts/data bfcl                                                downloaded, into data/bfcl
    scripts/data ifeval | aqua | bbh                                 downloaded, likewise
    scripts/data arc_agi --source ARC-AGI/data/training              gathered from a clone, into data/arc_agi
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

IFEVAL = "josejg/instruction_following_eval/0c495b2f95155e8b10acb919ae283bfb4d5be6e2"
AQUA = "google-deepmind/AQuA/26b64ed1f22208c6742f47df547dfd65088ec30d"
BBH = "suzgunmirac/BIG-Bench-Hard/9ee07bd481feebf959a6b59d61ea57bdcf30964d"
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
    key: str | None = None
    """Of a JSON object that holds the rows; None for JSON Lines."""


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
        "BFCL_v4_multiple.jsonl": Source(
            f"{BFCL}/BFCL_v4_multiple.json",
            200,
            ("id", "question", "function"),
            "aef168155ebd74b7ac2401198b201343bc7d16d7a3d7e0d4e6d8ee82c6969b2a",
        ),
        "answers_multiple.jsonl": Source(
            f"{BFCL}/possible_answer/BFCL_v4_multiple.json",
            200,
            ("id", "ground_truth"),
            "244e00ce9395df948bcafc7bee64e8f9c87ef70887587d83cae45b13699f3047",
        ),
        "BFCL_v4_parallel.jsonl": Source(
            f"{BFCL}/BFCL_v4_parallel.json",
            200,
            ("id", "question", "function"),
            "19f51a82eff42e5d62541aa500115a056eb78f437c2ba1f10415fd7c8e5dda84",
        ),
        "answers_parallel.jsonl": Source(
            f"{BFCL}/possible_answer/BFCL_v4_parallel.json",
            200,
            ("id", "ground_truth"),
            "8a6aa19c1adddc6a5a2f7e40f9dbf30cc7e95815e7b830c90589ab318229e0f0",
        ),
        "BFCL_v4_irrelevance.jsonl": Source(
            f"{BFCL}/BFCL_v4_irrelevance.json",
            240,
            ("id", "question", "function"),
            "2b6ed4c2e992cdcf5f1678a701851f944bef7550ee026ed1ddb89efed5be01a6",
        ),
    },
    "ifeval": {
        "input_data.jsonl": Source(
            f"{IFEVAL}/instruction_following_eval/data/input_data.jsonl",
            541,
            ("key", "prompt", "instruction_id_list", "kwargs"),
            "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
        ),
    },
    "aqua": {
        "dev.jsonl": Source(
            f"{AQUA}/dev.json",
            254,
            ("question", "options", "correct"),
            "4a52301d8a49ae0b286f8e697f9c5da1b109b247b825b47b4c6de34312dceec5",
        ),
    },
    "bbh": {
        "boolean_expressions.json": Source(
            f"{BBH}/bbh/boolean_expressions.json",
            250,
            ("input", "target"),
            "ea6c754ec005e2d3f2d085d349a740f593b5764f32ea4638ffed4cfc0061b12a",
            "examples",
        ),
        "date_understanding.json": Source(
            f"{BBH}/bbh/date_understanding.json",
            250,
            ("input", "target"),
            "0148d4ac5fca05b2f82373e5fef7208e15363b9c6079493034d77b3dab496bf5",
            "examples",
        ),
        "dyck_languages.json": Source(
            f"{BBH}/bbh/dyck_languages.json",
            250,
            ("input", "target"),
            "3f9badedf15c2be1ce53d94fdf016299bb30ba231ef087ab9f51a7ed6d0bdc25",
            "examples",
        ),
        "multistep_arithmetic_two.json": Source(
            f"{BBH}/bbh/multistep_arithmetic_two.json",
            250,
            ("input", "target"),
            "c9d5a6433c9b78256422a15c78463949c8bec8d85607aa28b52d7234ad4a8595",
            "examples",
        ),
        "navigate.json": Source(
            f"{BBH}/bbh/navigate.json",
            250,
            ("input", "target"),
            "b7944dfd3c81da5c4815bd75b00d6fa3c64140823498e78ed496f4c3d36f7f0d",
            "examples",
        ),
        "object_counting.json": Source(
            f"{BBH}/bbh/object_counting.json",
            250,
            ("input", "target"),
            "8acef14dbbdd40d2326ef7755750b6b5fe919fef06276af1bab3f1c297f022ff",
            "examples",
        ),
        "tracking_shuffled_objects_three_objects.json": Source(
            f"{BBH}/bbh/tracking_shuffled_objects_three_objects.json",
            250,
            ("input", "target"),
            "546cc7bf10c6a01a6a4c17ae28a4966485f21f29fd5d111f37858ec78e354f6b",
            "examples",
        ),
        "web_of_lies.json": Source(
            f"{BBH}/bbh/web_of_lies.json",
            250,
            ("input", "target"),
            "3e60323f8514a107fdb4edf35f8832a9171c5a09c0eaa47823559de905e8ab8b",
            "examples",
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


def gather(folder: Path, source: Path | None) -> None:
    """Write the task files of a clone of fchollet/ARC-AGI as rows, in the order of their names.

    Raises:
        SystemExit: There are none.
    """
    files = sorted(source.glob("*.json")) if source else []
    if not files:
        raise SystemExit("arc_agi: name the folder of task files by --source, as in --source ARC-AGI/data/training")
    rows = ({"id": file.stem, **json.loads(file.read_bytes())} for file in files)
    text = "".join(json.dumps(row, separators=(",", ":"), sort_keys=True) + "\n" for row in rows)
    keep(folder / f"{source.resolve().name}.jsonl", text.encode())


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
        rows = json.loads(content)[source.key] if source.key else [json.loads(line) for line in content.splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        form = f"JSON with a list {source.key!r}" if source.key else "JSON Lines"
        raise SystemExit(f"{place} is not {form}: {error}") from None
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
    parser.add_argument("data", choices=["countdown", "arc_agi", *DOWNLOADS])
    parser.add_argument("--folder", type=Path, help="instead of data/<name>")
    parser.add_argument("--train", type=int, default=4500, help="rows of countdown to train on (%(default)s)")
    parser.add_argument("--test", type=int, default=256, help="rows of countdown to test on (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of countdown (%(default)s)")
    parser.add_argument("--source", type=Path, help="of arc_agi: the folder of its task files in a clone")
    parser.add_argument("--mirror", default=GITHUB, help="where downloads come from (%(default)s)")
    asked = parser.parse_args(arguments)
    folder = asked.folder or Path("data", asked.data)
    if asked.data == "countdown":
        countdown(folder, asked.train, asked.test, asked.seed)
    elif asked.data == "arc_agi":
        gather(folder, asked.source)
    else:
        download(folder, asked.data, asked.mirror.rstrip("/"))


if __name__ == "__main__":
    main()
