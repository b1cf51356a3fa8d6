"""From a spec to an object, and back.

A spec is what YAML holds where a seat is to be filled: ``name``, ``{name: {setting: value}}``, or an object that is
already built. The settings of a class under ``@settings`` are its fields; those of a function are its keyword-only
parameters. A setting that is a seat itself (``surrogate: Surrogate``) holds a spec in turn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from hone.parts import (
    Bound,
    function_settings,
    is_function,
    is_settings,
    join,
    room_of,
    setting_names,
    settings_model,
    walk,
    walk_fields,
)
from hone.registry import REGISTRY, SEATS, ConfigError, find, name_of, suggest

_UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}


def build(seat: Any, spec: Any, path: str = "") -> Any:
    """Build what a spec describes.

    Args:
        seat: A room ("verifier"), a protocol of :mod:`hone.seats`, or an annotation that holds some (``list[Hook]``).
        spec: A name, a mapping of one name to its settings, or an object, which is returned as it is.
        path: Where the spec stands in its file, for messages.

    Raises:
        ConfigError: With every problem found in the spec.
    """
    return walk(SEATS[seat] if isinstance(seat, str) else seat, spec, path, _build)


def make(cls: type, values: Mapping[str, Any], path: str = "", construct: Callable[..., Any] | None = None) -> Any:
    """Make a settings object from its fields, specs among them; ``construct`` replaces the call of ``cls``."""
    values = {str(name): value for name, value in values.items()}
    built, problems = walk_fields(cls, values, path, _build)
    failed = values.keys() - built.keys()
    try:
        made = (construct or cls)(**built)
    except ValidationError as error:
        # A field that failed above is not in ``built``: that it is missing, or the whole unfit without it, is no news.
        fresh = [e for e in error.errors() if not failed or (e["loc"] and e["loc"][0] not in failed)]
        problems += [_explain(cls, e, path) for e in fresh]
    if problems:
        raise ConfigError(problems)
    return made


def describe(part: Any) -> str | dict[str, Any]:
    """The spec of a built object, with all its settings, defaults included: what builds an equal one.

    An object that is neither a settings object nor a function comes out as the address of its class: enough for a
    record, and refused by :func:`build`.
    """
    if is_function(part):
        function, values = function_settings(part)
        name, settings = name_of(function), walk_fields(settings_model(function), values, "", _describe)[0]
    else:
        name, settings = name_of(type(part)), describe_settings(part) if is_settings(type(part)) else {}
    return {name: settings} if settings else name


def describe_settings(part: Any) -> dict[str, Any]:
    """The fields of a settings object as plain data, the parts among them as specs."""
    values = {name: getattr(part, name) for name in setting_names(type(part))}
    return walk_fields(type(part), values, "", _describe)[0]


def _build(annotation: Any, spec: Any, path: str) -> Any:
    room = room_of(annotation)
    if room is None:
        return make(annotation, spec, path) if is_settings(annotation) and isinstance(spec, Mapping) else spec
    part = _named(room, spec, path) if isinstance(spec, str | Mapping) else spec
    _check(annotation, part, f"{path} = {_short(spec)}")
    return part


def _named(room: str, spec: str | Mapping[str, Any], path: str) -> Any:
    """Build from a name and its settings."""
    if isinstance(spec, Mapping) and len(spec) != 1:
        found = ", ".join(map(str, spec)) or "none"
        raise ConfigError(f"{path}: one name, with its settings below it, belongs here; found: {found}")
    name, settings = (spec, None) if isinstance(spec, str) else next(iter(spec.items()))
    try:
        found = find(room, str(name))
    except ConfigError as error:
        raise ConfigError(f"{path} = {name!r}: {error}") from error
    path = join(path, name)
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{path} = {_short(settings)}: should be a mapping of settings")
    if is_settings(found):
        return make(found, settings, path)
    if is_function(found):
        function, bound = function_settings(found)
        values = dict(make(settings_model(function), {**bound, **settings}, path))
        return Bound(function, **values) if values else function
    if settings:
        raise ConfigError(f"{path}: takes no settings: it is neither a function nor a class under @hone.settings")
    return found


def _check(seat: type, part: Any, given: str) -> None:
    """Refuse what does not satisfy the seat: it lacks a method, or is called with other arguments."""
    if isinstance(part, type):
        raise ConfigError(f"{given}: is a class, where an instance belongs (for YAML, put @hone.settings over it)")
    if not isinstance(part, seat):
        members = [name for name in (*inspect.get_annotations(seat), *vars(seat)) if not name.startswith("_")]
        lacking = ", ".join(name for name in members if not hasattr(part, name))
        why = f": it has no {lacking}" if lacking else ""
        names = ", ".join(REGISTRY[room_of(seat)]) or "none"
        raise ConfigError(f"{given}: is no {seat.__name__}{why}; those with a name: {names}")
    if "__call__" in vars(seat):
        wanted = list(inspect.signature(seat.__call__).parameters)[1:]
        try:
            inspect.signature(part).bind(*wanted)
        except TypeError as error:
            call = f"a {seat.__name__} is called with ({', '.join(wanted)})"
            raise ConfigError(f"{given}: {call}, and this cannot be: {error}") from error


def _explain(cls: type, error: Mapping[str, Any], path: str) -> str:
    """Say one complaint of pydantic in our words."""
    where, value = join(path, *error["loc"]), _short(error["input"])
    if error["type"] in _UNKNOWN:
        return f"{where} = {value}: unknown setting; {suggest(str(error['loc'][-1]), setting_names(cls))}"
    if error["type"].startswith("missing"):
        room = room_of(cls.__pydantic_fields__[error["loc"][0]].annotation)
        return f"{where}: required" + (f"; one of {', '.join(REGISTRY[room])}, or an address" if room else "")
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    if error["loc"]:
        return f"{where} = {value}: {message}"
    return f"{path}: {message}" if path else message


def _describe(annotation: Any, value: Any, path: str) -> Any:
    if value is not None and room_of(annotation):
        return describe(value)
    if is_settings(type(value)):
        return describe_settings(value)
    return to_jsonable_python(value, inf_nan_mode="constants", fallback=lambda odd: name_of(type(odd)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
