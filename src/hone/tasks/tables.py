"""Local files to rows.

JSON and JSON Lines are read with the standard library, so that nested fields come back exactly as written: a columnar
loader gives all rows one schema, fills what a row lacks with nulls, and fails where types differ between rows. A CSV
cell is text and stays text ("007", "NA"), however long. Quotes are those of RFC 4180, and others are refused: one that
never ends would swallow rows. In a TSV file others are plain text, as most are written. Parquet goes through
``datasets``, and stays on disk.
"""

from __future__ import annotations

import csv
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from hone.tasks.naming import suggest

_LONGEST_CELL = 2**31 - 1

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
        ValueError: A file or row cannot be read, or there are no rows; the message names file and line.
    """
    files = [file for pattern in ([path] if isinstance(path, str) else path) for file in files_of(pattern)]
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
    return Table(_some(rows, files), places.__getitem__)


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


def files_of(pattern: str) -> list[Path]:
    """The file, or those that a pattern matches, in the order of their names.

    Raises:
        FileNotFoundError: There is none; the message lists its neighbours.
    """
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
    except (ValueError, RecursionError) as error:  # Of decoding, of JSON, or of what is nested too deep.
        raise ValueError(f"{place}: not JSON: {error}{hint}") from None


class _QuotesError(ValueError):
    """Quotes stand where RFC 4180 has none."""


def _csv(file: Path, delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)  # for the whole process, where 128 KiB is the default
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = next(reader, [])
            twice = [name for name, times in Counter(header).items() if times > 1]
            if twice:
                raise ValueError(f"{file}: several columns are named {twice[0]!r}; give each a name of its own")
            for cells in reader:
                place = f"{file}:{reader.line_num}"
                if cells and len(cells) != len(header):
                    told = f"{len(cells)} cells under a header of {len(header)}: {', '.join(header)}"
                    raise ValueError(f"{place}: {told}")
                if cells:
                    yield place, dict(zip(header, cells, strict=True))
        except UnicodeDecodeError as error:
            byte, after = error.object[error.start], f"{file}: after line {reader.line_num}"
            hint = f"save the file as UTF-8, or convert it, as with: iconv -f latin1 -t utf-8 {file.name}"
            raise ValueError(f"{after}: the byte 0x{byte:02x} is not UTF-8; {hint}") from None
        except csv.Error as error:
            hint = "a cell with quotes is quoted, and they are doubled"
            raise _QuotesError(f"{file}:{reader.line_num}: not CSV: {error}; {hint}") from None


def _tsv(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        return iter(list(_csv(file, "\t")))
    except _QuotesError:
        return _csv(file, "\t", csv.QUOTE_NONE)


def _parquet(files: list[Path]) -> Table:
    from datasets import load_dataset  # Slow to import, and only these rows need it.
    from datasets.exceptions import DatasetsError

    counted = [(str(file), count) for file in files if (count := _count(file))]
    names, counts = [name for name, _ in counted], [count for _, count in counted]
    try:
        rows = load_dataset("parquet", data_files=_some(names, files), split="train")
    except DatasetsError as error:
        cause = str(error.__cause__ or error).replace("\n", " ")
        raise ValueError(f"{', '.join(names)}: damaged, or of different columns: {cause}") from None
    ends = list(accumulate(counts))

    def where(i: int) -> str:
        part = bisect_right(ends, i)
        return f"{names[part]}: row {i - (ends[part - 1] if part else 0)}"

    return Table(rows, where)


def _count(file: Path) -> int:
    """The number of rows, from the end of the file."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        return read_metadata(file).num_rows
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file}: not Parquet, or only a part of it: {error}") from None


def _some(rows: list[Any], files: list[Path]) -> list[Any]:
    if not rows:
        raise ValueError(f"{', '.join(map(str, files))}: has no rows")
    return rows


_READERS: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
}
