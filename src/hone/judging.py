"""Judging what is played, and what comes of it when that fails.

That not one answer of many could be judged is the end of a run: a verifier's failure is never a score, and a step
without any score is none.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from hone.types import Group, Score, Task, Trajectory
from hone.verifiers.pool import VerifierPool

log = logging.getLogger("hone")

SHOWN = 3
"""Failures of one kind that a round of playing tells in full; of further ones it tells the number."""


class VerificationError(RuntimeError):
    """A verifier failed, and the run is set to stop on that; or it failed on everything."""


class Judge:
    """A pool that tells of failures, and remembers when the last verdict was asked for."""

    def __init__(self, pool: VerifierPool, on_error: str) -> None:
        self.pool, self.on_error = pool, on_error
        self.last_start = time.perf_counter()
        self.open = 0
        """Verdicts that were asked for and are not there."""
        self._failures: Counter[str] = Counter()
        """How many there were, by the type of the error."""

    async def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """The verdict.

        Raises:
            VerificationError: If there is none and ``on_error`` is "stop".
        """
        self.last_start = time.perf_counter()
        self.open += 1
        try:
            score = await self.pool(task, trajectory)
        finally:
            self.open -= 1
        if score.error is not None:
            text = trajectory.response
            shown = text if len(text) <= 500 else f"... {text[-500:]}"
            message = f"no verdict on task {task.id!r}: {score.error}; the response was: {shown!r}"
            if self.on_error == "stop":
                raise VerificationError(message)
            kind = score.error.partition(":")[0]
            self._failures[kind] += 1
            if self._failures[kind] <= SHOWN:
                log.warning("%s", message)
        return score

    def tell_the_rest(self) -> None:
        """Log the number of failures beyond those that were told; the trajectories have the text of each."""
        for kind, count in self._failures.items():
            if count > SHOWN:
                log.warning("no verdict on %d more answers either: %s", count - SHOWN, kind)


def refuse_without_verdict(groups: Sequence[Group]) -> None:
    """Refuse groups of which not one trajectory could be judged: there is something wrong with the verifier.

    Raises:
        VerificationError: With the error that most of them have.
    """
    played = [trajectory for group in groups for trajectory in (*group, *group.aside)]
    errors = Counter(trajectory.error for trajectory in played if trajectory.error is not None)
    if errors and all(trajectory.reward is None for trajectory in played):
        [(error, times)] = errors.most_common(1)
        raise VerificationError(f"no verdict on any of {errors.total()} answers; on {times} of them: {error}")
