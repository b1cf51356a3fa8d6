"""Verifiers in worker processes: whatever a verdict does, it comes in time, or its failure is told as an error."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import cloudpickle
import pebble

from hone.types import Score, Task, Trajectory
from hone.verifiers.lane import Lane, UnreadyError
from hone.verifiers.verdict import failed

_ATTEMPTS = 3
_CLOSED = "the verifier pool is closed"


class VerifierPool:
    """A :data:`~hone.seats.Verify`: judges in worker processes that are killed when they exceed their limits.

    A verdict that times out, raises, exhausts its memory, takes its process down or is not a finite number becomes a
    Score with an ``error``, and only that one. The workers are fresh interpreters, not forks: a script that makes a
    pool needs the usual ``if __name__ == "__main__":``. A verifier that was defined in a notebook or a script goes to
    them by value, any other by its name. Before its first verdict a worker calls the verifier's ``prepare()``, if it
    has one, to import what is slow to import: this is never counted against a verdict's time, and has a limit of its
    own. If a worker is not ready within that, this and all further verdicts are errors. What a verifier starts in other
    processes is killed with its worker.

    Args:
        verifier: A callable ``(task, trajectory)`` that returns a Score, a number or a bool. Pickled once.
        workers: Number of processes.
        timeout: Seconds for one verdict, from the moment that a worker takes it.
        memory_gb: GiB of address space that verdicts may add to what a worker holds once prepared; None for no limit.
            Linux only.
        prepare_timeout: Seconds for a worker to start, load the verifier and prepare it, from the moment that somebody
            waits for that; None for no limit.

    Raises:
        TypeError, AttributeError or pickle.PicklingError: The verifier cannot be pickled.
    """

    def __init__(
        self,
        verifier: Callable[[Task, Trajectory], Any],
        *,
        workers: int = 2,
        timeout: float = 10.0,
        memory_gb: float | None = 4.0,
        prepare_timeout: float | None = 120.0,
    ):
        self._timeout = timeout
        limits = {"timeout": timeout, "memory_gb": memory_gb, "prepare_timeout": prepare_timeout}
        pickled = cloudpickle.dumps(verifier)
        self._lanes = [Lane(pickled, **limits) for _ in range(workers)]
        self._idle: SimpleQueue[Lane] = SimpleQueue()
        for lane in self._lanes:
            self._idle.put(lane)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="hone-verify")
        self._unready: UnreadyError | None = None
        self._closed = False

    async def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """Judge in a worker.

        Raises:
            RuntimeError: The pool is closed.
        """
        if self._closed:
            raise RuntimeError(_CLOSED)
        try:
            question = pickle.dumps((task, trajectory))
        except Exception as error:
            return failed(error)
        answer: Future[Score] = Future()
        self._threads.submit(self._settle, question, answer)
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Kill the workers; verdicts still awaited become errors. The pool cannot be used again."""
        if not self._closed:
            self._closed = True
            self._threads.shutdown()
            for lane in self._lanes:
                lane.stop()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, question: bytes, answer: Future[Score]) -> None:
        """In a thread: get an answer from the worker that is free."""
        lane = self._idle.get()
        try:
            score = self._judge(lane, question, answer.cancelled)
        except BaseException as error:
            score = failed(error)
        finally:
            self._idle.put(lane)
        with suppress(InvalidStateError):  # cancelled
            answer.set_result(score)

    def _judge(self, lane: Lane, question: bytes, cancelled: Callable[[], bool]) -> Score:
        for _ in range(_ATTEMPTS):
            if self._unready:
                return failed(str(self._unready))
            try:
                return lane.ask(question, given_up=lambda: self._closed or cancelled())
            except CancelledError:
                return failed(RuntimeError(_CLOSED))
            except TimeoutError:
                return failed(f"TimeoutError: no verdict within {self._timeout:g} s")
            except pebble.ProcessExpired as error:
                return failed(f"ProcessExpired: the worker died while judging, exit code {error.exitcode}")
            except UnreadyError as error:
                self._unready = error
                return failed(str(error))
            except BrokenProcessPool:
                continue
        return failed("BrokenProcessPool: workers die before they judge; see what they wrote to stderr")


class Pools:
    """A pool for each verifier, made when it is first asked for.

    Args:
        limits: Of every :class:`VerifierPool`.
    """

    def __init__(self, **limits: Any) -> None:
        self.limits = limits
        self._made: list[tuple[Callable[[Task, Trajectory], Any], VerifierPool]] = []

    def of(self, verifier: Callable[[Task, Trajectory], Any]) -> VerifierPool:
        """The pool of this very verifier."""
        for known, pool in self._made:
            if known is verifier:
                return pool
        self._made.append((verifier, VerifierPool(verifier, **self.limits)))
        return self._made[-1][1]

    def __len__(self) -> int:
        return len(self._made)

    def close(self) -> None:
        """Stop the workers of all."""
        for _, pool in self._made:
            pool.close()
