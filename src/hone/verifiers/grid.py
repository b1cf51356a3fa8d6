"""Grids of colours, as in the Abstraction and Reasoning Corpus (F. Chollet, arXiv 1911.01547)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, How, extract
from hone.verifiers.references import reference
from hone.verifiers.verdict import invalid, verdict

Grid = list[list[int]]

_ROW = re.compile(r"[\s|,;]*[0-9](?:[\s|,;]*[0-9])*[\s|,;]*")
_LISTS = re.compile(r"[\[\]0-9,\s]+")
SIDE = 30
"""Most rows and columns of a grid of the corpus."""


@settings
class GridVerifier:
    """Whether the response's last grid is ``task.answer``, a list of rows of whole numbers from 0 to 9 (or JSON of it).

    A grid is a JSON list of rows, or lines that follow each other and hold nothing but digits with spaces, commas or
    bars between them; the last of either that is a rectangle counts. Every cell has to be right, and so have the sides.

    Attributes:
        extract: Where the grid stands; see :mod:`hone.verifiers.answers`.
        partial: Pay the share of right cells of a grid with the right sides, less what the best grid of one colour
            earns; otherwise only the whole grid counts.
        max_chars: How much of the end of the response is read.
    """

    extract: How = "tag"
    partial: bool = False
    max_chars: int = Field(MAX_CHARS, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 or 0.0, a fraction with ``partial``; a response without a grid is "invalid".

        Raises:
            ValueError: The reference is missing, or no grid.
        """
        right = _reference(task)
        text = extract(trajectory.response, self.extract, self.max_chars)
        grid = None if text is None else read_grid(text)
        if grid is None:
            return invalid()
        answer = json.dumps(grid, separators=(",", ":"))
        return verdict(_share(grid, right) if self.partial else grid == right, answer)

    def example(self, task: Task) -> str | None:
        """The grid in a tag, row by row."""
        text = f"<answer>\n{written(_reference(task))}\n</answer>"
        found = extract(text, self.extract)
        return text if found is not None and read_grid(found) == _reference(task) else None


def written(grid: Grid) -> str:
    """The grid as lines of digits with spaces."""
    return "\n".join(" ".join(map(str, row)) for row in grid)


def read_grid(text: str) -> Grid | None:
    """The last grid in a text; None if there is none."""
    found = [*_of_lists(text), *_of_lines(text)]
    return max(found, key=lambda each: each[0], default=(0, None))[1]


def _of_lists(text: str) -> Iterator[tuple[int, Grid]]:
    """The grids that are written as lists of lists, each with the place where it ends."""
    for run in _LISTS.finditer(text):
        depth = start = 0
        for bracket in re.finditer(r"[\[\]]", run.group()):
            if bracket.group() == "[":
                start = bracket.start() if depth == 0 else start
                depth += 1
            elif depth:
                depth -= 1
                if depth == 0 and _is_grid(grid := _loads(run.group()[start : bracket.end()])):
                    yield run.start() + bracket.end(), grid


def _of_lines(text: str) -> Iterator[tuple[int, Grid]]:
    """The grids that are written as lines of digits, each with the place where it ends."""
    place, rows = 0, []
    for line in [*text.splitlines(keepends=True), ""]:
        if _ROW.fullmatch(line):
            rows.append([int(digit) for digit in re.findall("[0-9]", line)])
        else:
            if _is_grid(rows):
                yield place, rows
            rows = []
        place += len(line)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_grid(value: Any) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= SIDE or not all(isinstance(row, list) for row in value):
        return False
    width = len(value[0])
    cells = [cell for row in value for cell in row]
    if not 1 <= width <= SIDE or any(len(row) != width for row in value):
        return False
    return all(isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell <= 9 for cell in cells)


def _reference(task: Task) -> Grid:
    value = reference(task)
    grid = _loads(value) if isinstance(value, str) else value
    if isinstance(grid, Sequence) and not isinstance(grid, str):
        grid = [list(row) if isinstance(row, Sequence) and not isinstance(row, str) else row for row in grid]
    if not _is_grid(grid):
        what = f"rows of one length, 1 to {SIDE}, of whole numbers from 0 to 9"
        raise ValueError(f"task {task.id!r}: the reference {value!r:.80} is no grid: {what}")
    return grid


def _share(grid: Grid, right: Grid) -> float:
    """Right cells beyond those of the commonest colour, as a share of all others; 0 where the sides are wrong."""
    if len(grid) != len(right) or len(grid[0]) != len(right[0]):
        return 0.0
    cells = [cell for row in right for cell in row]
    plain = max(map(cells.count, set(cells)))
    if plain == len(cells):
        return float(grid == right)
    fine = sum(a == b for own, row in zip(grid, right, strict=True) for a, b in zip(own, row, strict=True))
    return max(0.0, (fine - plain) / (len(cells) - plain))
