"""A JSON schema of the YAML, with every registered name and its settings: completion and checks in editors."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from hone.build import describe
from hone.config import Config
from hone.parts import is_function, is_settings, room_of, settings_model
from hone.registry import DOTTED, REGISTRY, find

_ADDRESS = f"^{DOTTED.pattern}$"
_SEAT = "x-seat"
_SETTING = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""A line of a docstring's "Attributes:" or "Args:"."""


def json_schema() -> dict[str, Any]:
    """The schema (Draft 2020-12) of what :func:`hone.config.load_config` reads. Imports all that is registered."""
    rooms = {room: {name: _settings_class(find(room, name)) for name in names} for room, names in REGISTRY.items()}
    classes = [Config, *(cls for names in rooms.values() for cls in names.values())]
    found, schema = models_json_schema([(cls, "validation") for cls in classes], schema_generator=_Generator)
    refs = {cls: found[cls, "validation"] for cls in classes}
    definitions = _tidy(schema["$defs"])
    for room, names in rooms.items():
        definitions[f"part.{room}"] = _part({name: refs[cls] for name, cls in names.items()}, definitions)
    whole = definitions.pop(_name(refs[Config]))
    whole["properties"]["model"]["anyOf"] = [
        {"$ref": whole["properties"]["model"].pop("$ref")},
        {"type": "string", "description": "A folder or a hub name."},
        refs[rooms["policy"]["causal_lm"]],
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": definitions}


class _Generator(GenerateJsonSchema):
    """Marks seats for :func:`_tidy`, leaves out state, and lets values that only Python can make be anything."""

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        """Settings that a class has from another are described there."""
        found = super().dataclass_schema(schema)
        above = [inspect.cleandoc(cls.__doc__) for cls in schema["cls"].__mro__[1:] if is_settings(cls) and cls.__doc__]
        return found | {"description": "\n\n".join([found["description"], *above])} if above else found

    def is_instance_schema(self, schema: Any) -> JsonSchemaValue:
        room = room_of(schema["cls"])
        return {_SEAT: room} if room else {}

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}

    def field_is_present(self, field: Any) -> bool:
        return field.get("init", True) and super().field_is_present(field)

    def encode_default(self, dft: Any) -> Any:
        return describe(dft) if is_function(dft) else super().encode_default(dft)


def _settings_class(implementation: Any) -> type:
    return implementation if is_settings(implementation) else settings_model(implementation)


def _part(refs: dict[str, JsonSchemaValue], definitions: dict[str, Any]) -> JsonSchemaValue:
    """One of: a name, an address, either with settings below it."""
    free = [name for name, ref in refs.items() if not definitions[_name(ref)].get("required")]
    settings = {name: {"anyOf": [ref, {"type": "null"}]} if name in free else ref for name, ref in refs.items()}
    named = {
        "type": "object",
        "properties": settings,
        "patternProperties": {_ADDRESS: {"type": ["object", "null"]}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    names = [{"enum": free}] if free else []
    return {"oneOf": [*names, {"type": "string", "pattern": _ADDRESS}, named]}


def _tidy(node: Any) -> Any:
    """Fill in the seats, and turn docstrings into a summary and a description of each setting."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if "patternProperties" in node:
        node["additionalProperties"] = False
    if _SEAT in node:
        node["$ref"] = f"#/$defs/part.{node.pop(_SEAT)}"
    if isinstance(text := node.get("description"), str) and isinstance(node.get("properties"), dict):
        for name, line in reversed(_SETTING.findall(text)):  # its own before those of the classes above
            if name in node["properties"]:
                node["properties"][name]["description"] = " ".join(line.split())
        node["description"] = " ".join(text.partition("\n\n")[0].split())
    return node


def _name(ref: JsonSchemaValue) -> str:
    return ref["$ref"].removeprefix("#/$defs/")
