"""Local files to rows.

JSON and JSON Lines are read with the standard library, so that nested fields come back exactly as written: a columnar
loader gives all rows one schema, fills what a row lacks with nulls, and fails where types differ between rows. A CSV
cell is text and stays text ("007", "NA"). Parquet goes through ``datasets``, and stays on disk.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from hone.tasks.naming import suggest

Row = Mapping[str, Any]


class Table(NamedTuple):
    """Rows, and for each of them the place to name in a message."""

    rows: Sequence[Row]
    where: Callable[[int], str]


def read_table(path: str | list[str], kind: str = "auto", rows_key: str | None = None) -> Table:
    """Read files of one format, one after the other.

    Args:
        path: A file, a glob pattern or a list of them. A pattern's files come in the order of their names.
        kind: "jsonl", "json", "csv", "tsv" or "parquet"; "auto" goes by the suffix.
        rows_key: Of a JSON object, the key that holds its rows.

    Raises:
        FileNotFoundError: There is no such file; the message lists its neighbours.
        ValueError: A file or row cannot be read; the message names file and line.
    """
    files = [file for pattern in ([path] if isinstance(path, str) else path) for file in _expand(pattern)]
    kinds = {file.suffix.removeprefix(".") for file in files} if kind == "auto" else {kind}
    if len(kinds) > 1 or not kinds <= {"parquet", *_READERS}:
        raise ValueError(f"{path}: cannot tell the format by suffix {sorted(kinds)}; set format, or split the paths")
    kind = kinds.pop()
    if kind == "parquet":
        return _parquet(files)
    reader = _READERS[kind]
    rows, places = [], []
    for file in files:
        for place, row in reader(file, rows_key) if kind == "json" else reader(file):
            if not isinstance(row, dict):
                raise ValueError(f"{place}: a row is an object with named fields, not {type(row).__name__}")
            rows.append(row)
            places.append(place)
    return Table(rows, places.__getitem__)


def join_table(left: Table, right: Table, by: str) -> Table:
    """Give each row of ``left`` the fields of the row of ``right`` that has the same value in the field ``by``.

    Raises:
        ValueError: A row has no partner or two, or both have a field of one name that differs.
    """
    partners: dict[Any, int] = {}
    for i, row in enumerate(right.rows):
        value = _join_key(row, by, right.where(i))
        if value in partners:
            raise ValueError(f"{right.where(i)}: {by}={value!r} again, after {right.where(partners[value])}")
        partners[value] = i
    rows = []
    for i, row in enumerate(left.rows):
        value = _join_key(row, by, left.where(i))
        if value not in partners:
            raise ValueError(f"{left.where(i)}: {by}={value!r} has no partner in the joined file")
        partner = right.rows[partners[value]]
        clash = [name for name in partner if name in row and row[name] != partner[name]]
        if clash:
            raise ValueError(f"{left.where(i)}: the joined file has another value of {', '.join(clash)}")
        rows.append({**row, **partner})
    return Table(rows, left.where)


def _join_key(row: Row, by: str, place: str) -> Any:
    if by not in row:
        raise ValueError(f"{place}: no field {by!r} to join by; {suggest(by, row)}")
    if isinstance(row[by], list | dict):
        raise ValueError(f"{place}: rows cannot be joined by {by!r}, which is a {type(row[by]).__name__}")
    return row[by]


def _expand(pattern: str) -> list[Path]:
    file = Path(pattern).expanduser()
    if file.is_file():
        return [file]
    matches = [Path(match) for match in sorted(glob(str(file)))]
    if not matches:
        folder = file.parent
        there = suggest(file.name, sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"no file {pattern!r}; in {folder.resolve()} {there}")
    return matches


def _jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}:{number}", _parse(line, f"{file}:{number}")


def _json(file: Path, rows_key: str | None) -> Iterator[tuple[str, Any]]:
    content = _parse(file.read_bytes(), f"{file}", "; if each line is an object, set format: jsonl")
    if isinstance(content, dict):
        if not isinstance(content.get(rows_key), list):
            keys = [key for key, value in content.items() if isinstance(value, list)]
            raise ValueError(f"{file}: an object; set rows_key to the key of its rows; {suggest(str(rows_key), keys)}")
        content = content[rows_key]
    for i, row in enumerate(content):
        yield f"{file}: row {i}", row


def _parse(text: bytes, place: str, hint: str = "") -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # Of decoding, or of JSON.
        raise ValueError(f"{place}: not JSON: {error}{hint}") from None


def _csv(file: Path, delimiter: str = ",") -> Iterator[tuple[str, Any]]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines, delimiter=delimiter)
        header = next(reader, [])
        for cells in reader:
            place = f"{file}:{reader.line_num}"
            if cells and len(cells) != len(header):
                raise ValueError(f"{place}: {len(cells)} cells under a header of {len(header)}: {', '.join(header)}")
            if cells:
                yield place, dict(zip(header, cells, strict=True))


def _tsv(file: Path) -> Iterator[tuple[str, Any]]:
    return _csv(file, delimiter="\t")


def _parquet(files: list[Path]) -> Table:
    from datasets import load_dataset  # Slow to import, and only these rows need it.

    names = [str(file) for file in files]
    rows = load_dataset("parquet", data_files=names, split="train")
    return Table(rows, lambda i: f"{', '.join(names)}: row {i}")


_READERS: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
}
