"""Playing groups: sampling and verification, side by side, for a caller that is not asynchronous; and what came of it.

In a run of several processes each plays a share of the tasks, and all have all groups.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from statistics import fmean, pstdev
from typing import Any, TypeVar

from hone import hangs
from hone.judging import SHOWN, Judge
from hone.seats import Environment, Sampler, SamplingParams, Verifier
from hone.sharing import Lengths, Share, together
from hone.types import Group, Score, Task, Trajectory
from hone.verifiers.pool import Pools

T = TypeVar("T")


class Interrupted(Exception):
    """Playing was cancelled by :meth:`Collector.cancel`."""


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
        self._pools.of(verifier)  # its workers start while the model loads
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="hone-collect", daemon=True)
        self._thread.start()
        self._awaited: set[Any] = set()
        self._plays: list[asyncio.Task[None]] = []
        self._lengths = Lengths()
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

        Every process of a run has to call it, with the same tasks: each plays a share, and all get all groups.

        Args:
            tasks: What to play.
            n: Trajectories to a group.
            params: Their ``seed`` is the key from which those of the samples are derived.
            verifier: Instead of the collector's own.
            environment: Likewise.
            finished: Called in the first process with the place and the group as soon as one is played and judged,
                one at a time, in another thread; what it raises ends the playing.

        Raises:
            Interrupted: After :meth:`cancel`.
            VerificationError: If a verifier failed and ``on_error`` is "stop".
            HangError: If it takes longer than ``patience``.
        """
        started = time.perf_counter()
        judging = Judge(self._pools.of(verifier or self.verifier), self.on_error)
        share = Share(self._lengths.expected(tasks), self._room(n), finished)

        def own() -> dict[int, Group]:
            try:
                work = self._play(environment or self.environment, tasks, n, params, judging, share)
                return self._await(work, lambda: self._hanging(judging))
            except BaseException:
                share.give_up()
                raise
            finally:
                judging.tell_the_rest()

        try:
            groups = together(own, len(tasks))
        finally:
            share.hear()  # of what others had finished when one gave up
        self._lengths.learn(groups)
        ended = time.perf_counter()
        self.seconds = {"sample": judging.last_start - started, "verify": ended - judging.last_start}
        return groups

    def _room(self, n: int) -> int | None:
        """How many groups keep the sampler busy: one more than it plays at once. What is beyond can wait anywhere."""
        most = getattr(self.sampler, "max_sequences", None)
        return None if most is None else -(-most // n) + 1

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the loop where everything is played.

        Raises:
            Interrupted: After :meth:`cancel`.
        """
        return self._await(work)

    def judge(self, trajectories: Sequence[Trajectory], verifier: Verifier | None = None) -> list[Score]:
        """Verdicts on trajectories, which stay as they are; of the collector's own verifier if no other is given."""
        pool = self._pools.of(verifier or self.verifier)

        async def judged() -> list[Score]:
            return list(await asyncio.gather(*(pool(t.task, t) for t in trajectories)))

        return self._await(judged())

    def _await(self, work: Coroutine[Any, Any, T], hanging: Callable[[], str] | None = None) -> T:
        """What a coroutine gives; ``hanging`` says what is waited for when there is a limit and it has passed."""
        awaited = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._awaited.add(awaited)
        try:
            if self._cancelled:
                awaited.cancel()
            return awaited.result(self.patience if hanging else None)
        except TimeoutError:
            if awaited.done():  # it is an error of what was played
                raise
            raise hangs.told(hanging(), self.patience, "limits.sampling") from None
        except CancelledError:
            raise Interrupted("playing was cancelled") from None
        finally:
            awaited.cancel()  # if this thread stops waiting, so does the work
            self._awaited.discard(awaited)

    def _hanging(self, judging: Judge) -> str:
        """What playing still waits for."""
        left = [play.get_name() for play in self._plays if not play.done()]
        if not left:
            return "sampling: all is played here, and another process"
        shown = ", ".join(left[:SHOWN]) + (", ..." if len(left) > SHOWN else "")
        verdicts = (
            f"{judging.open} verdicts are awaited" if judging.open else "no verdict is awaited, so the sampler is"
        )
        return f"sampling: {len(left)} of {len(self._plays)} tasks are not done ({shown}), {verdicts}; it"

    def cancel(self) -> None:
        """Make :meth:`play` raise :class:`Interrupted`, now and from now on. For signal handlers and threads."""
        self._cancelled = True
        for awaited in list(self._awaited):
            awaited.cancel()

    def close(self) -> None:
        """Stop the loop, and whatever still plays in it, and then the workers: nothing asks a pool that is closed."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout=10)
        self._pools.close()

    def _serve(self) -> None:
        with self._runner:  # its end cancels what still plays, and waits for it
            self._runner.run(self._closing.wait())

    async def _play(
        self,
        environment: Environment,
        tasks: Sequence[Task],
        n: int,
        params: SamplingParams,
        judging: Judge,
        share: Share,
    ) -> dict[int, Group]:
        keys, found = list(_keyed(tasks, params)), {}
        self._plays = plays = []

        async def play(place: int) -> None:
            task = tasks[place]
            found[place] = group = await environment.play_group(
                task, n, sampler=self.sampler, verify=judging, params=keys[place]
            )
            share.tell(place, group)
            if (another := share.another()) is not None:
                begin(another)

        def begin(place: int) -> None:
            plays.append(playing.create_task(play(place), name=tasks[place].id))

        try:
            async with asyncio.TaskGroup() as both:
                others = both.create_task(share.attend(plays))
                async with asyncio.TaskGroup() as playing:
                    for place in share.places:
                        begin(place)
                if not share.awaits:
                    others.cancel()
        except ExceptionGroup as group:
            raise _first(group) from None
        return found


def _keyed(tasks: Sequence[Task], params: SamplingParams) -> Iterator[SamplingParams]:
    """The parameters of each task: the same one twice in a step must not draw the same noise twice."""
    seen: Counter[str] = Counter()
    for task in tasks:
        yield params.keyed(seen[task.id]) if seen[task.id] else params
        seen[task.id] += 1


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
