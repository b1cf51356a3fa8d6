"""The update within its time limit, and what follows on a bad one: nothing, a way back to good weights, or the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from hone import checkpoint, ranks
from hone.guards.weights import finite
from hone.hangs import within
from hone.learner import Learner
from hone.seats import State
from hone.types import Group

log = logging.getLogger("hone")

MOST = 3
"""Times that a run goes back without getting anywhere: what diverges again and again will again."""


class Recovery:
    """Updates, and takes a run back to weights that were good.

    Weights and the optimiser's moments go back; the step, the schedule, the tasks and the hooks go on, so that the run
    does not meet the same batch again.

    Args:
        learner: Makes the updates.
        patience: Seconds for one; None for no limit.
        left: Called when a run has left its weights for others.

    Attributes:
        updating: Whether an update is under way, or was when an error ended it.
    """

    def __init__(self, learner: Learner, patience: float | None, left: Callable[[], None] = lambda: None) -> None:
        self.learner, self.patience, self.left = learner, patience, left
        self.updating = False
        self._returned: int | None = None
        """The step whose weights the run went back to, until a step has logged it."""
        self._last: Path | None = None
        """The checkpoint that it last went back to."""
        self._times, self._good = 0, False
        """How often in vain, and whether an update was good since."""

    def update(self, groups: Sequence[Group], state: State, on_bad: str) -> dict[str, float]:
        """Train on groups; a step behind a return logs ``update/rolled_back``, the step whose weights came back.

        Raises:
            FloatingPointError: If weights are not finite and there are none to go back to.
        """
        self.updating = True
        with within(f"the update of step {state.step + 1}", self.patience, "limits.update"):
            metrics = self.learner.update(groups, state.step)
            broken = finite(state.policy.parameters())
        step = f"step {state.step + 1}"
        if broken and not self.follow(f"{step}: {broken}", state, "rollback" if on_bad == "rollback" else "raise"):
            raise FloatingPointError(f"{step}: {broken}")  # and not saved over a good checkpoint
        self.updating = False
        if metrics.get("update/skipped") and not broken:
            self.follow(f"{step}: an optimiser step was bad", state, on_bad)
        elif "loss" in metrics and not broken:
            self._good = True
        if self._returned is not None:
            metrics["update/rolled_back"], self._returned = float(self._returned), None
        return metrics

    def follow(self, why: str, state: State, on_bad: str) -> bool:
        """Do what ``update.on_bad`` says; whether the weights are others now."""
        if on_bad == "stop":
            state.stop = why
        return on_bad == "rollback" and self._back(why, state)

    def _back(self, why: str, state: State) -> bool:
        path = ranks.first(lambda: checkpoint.newest_whole(state.folder))
        if path is None:
            log.warning("%s; there is no checkpoint to go back to yet", why)
            return False
        gained = self._good and path != self._last
        self._times = 1 if gained else self._times + 1
        self._last, self._good = path, False
        if self._times > MOST:
            state.stop = f"{why}, after the run went back {MOST} times, last to {path.name}, and got nowhere"
            return False
        saved = checkpoint.load(path)
        state.policy.load_state_dict(saved["policy"])
        state.policy.version += 1  # the sampler has others
        moments = {"optimizer": saved["learner"]["optimizer"]}
        self.learner.load_state_dict(self.learner.state_dict() | moments)
        self._returned = saved["step"]
        log.warning("%s: went back to the weights of %s", why, path)
        self.left()
        return True
