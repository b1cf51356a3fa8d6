r"""Templates that turn the fields of a row into text, or pick one value out of it.

The syntax is that of ``str.format``, with fields in place of arguments::

    "{question}"                          the field's value, of whatever type: a template of one field is no text
    "Make {target} from {nums}."          text
    "{question[0][-1].content}"           list items by number, keys by name, with a dot or in brackets
    "Tools: {function!j}"                 the value as JSON
    "Put it in \boxed{{}}."               a doubled brace is a brace
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from hone.tasks.naming import suggest

_PATH = re.compile(r"(?!\d+\Z)[^.\[\]]+(?:\.[^.\[\]]+|\[[^\[\]]+\])*")
_DOUBLED = "a brace that is meant as text is doubled, as in '\\\\boxed{{}}'"
_STEP = re.compile(r"[^.\[\]]+")


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """Follow a path such as ``question[0].content`` into a row.

    Raises:
        ValueError: It leads nowhere; the message lists the fields or keys there are.
    """
    if path in row:  # A field's own name may hold dots and brackets.
        return row[path]
    value: Any = row
    walked = ""
    for step in _STEP.findall(path):
        try:
            value = value[int(step)] if isinstance(value, list | tuple) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"no {step!r} in {walked or 'the row'}: {_contents(value, step)}") from None
        walked = f"{walked}.{step}".lstrip(".")
    return value


def readable(value: Any) -> Any:
    """The value with bytes as the text that they are, at any depth; Python would write b'...' for them.

    Raises:
        ValueError: The bytes are no UTF-8 text, or text holds half of a surrogate pair, which no tokenizer takes.
    """
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"bytes that are no UTF-8 text: {bytes(value)!r:.60}") from None
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"{value[error.start]!r} stands alone, half of a surrogate pair"
            raise ValueError(f"no Unicode text: {half}: {value!r:.60}") from None
    if isinstance(value, list | tuple):
        return type(value)(map(readable, value))
    return {name: readable(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _contents(value: Any, step: str) -> str:
    if isinstance(value, Mapping):
        return suggest(step, map(str, value))
    return f"it is a list of {len(value)}" if isinstance(value, list | tuple) else f"it is {value!r:.60}"


class Template:
    """A template, checked when made and filled once per row.

    Raises:
        ValueError: It is malformed or names no field.
    """

    def __init__(self, text: str):
        short = f"{text!r:.80}"
        try:
            self._parts = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{short}: {error}; {_DOUBLED}") from None
        paths = [path for _, path, _, _ in self._parts if path is not None]
        if not paths:
            raise ValueError(f"{short} names no field; a field stands in braces, as in '{{question}}'")
        for path in paths:
            if not _PATH.fullmatch(path):
                raise ValueError(f"{short}: '{{{path}}}' names no field; {_DOUBLED}")
        self._only = paths[0] if self._parts == [("", paths[0], "", None)] else None

    def fill(self, row: Mapping[str, Any]) -> Any:
        """The text; of a template that is one field and nothing else, the field's value as it is.

        Raises:
            ValueError: The row lacks a field, or has null or unreadable bytes where text is needed.
        """
        if self._only is not None:
            return lookup(row, self._only)
        return "".join(literal + _show(row, *field) for literal, *field in self._parts)


def _show(row: Mapping[str, Any], path: str | None, spec: str, conversion: str | None) -> str:
    if path is None:  # The literal text after the last field.
        return ""
    value = lookup(row, path)
    if value is None and conversion != "j":
        raise ValueError(f"field {path!r} is null, and would read as 'None'")
    try:
        value = readable(value)
        if conversion == "j":
            return format(json.dumps(value, ensure_ascii=False, default=str), spec)
        return format(Formatter().convert_field(value, conversion), spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"field {path!r}: {error}") from None
