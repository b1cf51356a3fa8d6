"""Files of one JSON object a line, for what must not be lost and what must not be paid for twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hone import ranks


class Journal:
    """Results under keys, each on disk as soon as it is there.

    A process that is killed loses at most the line that it was writing; that line is dropped when the file is opened
    again. A line is ``{"key": ..., "value": ...}``. Of several processes the first reads and writes; all open it
    together, and each is to put in what the first puts in.

    Args:
        path: The file; it need not exist.

    Raises:
        ValueError: A line other than the last is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = ranks.first(self._read)

    def _read(self) -> dict[str, Any]:
        mend(self.path)
        return {row["key"]: row["value"] for row in read_rows(self.path)}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def put(self, key: str, value: Any) -> None:
        """Keep a result; plain data only."""
        if not ranks.index():
            append_rows(self.path, [{"key": key, "value": value}])
        self._known[key] = value


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, which may not exist; a last line that has no end is left out.

    Raises:
        ValueError: A whole line is not JSON: it was not torn but damaged, and is not ours to throw away.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
            yield row


def mend(path: Path) -> None:
    """Cut off a last line that has no end, so that what is appended does not continue it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows at the end of a file, and leave nothing in a buffer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(_lines(rows))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(_lines(rows))
    scratch.replace(path)


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")  # of a lone surrogate, that is JSON's own escape
