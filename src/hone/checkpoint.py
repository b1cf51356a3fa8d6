"""Checkpoints that are whole or not there, and that tell whether they still are what was written."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from hone.seats import Policy

log = logging.getLogger("hone")

STATE, ABOUT, SUMS, BEST = "trainer.pt", "run.json", "SHA256SUMS", "best"


def save(
    folder: Path,
    step: int,
    policy: Policy,
    state: Mapping[str, Any],
    *,
    keep: int,
    about: Mapping[str, Any] | None = None,
    best: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Write ``checkpoints/step-<step>`` under the run's folder, and drop those that are not to be kept.

    The policy's own files lie at its top, so that it loads as a model; ``trainer.pt`` holds everything else that a
    resume needs, and ``run.json`` what the run was made of. ``SHA256SUMS`` comes last, in the format of ``sha256sum``.
    It is all written aside, and renamed once it is on the disk: a run that dies while saving leaves the earlier ones as
    they were.

    Args:
        folder: Of the run.
        step: Of the run.
        policy: Writes its files.
        state: Tensors and plain data.
        keep: The newest that are kept; and the best, if ``best`` names a metric.
        about: Plain data for ``run.json``.
        best: A metric of which more is better, or with a "-" before it, less. ``checkpoints/best`` is a link to the
            checkpoint with the best value, to the first of them where several have it.
        metrics: Of the step.

    Raises:
        TypeError: The state holds what could not be loaded again without running code from the file.
    """
    refuse_unfit(state)
    recover(folder)
    target = folder / "checkpoints" / f"step-{step}"
    scratch, replaced = target.with_name(".partial"), target.with_name(f".replaced-{target.name}")
    value = (metrics or {}).get(best.removeprefix("-")) if best else None
    measured = [best, value] if value is not None and math.isfinite(value) else read_about(target).get("best")
    try:
        scratch.mkdir(parents=True)
        policy.save(scratch)
        with (scratch / STATE).open("wb") as file:
            torch.save(dict(state), file)
        text = json.dumps({"step": step, **(about or {}), "best": measured}, indent=1, ensure_ascii=False)
        (scratch / ABOUT).write_text(text, encoding="utf-8", errors="backslashreplace")
        _seal(scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # the disk may be full
        raise
    if target.exists():
        target.rename(replaced)
    scratch.rename(target)
    _to_disk(target.parent)
    tidy(folder, keep=keep, best=best)
    return target


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run; whether it is whole, :func:`newest_whole` knows."""
    return next((path for path in reversed(_checkpoints(folder)) if (path / STATE).is_file()), None)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose files are what was written; None if there are no checkpoints at all.

    Newer ones that are damaged are told of, and renamed to ``step-<N>.damaged``: they are no checkpoints any more.

    Raises:
        ValueError: Every one is damaged.
    """
    recover(folder)
    found = {}
    for path in reversed(_checkpoints(folder)):
        if (found_wrong := damage(path)) is None:
            for bad, wrong in found.items():
                aside = bad.with_name(f"{bad.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                log.warning("%s is damaged (%s) and now called %s; taking %s", bad, wrong, aside.name, path.name)
                bad.rename(aside)
            return path
        found[path] = found_wrong
    if found:
        told = "; ".join(f"{path.name}: {wrong}" for path, wrong in found.items())
        raise ValueError(f"{folder / 'checkpoints'}: no checkpoint is whole ({told})")
    return None


def damage(path: Path) -> str | None:
    """How the files of a checkpoint differ from what was written, or None."""
    try:
        *lines, last = (path / SUMS).read_bytes().splitlines(keepends=True)
    except (FileNotFoundError, ValueError):
        return f"{SUMS} is missing or empty"
    if last != _end(b"".join(lines)):
        return f"{SUMS} is torn"
    for line in lines:
        wanted, name = line.decode().rstrip("\n").split("  ", 1)
        if not (path / name).is_file():
            return f"{name} is missing"
        if _digest(path / name) != wanted:
            return f"{name} is not what was written"
    return None


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` was given as ``state``; nothing in the file is run.

    Tensors are read from the file when they are looked at, and take no memory of the process before: of several
    processes each reads what it needs. What is to stay has to be copied.
    """
    return torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=True)


def read_about(path: Path) -> dict[str, Any]:
    """What is in a checkpoint's ``run.json``; nothing if it has none."""
    try:
        return json.loads((path / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def recover(folder: Path) -> None:
    """Undo what a run left half done: a checkpoint that it was writing, or moved out of the way of another."""
    shutil.rmtree(folder / "checkpoints" / ".partial", ignore_errors=True)
    for replaced in (folder / "checkpoints").glob(".replaced-*"):
        target = replaced.with_name(replaced.name.removeprefix(".replaced-"))
        shutil.rmtree(replaced) if target.exists() else replaced.rename(target)


def tidy(folder: Path, *, keep: int, best: str | None = None) -> None:
    """Keep the newest checkpoints and the best, which is marked, and drop the others."""
    recover(folder)
    found = _checkpoints(folder)
    kept = [*found[-keep:], *([_mark(folder, found, best)] if best else [])]
    for old in found:
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)


def refuse_unfit(state: Mapping[str, Any]) -> None:
    """Refuse what could not be loaded again as data.

    Raises:
        TypeError: With the first such value's place.
    """
    if unfit := next(_unfit(state, ""), None):
        raise TypeError(f"{unfit}: a checkpoint holds tensors and plain data only, for it is loaded without pickle")


def _mark(folder: Path, found: list[Path], best: str) -> Path | None:
    """Point ``checkpoints/best`` to the checkpoint with the best value, if there is one."""
    sign = -1.0 if best.startswith("-") else 1.0
    measured = {path: read_about(path).get("best") or [None, 0.0] for path in found}
    values = {path: sign * value for path, (name, value) in measured.items() if name == best}
    if not values:
        return None
    chosen, link = max(values, key=values.__getitem__), folder / "checkpoints" / BEST  # the first of equal ones
    if not (link.is_symlink() and os.readlink(link) == chosen.name):
        scratch = link.with_name(".best.partial")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(chosen.name)
        scratch.replace(link)
    return chosen


def _seal(folder: Path) -> None:
    """Write the sums of all files, with a sum of their own, and have everything on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{_digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files).encode()
    (folder / SUMS).write_bytes(lines + _end(lines))
    for path in (*files, folder / SUMS, *(p for p in folder.rglob("*") if p.is_dir()), folder):
        _to_disk(path)


def _end(lines: bytes) -> bytes:
    """The last line: sha256sum takes it for a comment."""
    return f"# {hashlib.sha256(lines).hexdigest()}\n".encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_PLAIN = {NoneType, bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.dtype, torch.device}
_TENSORS = {torch.Tensor, torch.nn.Parameter}


def _unfit(value: Any, where: str) -> Iterator[str]:
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):
        for name, item in value.items():
            yield from _unfit(name, f"{where} (a key)")
            yield from _unfit(item, f"{where}.{name}".lstrip("."))
    elif kind in (list, tuple, set):
        for i, item in enumerate(value):
            yield from _unfit(item, f"{where}[{i}]")
    elif kind not in _PLAIN | _TENSORS:
        yield f"{where} is a {kind.__module__}.{kind.__qualname__}"


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
