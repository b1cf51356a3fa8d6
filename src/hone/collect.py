"""Playing groups: sampling and verification, side by side, for a caller that is not asynchronous; and what came of it.

That not one answer of many could be judged is the end of a run: a verifier's failure is never a score, and a step
without any score is none.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from statistics import fmean, pstdev
from typing import Any, TypeVar

from hone import hangs
from hone.seats import Environment, Sampler, SamplingParams, Verifier
from hone.types import Group, Score, Task, Trajectory
from hone.verifiers.pool import Pools, VerifierPool

log = logging.getLogger("hone")
T = TypeVar("T")

SHOWN = 3
"""Failures of one kind that a round of playing tells in full; of further ones it tells the number."""


class Interrupted(Exception):
    """Playing was cancelled by :meth:`Collector.cancel`."""


class VerificationError(RuntimeError):
    """A verifier failed, and the run is set to stop on that; or it failed on everything."""


class Collector:
    """Plays tasks in an environment, in an event loop of its own, so that it works where one already runs.

    Args:
        environment: How a task is played.
        sampler: Draws completions.
        verifier: Judges them.
        on_error: "drop" leaves trajectories that could not be judged without a reward; "stop" raises.
        patience: Seconds for a :meth:`play`; None for no limit.
        limits: Of the verifiers' processes; see :class:`~hone.verifiers.pool.VerifierPool`.

    Attributes:
        seconds: Of the last :meth:`play`: "sample", and the part of "verify" that outlasted it.
    """

    def __init__(
        self,
        environment: Environment,
        sampler: Sampler,
        verifier: Verifier,
        *,
        on_error: str = "drop",
        patience: float | None = None,
        **limits: Any,
    ) -> None:
        self.environment, self.sampler, self.verifier = environment, sampler, verifier
        self.on_error, self.patience = on_error, patience
        self.seconds = {"sample": 0.0, "verify": 0.0}
        self._pools = Pools(**limits)
        self._last = self._pools.of(verifier)  # its workers start while the model loads
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="hone-collect", daemon=True)
        self._thread.start()
        self._playing: Any = None
        self._plays: list[asyncio.Task[Group]] = []
        self._cancelled = False

    def play(
        self,
        tasks: Sequence[Task],
        n: int,
        params: SamplingParams,
        verifier: Verifier | None = None,
        environment: Environment | None = None,
        finished: Callable[[int, Group], None] | None = None,
    ) -> list[Group]:
        """Play each task ``n`` times; the groups come in the order of the tasks.

        Args:
            tasks: What to play.
            n: Trajectories to a group.
            params: Their ``seed`` is the key from which those of the samples are derived.
            verifier: Instead of the collector's own.
            environment: Likewise.
            finished: Called with the place and the group as soon as one is played and judged, one at a time, in another
                thread; what it raises ends the playing.

        Raises:
            Interrupted: After :meth:`cancel`.
            VerificationError: If a verifier failed and ``on_error`` is "stop".
            HangError: If it takes longer than ``patience``.
        """
        started = time.perf_counter()
        self._last = self._pools.of(verifier or self.verifier)
        judging = _Judge(self._last, self.on_error)
        try:
            work = self._play(environment or self.environment, tasks, n, params, judging, finished)
            groups = self._await(work, lambda: self._hanging(judging))
        finally:
            judging.tell_the_rest()
        ended = time.perf_counter()
        self.seconds = {"sample": judging.last_start - started, "verify": ended - judging.last_start}
        return groups

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the loop where everything is played.

        Raises:
            Interrupted: After :meth:`cancel`.
        """
        return self._await(work)

    def judge(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """Verdicts of the verifier of the last :meth:`play` on trajectories, which stay as they are."""
        pool = self._last

        async def judged() -> list[Score]:
            return list(await asyncio.gather(*(pool(t.task, t) for t in trajectories)))

        return self._await(judged())

    def _await(self, work: Coroutine[Any, Any, T], hanging: Callable[[], str] | None = None) -> T:
        """What a coroutine gives; ``hanging`` says what is waited for when there is a limit and it has passed."""
        self._playing = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            if self._cancelled:
                self._playing.cancel()
            return self._playing.result(self.patience if hanging else None)
        except TimeoutError:
            if self._playing.done():  # it is an error of what was played
                raise
            raise hangs.told(hanging(), self.patience, "limits.sampling") from None
        except CancelledError:
            raise Interrupted("playing was cancelled") from None
        finally:
            self._playing.cancel()  # if this thread stops waiting, so does the work
            self._playing = None

    def _hanging(self, judging: _Judge) -> str:
        """What playing still waits for."""
        left = [play.get_name() for play in self._plays if not play.done()]
        shown = ", ".join(left[:SHOWN]) + (", ..." if len(left) > SHOWN else "")
        verdicts = (
            f"{judging.open} verdicts are awaited" if judging.open else "no verdict is awaited, so the sampler is"
        )
        return f"sampling: {len(left)} of {len(self._plays)} tasks are not done ({shown}), {verdicts}; it"

    def cancel(self) -> None:
        """Make :meth:`play` raise :class:`Interrupted`, now and from now on. For signal handlers and threads."""
        self._cancelled = True
        if self._playing is not None:
            self._playing.cancel()

    def close(self) -> None:
        """Stop the workers and the loop, and whatever still plays in it."""
        self._pools.close()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout=10)

    def _serve(self) -> None:
        with self._runner:  # its end cancels what still plays, and waits for it
            self._runner.run(self._closing.wait())

    async def _play(
        self,
        environment: Environment,
        tasks: Sequence[Task],
        n: int,
        params: SamplingParams,
        judging: _Judge,
        finished: Callable[[int, Group], None] | None,
    ) -> list[Group]:
        async def play(place: int, task: Task, own: SamplingParams) -> Group:
            group = await environment.play_group(task, n, sampler=self.sampler, verify=judging, params=own)
            if finished is not None:
                finished(place, group)
            return group

        seen: Counter[str] = Counter()
        try:
            async with asyncio.TaskGroup() as playing:
                self._plays = plays = []
                for place, task in enumerate(tasks):
                    # The same task twice in a step must not draw the same noise twice.
                    own = params.keyed(seen[task.id]) if seen[task.id] else params
                    seen[task.id] += 1
                    plays.append(playing.create_task(play(place, task, own), name=task.id))
        except ExceptionGroup as group:
            raise _first(group) from None
        return [play.result() for play in plays]


