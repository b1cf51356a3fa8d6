"""YAML as configurations are written in it: strict reading, dotted overrides, and writing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hone.registry import ConfigError

_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))
"""YAML 1.2's floats with an exponent: to YAML 1.1, and so to PyYAML, ``1e-5`` is a string."""


_UNREAD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML lets through: of a date such as 2026-13-01, of ``!!int ""``, and of what is nested too deep."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that the loader would take for floats, and those that are not on one line."""

    def represent_str(self, data: str) -> yaml.Node:
        # Of line breaks, PyYAML escapes in its other styles only some, and loses U+0085.
        style = None if data.splitlines() == [data] else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)
_Dumper.add_representer(str, _Dumper.represent_str)


def read(text: str) -> Any:
    """Parse YAML.

    Raises:
        ConfigError: With the line of what is not YAML, or of a key that is given twice.
    """
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(error)) from error
    except _UNREAD as error:
        raise ConfigError(f"a value that cannot be read: {error}") from error


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file holds an empty one."""
    try:
        data = read(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict | None):
            raise ConfigError(f"should hold a mapping of settings, not a {type(data).__name__}")
    except ConfigError as error:
        error.source = path
        raise
    return {str(key): value for key, value in (data or {}).items()}


def write(data: Any) -> str:
    """Write plain data as YAML that :func:`read` reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def pairs(overrides: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Path and value of each override: ``"sampling.temperature=0.7"``, or an item of a mapping."""
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for override in overrides:
        path, sign, text = override.partition("=")
        if not (path and sign):
            raise ConfigError(f"override {override!r}: should be path=value, such as sampling.temperature=0.7")
        try:
            yield path.strip(), read(text)
        except ConfigError as error:
            raise ConfigError(f"override {override!r}: {error}") from error


def put(node: dict[str, Any] | list[Any], path: str, value: Any, above: str = "") -> None:
    """Set the value at a dotted path below ``node``, making the mappings that lie on the way.

    A part that is given by its bare name is opened: ``verifier: math`` and ``verifier.math.strict`` make
    ``verifier: {math: {strict: ...}}``. An item of a list is named by its number.
    """
    key, rest = _first(node, path)
    here = f"{above}.{key}" if above else key
    if isinstance(node, list):
        if not (key.isdecimal() and int(key) < len(node)):
            raise ConfigError(f"override {here}: the list has {len(node)} items, counted from 0")
        key = int(key)
    if not rest:
        node[key] = value
        return
    child = node[key] if isinstance(node, list) else node.get(key)
    # A copy, for an alias (*) in the file may have put the same mapping elsewhere too.
    node[key] = child = _open(child, rest, here)
    put(child, rest, value, here)


def _first(node: Any, path: str) -> tuple[str, str]:
    """Split off the first key: one that is there already, for an address has dots of its own, or up to the dot."""
    there = node if isinstance(node, dict) else ()
    keys = [key for key in there if isinstance(key, str) and f"{path}.".startswith(f"{key}.")]
    key = max(keys, key=len, default=path.partition(".")[0])
    return key, path[len(key) + 1 :]


def _open(child: Any, rest: str, here: str) -> dict[str, Any] | list[Any]:
    if child is None:
        return {}
    if isinstance(child, dict | list):
        return child.copy()
    if isinstance(child, str) and f"{rest}.".startswith(f"{child}."):
        return {child: {}}
    raise ConfigError(f"override {here}.{rest}: nothing lies below {here}, which is {child!r}; set {here}=... first")
