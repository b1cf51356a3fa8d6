"""Reading a file of one JSON object a line, which may be large and may still be growing."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload


class JsonLines(Sequence[dict[str, Any]]):
    """The rows of a file, parsed when they are asked for.

    A snapshot: rows written after the first look are not seen, and neither is a last line without its end, which a
    run is writing or a crash cut off. A file that is not there has no rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return list(self._read(self._offsets[index]))
        return next(self._read([self._offsets[index]]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._read(self._offsets)

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self.path}>"

    def at(self, step: int) -> list[dict[str, Any]]:
        """The rows of one step; found by bisection, because steps are written in order."""
        return self[bisect_left(self, step, key=_step) : bisect_right(self, step, key=_step)]

    @cached_property
    def _offsets(self) -> list[int]:
        if not self.path.exists():
            return []
        offsets, end = [], 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    offsets.append(end)
                end += len(line)
        return offsets

    def _read(self, offsets: Sequence[int]) -> Iterator[dict[str, Any]]:
        if not offsets:
            return
        with self.path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                yield json.loads(file.readline())


def _step(row: dict[str, Any]) -> int:
    return row["step"]
