"""Files of one JSON object a line: strict, appended a step at a time, and cut back when a run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows at the end of the file, and leave nothing in a buffer: a killed run loses at most what it was doing.

    Every line is strict JSON, for which NaN and infinities do not exist: they are written as null.
    """
    lines = _lines(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(lines)


def cut(path: Path, step: int) -> None:
    """Drop the lines of ``step`` and later, and a last line that a crash left unfinished."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or _step(line, f"{path}, line {number}") >= step:
                break
            end += len(line)
        file.truncate(end)


def amend(path: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Add what ``row`` has more to the last line if that is of the same step, else append it; returns what was new.

    The file is written aside and renamed, so that a run that dies meanwhile does not lose the line.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    if last.get("step") != row["step"]:
        last = {}
    new = {name: value for name, value in row.items() if name not in last}
    if new:
        scratch = path.with_name(f".{path.name}.partial")
        scratch.write_bytes(b"".join(lines[:-1] if last else lines) + _lines([last | new]))
        scratch.replace(path)
    return new


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    # A lone surrogate has no UTF-8; its backslash form happens to be the JSON escape of the same character.
    return text.encode("utf-8", "backslashreplace")


def _step(line: bytes, place: str) -> int:
    try:
        return json.loads(line)["step"]
    except ValueError as error:  # a whole line is not torn but damaged: not ours to throw away
        raise ValueError(f"{place} is not JSON: {error}") from error


def plain(value: Any) -> Any:
    """The nearest value that strict JSON can hold: arrays become lists, NaN becomes None, unknown objects strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch, scalars included
        return plain(value.tolist())
    return str(value)
