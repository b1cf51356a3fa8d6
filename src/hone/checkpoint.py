"""Checkpoints that are whole or not there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hone.seats import Policy

STATE = "trainer.pt"


def save(folder: Path, step: int, policy: Policy, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write ``checkpoints/step-<step>`` under the run's folder, and drop all but the newest ``keep``.

    The policy's own files lie at its top, so that it loads as a model; ``trainer.pt`` holds everything else that a
    resume needs. It is written aside and renamed, so a run that dies while saving leaves the earlier ones as they were.
    """
    target = folder / "checkpoints" / f"step-{step}"
    scratch, replaced = target.with_name(".partial"), target.with_name(".replaced")
    for leftover in (scratch, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    policy.save(scratch)
    torch.save(dict(state), scratch / STATE)
    if target.exists():
        target.rename(replaced)
    scratch.rename(target)
    for old in (replaced, *_checkpoints(folder)[:-keep]):
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run from which it can go on."""
    return next((path for path in reversed(_checkpoints(folder)) if (path / STATE).is_file()), None)


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` was given as ``state``."""
    # Hooks and sources keep what they like. It is no less safe than the config.yaml beside it, which names code to run.
    return torch.load(path / STATE, map_location="cpu", weights_only=False)


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
