"""A run as its hooks see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hone.types import Group


@dataclass
class State:
    """What hooks see of a run, and the only way for them to act on it.

    Attributes:
        step: Steps completed; 0 before the first.
        steps: Steps that the run will do.
        folder: The run's folder.
        policy: The one that learns.
        reference: The reference policy, or None where no part of the run reads one.
        metrics: Of this step; hooks may add to it, and those that come later in the list see it.
        groups: All groups played in this step, dropped ones included; ``kept`` says which were trained on.
        play: ``play(tasks, n, params, verify=None) -> groups``: samples and judges, outside of training.
        save: ``save() -> Path``: writes a checkpoint of the whole run now.
        anchor: ``anchor(weights=None)``: the policy as it is now becomes the reference, or these weights do.
        restart: ``restart(optimizer=..., schedule=...)``: forgets the moments; starts the learning rate's course anew.
        stop: Set to a reason to end the run after this step.
        rewards: Of ``groups``, as judged, before any shaping.
        version: Of the weights that sampled ``groups``; None before any are there.
        verifier: That judged them; None for the session's own.
        session, learner: The :class:`~hone.session.Session` and :class:`~hone.learner.Learner`, for hooks that look on.
    """

    step: int
    steps: int
    folder: Path
    policy: Any
    reference: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    play: Callable[..., list[Group]] | None = None
    save: Callable[[], Path] | None = None
    anchor: Callable[..., None] | None = None
    restart: Callable[..., None] | None = None
    stop: str | None = None
    rewards: list[list[float | None]] = field(default_factory=list)
    version: int | None = None
    verifier: Any = None
    session: Any = None
    learner: Any = None
