"""What made a thing, as plain data and as a hash that is the same in every run: tasks, parts with settings, weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from hone.types import Task


def digest(*values: Any) -> str:
    """A hash of plain data, 24 hex digits; images in it count by their pixels.

    Raises:
        TypeError: There is an object in it whose content cannot be told.
    """
    text = json.dumps(values, sort_keys=True, default=_content)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def digest_of_task(task: Task) -> str:
    """A hash of what is asked and of the answer, whatever the task is called."""
    return digest(list(task.prompt), task.answer)


def digest_of_file(path: Path) -> str:
    """A hash of a file's size and content; of more than 64 MiB, of 64 blocks of 1 MiB evenly from first to last."""
    block, blocks = 2**20, 64
    size = path.stat().st_size
    hashed = hashlib.blake2b(str(size).encode(), digest_size=12)
    with path.open("rb") as file:
        for i in range(blocks):
            file.seek(i * (size - block) // (blocks - 1) if size > block * blocks else i * block)
            hashed.update(file.read(block))
    return hashed.hexdigest()


def described(part: Any) -> Any:
    """A part with its settings as plain data; an object without settings by its class and its plain attributes."""
    if part is None or isinstance(part, str | int | float):
        return part
    if isinstance(part, Mapping):
        return {str(name): described(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [described(value) for value in part]
    if isinstance(part, partial):
        return {_address(part.func): described(part.keywords)}
    if hasattr(part, "__qualname__"):
        return _address(part)
    if is_dataclass(part):
        return {_address(type(part)): {f.name: described(getattr(part, f.name)) for f in fields(part) if f.init}}
    held = getattr(part, "__dict__", {})
    plain = {name: value for name, value in held.items() if value is None or isinstance(value, str | int | float)}
    return {_address(type(part)): plain}


def fingerprint(name: str, weights: Mapping[str, Any]) -> str:
    """A hash of a model's name and of its weights, tensors by name."""
    import torch

    hashed = hashlib.blake2b(name.encode(), digest_size=16)
    for key in sorted(weights):
        hashed.update(key.encode())
        hashed.update(weights[key].detach().cpu().contiguous().view(torch.uint8).numpy())
    return hashed.hexdigest()


def _address(named: Any) -> str:
    return f"{named.__module__}:{named.__qualname__}"


def _content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, PathLike):
        return fspath(value)
    data = value if isinstance(value, bytes) else value.tobytes() if hasattr(value, "tobytes") else None
    if data is None:
        raise TypeError(f"cannot tell what a {type(value).__name__} holds; give images by path or URL")
    shape = [getattr(value, name, None) for name in ("mode", "size", "shape", "dtype")]
    return [type(value).__name__, *map(str, shape), hashlib.blake2b(data, digest_size=12).hexdigest()]
