"""Verifiers in worker processes: whatever a verdict does, it comes in time, or its failure is told as an error."""

from __future__ import annotations

import asyncio
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cloudpickle
import pebble

from hone.types import Score, Task, Trajectory
from hone.verifiers.verdict import failed
from hone.verifiers.workers import Workers, judge, prepare

_ATTEMPTS = 3
_GRACE = 10.0
_GLANCE = 0.25
_CLOSED = "the verifier pool is closed"


class VerifierPool:
    """A :data:`~hone.seats.Verify`: judges in worker processes that are killed when they exceed their limits.

    A verdict that times out, raises, exhausts its memory, takes its process down or is not a finite number becomes a
    Score with an ``error``, and only that one. The workers are fresh interpreters, not forks: a script that makes a
    pool needs the usual ``if __name__ == "__main__":``. A verifier that was defined in a notebook or a script goes to
    them by value, any other by its name. Before its first verdict a worker calls the verifier's ``prepare()``, if it
    has one, to import what is slow to import: this is never counted against a verdict's time, and has a limit of its
    own. If no worker is ready within that, this and all further verdicts are errors. What a verifier starts in other
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
        self._workers, self._timeout = workers, timeout
        self._setup = (cloudpickle.dumps(verifier), timeout + _GRACE, memory_gb)
        self._lock = threading.Lock()
        self._pending: set[Future[Score]] = set()
        self._last_settled = 0.0
        self._unready: _UnreadyError | None = None
        self._closed = False
        self._over = threading.Event()
        self._pool = self._start()
        if prepare_timeout is not None:
            threading.Thread(target=self._watch, args=(prepare_timeout,), name="hone-verify", daemon=True).start()

    async def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """Judge in a worker.

        Raises:
            RuntimeError: The pool is closed.
        """
        try:
            question = pickle.dumps((task, trajectory))
        except Exception as error:
            return failed(error)
        for _ in range(_ATTEMPTS):
            future = self._submit(question)
            try:
                return await asyncio.wrap_future(future)
            except TimeoutError:
                return failed(f"TimeoutError: no verdict within {self._timeout:g} s")
            except pebble.ProcessExpired as error:
                return failed(f"ProcessExpired: the worker died while judging, exit code {error.exitcode}")
            except BrokenProcessPool:
                # A worker died between two verdicts, or just as it took one, and pebble gave up all of them.
                if self._closed:
                    return failed(RuntimeError(_CLOSED))
            except _UnreadyError as error:
                return failed(str(error))
            except Exception as error:
                return failed(RuntimeError(_CLOSED) if self._closed else error)
        return failed("BrokenProcessPool: workers die before they judge; see what they wrote to stderr")

    def close(self) -> None:
        """Kill the workers; verdicts still awaited become errors. The pool cannot be used again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._over.set()
                self._stop(RuntimeError(_CLOSED))

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, question: bytes) -> Future[Score]:
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if self._unready:
                future: Future[Score] = Future()
                future.set_exception(self._unready)
                return future
            if not self._pool.active:
                self._stop(BrokenProcessPool("the workers died"))
                self._pool = self._start()
            future = self._pool.schedule(judge, (question,), timeout=self._timeout)
            self._pending.add(future)
        future.add_done_callback(self._settle)
        return future

    def _settle(self, future: Future[Score]) -> None:
        self._pending.discard(future)
        self._last_settled = time.monotonic()

    def _start(self) -> pebble.ProcessPool:
        pool = pebble.ProcessPool(self._workers, initializer=prepare, initargs=self._setup, context=Workers())
        # Workers, and the threads that will restart them, inherit the mask: Ctrl-C is for the parent alone.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            if not pool.active:  # asking starts the workers
                raise RuntimeError("no worker process could be started")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pool

    def _stop(self, reason: Exception) -> None:
        """Stop the processes, and settle what pebble leaves unsettled."""
        self._pool.stop()
        self._pool.join()
        for future in list(self._pending):
            if not future.done():
                future.set_exception(reason)

    def _watch(self, limit: float) -> None:
        """Give up workers that do not get ready. One that is ready has either nothing to do, or a verdict's limit."""
        waited, seen = 0.0, self._last_settled
        while not self._over.wait(_GLANCE):
            pending = list(self._pending)
            if not pending or seen != self._last_settled or any(future.running() for future in pending):
                waited, seen = 0.0, self._last_settled
                continue
            waited += _GLANCE  # a clock that stands still while this process is stopped
            if waited >= limit:
                with self._lock:
                    if not self._closed:
                        told = f"TimeoutError: the verifier was not prepared within {limit:g} s (prepare_timeout)"
                        self._unready = _UnreadyError(told)
                        self._stop(self._unready)
                return


class _UnreadyError(Exception):
    """No worker got ready in time."""


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
