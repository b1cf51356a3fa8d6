"""Playing groups: sampling and verification, side by side, for a caller that is not asynchronous."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from hone.seats import Environment, Sampler, SamplingParams, Verifier
from hone.types import Group, Score, Task, Trajectory
from hone.verifiers.pool import VerifierPool

log = logging.getLogger("hone")
T = TypeVar("T")


class Interrupted(Exception):
    """Playing was cancelled by :meth:`Collector.cancel`."""


class VerificationError(RuntimeError):
    """A verifier failed, and the run is set to stop on that."""


class Collector:
    """Plays tasks in an environment, in an event loop of its own, so that it works where one already runs.

    Args:
        environment: How a task is played.
        sampler: Draws completions.
        verifier: Judges them.
        workers, timeout, memory_gb: Of the verifiers' processes; see :class:`~hone.verifiers.pool.VerifierPool`.
        on_error: "drop" leaves trajectories that could not be judged without a reward; "stop" raises.

    Attributes:
        seconds: Of the last :meth:`play`: "sample", and the part of "verify" that outlasted it.
    """

    def __init__(
        self,
        environment: Environment,
        sampler: Sampler,
        verifier: Verifier,
        *,
        workers: int = 2,
        timeout: float = 10.0,
        memory_gb: float | None = 4.0,
        on_error: str = "drop",
    ) -> None:
        self.environment, self.sampler, self.verifier = environment, sampler, verifier
        self.on_error = on_error
        self.seconds = {"sample": 0.0, "verify": 0.0}
        self._limits = {"workers": workers, "timeout": timeout, "memory_gb": memory_gb}
        self._pools: list[tuple[Verifier, VerifierPool]] = []
        self._pool(verifier)  # its workers start while the model loads
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="hone-collect", daemon=True)
        self._thread.start()
        self._playing: Any = None
        self._cancelled = False

    def play(
        self,
        tasks: Sequence[Task],
        n: int,
        params: SamplingParams,
        verifier: Verifier | None = None,
        environment: Environment | None = None,
    ) -> list[Group]:
        """Play each task ``n`` times; the groups come in the order of the tasks.

        Args:
            tasks: What to play.
            n: Trajectories to a group.
            params: Their ``seed`` is the key from which those of the samples are derived.
            verifier: Instead of the collector's own.
            environment: Likewise.

        Raises:
            Interrupted: After :meth:`cancel`.
            VerificationError: If a verifier failed and ``on_error`` is "stop".
        """
        started = time.perf_counter()
        judging = _Judge(self._pool(verifier or self.verifier), self.on_error)
        groups = self.run(self._play(environment or self.environment, tasks, n, params, judging))
        ended = time.perf_counter()
        self.seconds = {"sample": judging.last_start - started, "verify": ended - judging.last_start}
        return groups

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the loop where everything is played.

        Raises:
            Interrupted: After :meth:`cancel`.
        """
        self._playing = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            if self._cancelled:
                self._playing.cancel()
            return self._playing.result()
        except CancelledError:
            raise Interrupted("playing was cancelled") from None
        finally:
            self._playing.cancel()  # if this thread stops waiting, so does the work
            self._playing = None

    def cancel(self) -> None:
        """Make :meth:`play` raise :class:`Interrupted`, now and from now on. For signal handlers and threads."""
        self._cancelled = True
        if self._playing is not None:
            self._playing.cancel()

    def close(self) -> None:
        """Stop the workers and the loop, and whatever still plays in it."""
        for _, pool in self._pools:
            pool.close()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout=10)

    def _serve(self) -> None:
        with self._runner:  # its end cancels what still plays, and waits for it
            self._runner.run(self._closing.wait())

    async def _play(
        self, environment: Environment, tasks: Sequence[Task], n: int, params: SamplingParams, judging: _Judge
    ) -> list[Group]:
        seen: Counter[str] = Counter()
        try:
            async with asyncio.TaskGroup() as playing:
                plays = []
                for task in tasks:
                    # The same task twice in a step must not draw the same noise twice.
                    own = params.keyed(seen[task.id]) if seen[task.id] else params
                    seen[task.id] += 1
                    plays.append(
                        playing.create_task(
                            environment.play_group(task, n, sampler=self.sampler, verify=judging, params=own)
                        )
                    )
        except ExceptionGroup as group:
            raise _first(group) from None
        return [play.result() for play in plays]

    def _pool(self, verifier: Verifier) -> VerifierPool:
        for known, pool in self._pools:
            if known is verifier:
                return pool
        self._pools.append((verifier, VerifierPool(verifier, **self._limits)))
        return self._pools[-1][1]


class _Judge:
    """A pool that tells of failures, and remembers when the last verdict was asked for."""

    def __init__(self, pool: VerifierPool, on_error: str) -> None:
        self.pool, self.on_error = pool, on_error
        self.last_start = time.perf_counter()

    async def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        self.last_start = time.perf_counter()
        score = await self.pool(task, trajectory)
        if score.error is not None:
            text = trajectory.response
            shown = text if len(text) <= 500 else f"... {text[-500:]}"
            message = f"no verdict on task {task.id!r}: {score.error}; the response was: {shown!r}"
            if self.on_error == "stop":
                raise VerificationError(message)
            log.warning("%s", message)
        return score


def _first(error: BaseException) -> BaseException:
    """The first plain exception in a group: what went wrong, without the scaffolding around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