class _Judge:
    """A pool that tells of failures, and remembers when the last verdict was asked for."""

    def __init__(self, pool: VerifierPool, on_error: str) -> None:
        self.pool, self.on_error = pool, on_error
        self.last_start = time.perf_counter()
        self.open = 0
        """Verdicts that were asked for and are not there."""
        self._failures: Counter[str] = Counter()
        """How many there were, by the type of the error."""

    async def __call__(self, task: Task, trajectory: Trajectory) -> Score:
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


def described(groups: Sequence[Group], kept: Sequence[bool]) -> dict[str, float]:
    """What was sampled in a step, dropped groups included; the rewards are those before any shaping."""
    played = [trajectory for group in groups for trajectory in group]
    rewards = [t.reward for t in played if t.reward is not None and math.isfinite(t.reward)]
    metrics = {
        "groups/kept": sum(kept),
        "groups/dropped": len(kept) - sum(kept),
        "tokens/sampled": sum(group.generated for group in groups),
        "verify/errors": sum(trajectory.error is not None for trajectory in played),
    }
    if rewards:
        metrics |= {"reward/mean": fmean(rewards), "reward/std": pstdev(rewards)}
    if played:
        metrics["length/mean"] = fmean(trajectory.generated for trajectory in played)
        metrics["length/truncated"] = fmean(trajectory.stop == "length" for trajectory in played)
    for name in dict.fromkeys(name for group in groups for name in group.metrics):
        metrics[name] = fmean(group.metrics[name] for group in groups if name in group.metrics)
    return metrics


def _first(error: BaseException) -> BaseException:
    """The first plain exception in a group: what went wrong, without the scaffolding around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
