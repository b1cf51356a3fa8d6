"""A configuration with some of its settings changed: a stage of a run, or a variant of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from hone import document
from hone.build import describe_settings
from hone.parts import room_of
from hone.registry import ConfigError, suggest

C = TypeVar("C", bound=BaseModel)
"""The configuration."""
CHANGEABLE = {
    "stages": (
        "tasks", "verifier", "environment", "sampling", "prompts", "siblings", "max_rounds", "advantage", "gate",
        "shapers", "objective", "update",
    ),
    "variants": ("sampler", "environment"),
}  # fmt: skip
"""What may change: in a stage what every step reads anew, in a variant how the same tasks are answered."""


def changed(before: C, changes: Mapping[str, Any], where: str) -> C:
    """Another configuration, that shares with the one before it what it does not change.

    Args:
        before: It is left as it is.
        changes: Values by dotted path; a mapping for a whole section changes what it names.
        where: Their path in the document, such as "stages.200".

    Raises:
        ConfigError: With every problem, each with its path.
    """
    kind = where.partition(".")[0]
    values = {name: getattr(before, name) for name in type(before).model_fields if name not in CHANGEABLE}
    try:
        for path, value in document.pairs(changes):
            top = path.partition(".")[0]
            if top not in CHANGEABLE[kind]:
                raise ConfigError(f"{path} = {value!r}: cannot change in {kind}; {suggest(top, CHANGEABLE[kind])}")
            section = room_of(type(before).model_fields[top].annotation) is None and isinstance(value, Mapping)
            if (path != top or section) and values[top] is getattr(before, top):
                values[top] = describe_settings(before)[top]
            document.put(values, path, {**values[top], **value} if section and path == top else value)
        return type(before)(**values)
    except ConfigError as error:
        raise ConfigError([f"{where}.{problem}" for problem in error.problems]) from error
