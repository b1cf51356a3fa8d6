"""A run as a checkpoint holds it, and back again."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hone import checkpoint, ranks
from hone.hangs import within
from hone.seats import Hook

log = logging.getLogger("hone")


def save(trainer: Any) -> Path:
    """Write a checkpoint of the run as it was after the last whole step.

    Every process has to call it, for each may hold a part of the weights; the first one writes.
    """
    config, state, policy = trainer.config, trainer.state, trainer.policy
    whole = policy.whole() if hasattr(policy, "whole") else policy
    held = {
        "step": state.step,
        "version": policy.version,
        "policy": policy.state_dict(),
        "reference": trainer.reference.state_dict() if trainer.reference is not None else {},
        "learner": trainer.learner.state_dict(),
        **parts(trainer),
    }
    which = {"keep": config.checkpoint.keep, "best": config.checkpoint.best}
    what = {"about": trainer.origin, "metrics": state.metrics}
    with within("saving a checkpoint", config.limits.update, "limits.update"):
        return ranks.first(lambda: checkpoint.save(trainer.folder, state.step, whole, held, **which, **what))


def restore(trainer: Any, path: Path) -> None:
    """Put a run, of however many processes, where the checkpoint was made, of however many.

    Every process opens the file; tensors that are sharded only the first one reads.
    """
    saved = checkpoint.load(path)
    tasks, hooks = copy.deepcopy((saved["tasks"], saved["hooks"]))  # they keep what they are given
    policy, state = trainer.policy, trainer.state
    policy.load_state_dict(saved["policy"])
    policy.version = saved["version"]
    if trainer.reference is not None and saved.get("reference"):
        trainer.reference.load_state_dict(saved["reference"])
    trainer.learner.load_state_dict(saved["learner"])
    state.step = saved["step"]
    trainer.enter_stage()
    trainer.ahead.load_state_dict(saved | {"tasks": tasks})
    for name, hook in _named(trainer.hooks):
        if name in hooks:  # else it is new to the run
            hook.load_state_dict(hooks[name])
    kept = trainer.config.checkpoint
    ranks.first(lambda: checkpoint.tidy(trainer.folder, keep=kept.keep, best=kept.best))
    log.info("resumed from %s", path)


def parts(trainer: Any) -> dict[str, Any]:
    """The states of what the run was given."""
    hooks = {name: hook.state_dict() for name, hook in _named(trainer.hooks)}
    return trainer.ahead.state_dict() | {"hooks": hooks}


def _named(hooks: Sequence[Hook]) -> Iterator[tuple[str, Hook]]:
    """The hooks by the names of their classes, counted where there are several: a resumed run may have others too."""
    seen: Counter[str] = Counter()
    for hook in hooks:
        name = type(hook).__qualname__
        seen[name] += 1
        yield f"{name} {seen[name]}", hook
