"""Whether a policy predicts each step from the steps before it, all of them and no more.

Entropy belongs to a prediction and not to what came true. So it must not change with the step itself, and it must
change with the step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hone.types import Group, Segment, Trajectory

SAME, OTHER = 1e-3, 1e-6
"""Relative change of an entropy that is none, or is one."""


def wrong(learner: Any, groups: Sequence[Group]) -> str | None:
    """What is wrong with the shift, tried on the longest trajectory; None if nothing is, or it is too short."""
    found = max((t for group in groups for t in group if t.reward is not None), key=_last_run, default=None)
    if found is None or _last_run(found) < 3:
        return None

    def entropy(*changed: int) -> float:
        """Of the last step, after other actions at the given places from the end."""
        group = Group(found.task, [_changed(found, set(changed))])
        [batch] = learner.unshared([group])
        with torch.no_grad():
            return float(learner.policy.score(batch).entropy[batch.mask][-1])

    plain = entropy()
    if abs(entropy(1) - plain) > SAME * max(1.0, abs(plain)):
        return "the policy's shift is wrong: its prediction of a step already sees that step"
    if abs(entropy(2) - plain) < OTHER * max(1.0, abs(plain)):
        return "the policy's shift is wrong: its prediction of a step does not see the step before"
    return None


def _last_run(trajectory: Trajectory) -> int:
    """Trained steps at the end of the last trained segment, which nothing lies between."""
    return next((len(s) for s in reversed(trajectory.segments) if s.train), 0)


def _changed(trajectory: Trajectory, places: set[int]) -> Trajectory:
    """With another action at places of the last trained segment, counted from 1 at its end."""
    at = max(i for i, s in enumerate(trajectory.segments) if s.train)
    own: Segment = trajectory.segments[at]
    last = len(own) - 1
    # Any other action that the model is known to have: one of the same trajectory.
    known = sorted({action for s in trajectory.segments for action in s.actions})
    actions = tuple(
        next((other for other in known if other != action), action) if last - i + 1 in places else action
        for i, action in enumerate(own.actions)
    )
    segments = [*trajectory.segments[:at], replace(own, actions=actions)]
    return replace(trajectory, segments=segments)
