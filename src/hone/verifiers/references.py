"""What a task's row says is right: a missing value must not become a text that a response can match."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from hone.types import Task

_INTEGER = re.compile(r"([-+]?[0-9]{1,1000})(?:\.0*)?")


def is_missing(value: Any) -> bool:
    """Whether it is null, or a number that is not finite: NaN is how tables write an empty cell."""
    return value is None or (isinstance(value, Real) and (value != value or value in (math.inf, -math.inf)))


def reference(task: Task) -> Any:
    """The task's reference answer.

    Raises:
        ValueError: There is none.
    """
    if is_missing(task.answer):
        raise ValueError(f"task {task.id!r} has no reference answer, but {task.answer!r}; leave such rows out")
    return task.answer


def whole_number(task: Task, field: str, value: Any) -> int:
    """A whole number from an int, a float such as 35.0, or the text of a CSV cell.

    Raises:
        ValueError: It is anything else; the message names task, field and value.
    """
    number = _whole(value)
    if number is None:
        raise ValueError(f"task {task.id!r}: {field} is {value!r:.80}; it should be a whole number, as in 35")
    return number


def whole_numbers(task: Task, field: str, value: Any) -> list[int]:
    """Whole numbers from 0 up, from a list, or from text such as "[3, 5, 20]" or "3 5 20".

    Raises:
        ValueError: It is anything else; the message names task, field and value.
    """
    items = _listed(value) if isinstance(value, str) else value
    is_list = isinstance(items, Iterable) and not isinstance(items, bytes | Mapping)
    numbers = [_whole(item) for item in items] if is_list else []
    if not numbers or any(number is None or number < 0 for number in numbers):
        right = "a list of whole numbers without signs, as in [3, 5, 20], or the text of one"
        raise ValueError(f"task {task.id!r}: {field} is {value!r:.80}; it should be {right}")
    return numbers


def _listed(text: str) -> list[str]:
    text = text.strip()
    inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()", "{}") else text
    return re.split(r"\s*[,;]\s*|\s+", inner.strip())


def _whole(value: Any) -> int | None:
    if isinstance(value, str):
        found = _INTEGER.fullmatch(value.strip().strip("\"'"))
        return int(found[1]) if found else None
    if isinstance(value, bool) or not isinstance(value, Real) or is_missing(value) or value != int(value):
        return None
    return int(value)
