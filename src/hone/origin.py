"""What a run is made of: settings, data and versions, as they were and as they are now."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from hone import checkpoint, ranks
from hone.session import sources, within

log = logging.getLogger("hone")

Origin = Mapping[str, Any]
"""Plain data: ``settings``, ``data`` and ``versions``; it is in every checkpoint's ``run.json``."""

ALL = ("settings", "data")
"""What may differ as a whole, where it is allowed to."""


def described(config: Any) -> Origin:
    """What a run of a configuration is made of. The files that its sources read are looked at.

    Raises:
        FileNotFoundError: One is not there.
    """
    data: dict[str, dict[str, str]] = {}
    for name, source in sources(config):
        read = [found.fingerprint() for found in within(source) if hasattr(found, "fingerprint")]
        if any(read):
            data[name] = {file: digest for files in read for file, digest in files.items()}
    versions = {"hone": sys.modules["hone"].__version__, **{name: version(name) for name in ("torch", "transformers")}}
    settings = yaml.safe_load(config.dump())
    for name in ("folder", "engine", "variants"):  # a run may be moved, spread otherwise, and evaluated in any way
        settings.pop(name, None)
    settings["update"].pop("sequence_parallel", None)
    return {"settings": settings, "data": data, "versions": versions}


def agreed(now: Origin) -> Origin:
    """The same, if every process of the run reads the same data; wherever it lies.

    Raises:
        ValueError: If they do not.
    """
    read = ranks.each(lambda: {name: sorted(files.values()) for name, files in now["data"].items()})
    if strange := sorted(
        {name for each in read for name in each if any(other.get(name) != each[name] for other in read)}
    ):
        raise ValueError(f"{', '.join(strange)}: the processes of this run read files that are not the same")
    return now


def accept(path: Path, now: Origin, allow: Sequence[str]) -> bool:
    """Tell what a run is made of that its checkpoint was not, and refuse what is not allowed; whether there is any.

    Other versions are told, and are no reason to refuse.

    Args:
        path: The checkpoint.
        now: What the run is to go on with.
        allow: Paths of settings that may differ, with all below them; "settings" for any, "data" for the data.

    Raises:
        ValueError: Something else differs.
    """
    before = checkpoint.read_about(path)
    other = dict(changed(before.get("settings", {}), now["settings"]))
    refused = [line for where, line in other.items() if "settings" not in allow and not _is_under(where, allow)]
    if refused:
        raise ValueError(
            f"{path}: these settings are not those of the run; give them as key=value to go on with them, or allow "
            f'"settings":\n' + "\n".join(f"  {line}" for line in refused)
        )
    data = list(_changed_data(before.get("data", {}), now["data"]))
    if data and "data" not in allow:
        told = "\n".join(f"  {line}" for line in data)
        raise ValueError(f'{path}: the data are not those of the run; allow "data" to go on with them:\n{told}')
    for line in (*other.values(), *data):
        log.info("changed: %s", line)
    for _, line in changed(before.get("versions", {}), now["versions"]):
        log.warning("another version than the checkpoint's, so results may differ: %s", line)
    return bool(other or data)


def changed(before: Any, now: Any) -> Iterator[tuple[str, str]]:
    """Paths, and what is other there now."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for where in dict.fromkeys((*old, *new)):
        if old.get(where) != new.get(where):
            yield where, f"{where}: {old.get(where, 'not there')} -> {new.get(where, 'not there')}"


def _leaves(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    inner = list(node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ())
    for name, value in inner:
        yield from _leaves(value, f"{where}.{name}".lstrip("."))
    if not inner:
        yield where, json.dumps(node, ensure_ascii=False, default=str)


def _is_under(where: str, allow: Sequence[str]) -> bool:
    """Whether a setting, or what it is a part of or has become, is among those that may differ."""
    return any(f"{where}.".startswith(f"{path}.") or f"{path}.".startswith(f"{where}.") for path in allow)


def _changed_data(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Files by content, in their order: where they lie does not matter."""
    for place in dict.fromkeys((*before, *now)):
        old, new = before.get(place, {}), now.get(place, {})
        if list(old.values()) != list(new.values()):
            names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
            yield f"{place}: {', '.join(names) or 'the order of its files'}"
