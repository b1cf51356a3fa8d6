"""Verifiers in worker processes: whatever a verdict does, it comes in time, or its failure is told as an error."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cloudpickle
import pebble

from hone.types import Score, Task, Trajectory
from hone.verifiers.verdict import failed, to_score

_ATTEMPTS = 3
_GRACE = 10.0
_CLOSED = "the verifier pool is closed"


class VerifierPool:
    """A :data:`~hone.seats.Verify`: judges in worker processes that are killed when they exceed their limits.

    A verdict that times out, raises, exhausts its memory, takes its process down or is not a finite number becomes a
    Score with an ``error``, and only that one. The workers are fresh interpreters, not forks: a script that makes a
    pool needs the usual ``if __name__ == "__main__":``. A verifier that was defined in a notebook or a script goes to
    them by value, any other by its name. Before its first verdict a worker calls the verifier's ``prepare()``, if it
    has one, to import what is slow to import: this is never counted against a verdict's time.

    Args:
        verifier: A callable ``(task, trajectory)`` that returns a Score, a number or a bool. Pickled once.
        workers: Number of processes.
        timeout: Seconds for one verdict, from the moment that a worker takes it.
        memory_gb: GiB of address space that verdicts may add to what a worker holds once prepared; None for no limit.
            Linux only.

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
    ):
        self._workers, self._timeout = workers, timeout
        self._setup = (cloudpickle.dumps(verifier), timeout + _GRACE, memory_gb)
        self._lock = threading.Lock()
        self._pending: set[Future[Score]] = set()
        self._closed = False
        self._pool = self._start()

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
            except Exception as error:
                return failed(RuntimeError(_CLOSED) if self._closed else error)
        return failed("BrokenProcessPool: workers die before they judge; see what they wrote to stderr")

    def close(self) -> None:
        """Kill the workers; verdicts still awaited become errors. The pool cannot be used again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._stop(RuntimeError(_CLOSED))

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, question: bytes) -> Future[Score]:
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if not self._pool.active:
                self._stop(BrokenProcessPool("the workers died"))
                self._pool = self._start()
            future = self._pool.schedule(_judge, (question,), timeout=self._timeout)
            self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _start(self) -> pebble.ProcessPool:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads and the device of torch
        pool = pebble.ProcessPool(self._workers, initializer=_prepare, initargs=self._setup, context=context)
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


_verifier: Callable[[Task, Trajectory], Any]
_time_to_live: float


def _prepare(verifier: bytes, time_to_live: float, memory_gb: float | None) -> None:
    """Make this process a worker. A failure is kept for the verdicts to tell: raised here, it would only be logged."""
    global _verifier, _time_to_live
    _time_to_live = time_to_live
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # die at once, even inside a C function
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some verifiers print
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    try:
        _verifier = pickle.loads(verifier)
        getattr(_verifier, "prepare", lambda: None)()
        if memory_gb is not None and sys.platform == "linux":
            _limit_memory(memory_gb)
    except BaseException as error:
        _verifier = _Broken(failed(error))


def _limit_memory(gigabytes: float) -> None:
    import resource

    with open("/proc/self/statm") as statm:
        held = int(statm.read().split()[0]) * resource.getpagesize()
    limit = held + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _judge(question: bytes) -> Score:
    # The parent kills a late worker, but a dead parent cannot: the kernel's timer ends it then, unless a verifier
    # uses that timer itself.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _time_to_live)
    try:
        return to_score(_verifier(*pickle.loads(question)))
    except BaseException as error:
        return failed(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _Broken:
    """Stands in for a verifier that could not be prepared."""

    def __init__(self, score: Score):
        self.score = score

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        return self.score
