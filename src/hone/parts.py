"""What a part is: a settings object or a function with its settings bound, and where annotations ask for one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model
from pydantic.dataclasses import is_pydantic_dataclass

from hone.registry import SEATS, ConfigError

Visit = Callable[[Any, Any, str], Any]
"""Called with an annotation, a value under it, and the value's YAML path; returns what takes the value's place."""

_ROOMS = {seat: room for room, seat in SEATS.items()}
_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=())


class Bound(partial):
    """A function with its settings bound; equal to whatever is the same function with the same settings."""

    def __eq__(self, other: object) -> bool:
        return is_function(other) and function_settings(self) == function_settings(other)

    def __hash__(self) -> int:
        return hash(self.func)


def room_of(annotation: Any) -> str | None:
    """The room of an annotation that is a seat's protocol, else None."""
    return _ROOMS.get(annotation) if isinstance(annotation, type) else None


def is_settings(cls: Any) -> bool:
    """Whether this is a class whose fields are settings."""
    return isinstance(cls, type) and (is_pydantic_dataclass(cls) or issubclass(cls, BaseModel))


def setting_names(cls: type) -> list[str]:
    """The fields of a settings class that can be set: not those of its state (``init=False``)."""
    return [name for name, field in cls.__pydantic_fields__.items() if field.init is not False]


def is_function(part: Any) -> bool:
    """Whether this is a function, with or without some of its settings bound."""
    return inspect.isfunction(part.func if isinstance(part, partial) and not part.args else part)


def function_settings(part: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function itself, and its settings: those bound, and the defaults of the others."""
    function, bound = (part.func, part.keywords) if isinstance(part, partial) else (part, {})
    defaults = {name: p.default for name, p in _keyword_only(function).items() if p.default is not p.empty}
    return function, defaults | bound


@cache
def settings_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A model of the function's keyword-only parameters, bounds in ``Annotated[float, Field(gt=0)]`` included."""
    parameters = _keyword_only(function)
    # Only these annotations are resolved: the others may name what is imported for the type checker alone.
    annotations = {name: p.annotation for name, p in parameters.items() if p.annotation is not p.empty}
    shim = SimpleNamespace(__annotations__=annotations)
    hints = get_type_hints(shim, globalns=function.__globals__, include_extras=True)
    fields = {n: (hints.get(n, Any), ... if p.default is p.empty else p.default) for n, p in parameters.items()}
    return create_model(function.__name__, __config__=_STRICT, __doc__=function.__doc__, **fields)


def walk(annotation: Any, value: Any, path: str, visit: Visit) -> Any:
    """Visit what a value holds, as its annotation tells, and rebuild the lists and mappings around it.

    Raises:
        ConfigError: With the problems of all visits.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return walk(inner[0], value, path, visit)
    if origin in (Union, UnionType):
        arm = next((arm for arm in inner if _holds_part(arm)), Any)
        return None if value is None else walk(arm, value, path, visit)
    if inner and isinstance(value, list | tuple):
        done, problems = walk_each(((i, inner[0], item) for i, item in enumerate(value)), path, visit)
        done = list(done.values())
    elif inner and isinstance(value, Mapping):
        done, problems = walk_each(((key, inner[-1], item) for key, item in value.items()), path, visit)
    else:
        return visit(annotation, value, path)
    if problems:
        raise ConfigError(problems)
    return done


def walk_fields(cls: type, values: Mapping[str, Any], path: str, visit: Visit) -> tuple[dict[str, Any], list[str]]:
    """Walk the values of a settings class's fields, of which some may be unknown."""
    fields = cls.__pydantic_fields__
    kinds = {name: fields[name].annotation if name in fields else Any for name in values}
    return walk_each(((name, kinds[name], value) for name, value in values.items()), path, visit)


def walk_each(items: Iterable[tuple[Any, Any, Any]], path: str, visit: Visit) -> tuple[dict[Any, Any], list[str]]:
    """Walk (key, annotation, value) triples: the results by key, and the problems of those that have none."""
    done, problems = {}, []
    for key, annotation, value in items:
        try:
            done[key] = walk(annotation, value, join(path, key), visit)
        except ConfigError as error:
            problems += error.problems
    return done, problems


def join(path: str, *keys: object) -> str:
    """A longer YAML path: ``join("eval.easy", "items") == "eval.easy.items"``."""
    return ".".join(filter(None, [path, *map(str, keys)]))


def _keyword_only(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def _holds_part(annotation: Any) -> bool:
    return bool(room_of(annotation)) or is_settings(annotation) or any(map(_holds_part, get_args(annotation)))
