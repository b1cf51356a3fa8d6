"""One worker process with limits, asked for one verdict at a time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool

import pebble

from hone.types import Score
from hone.verifiers.workers import Workers, judge, prepare

_GLANCE = 0.1
"""Seconds between two looks at a verdict that is not there yet."""

_GRACE = 10.0
"""Seconds beyond its time after which a worker ends a verdict by itself: its parent is gone, or stopped."""


class UnreadyError(Exception):
    """The worker did not get ready in time."""


class Lane:
    """A pebble pool of one worker, made anew when that dies.

    The workers of one pool share a pipe and its locks: one that is killed at the wrong moment keeps a lock, or takes a
    question with it that nobody answers any more. Here it can take only what it was asked itself.

    Args:
        verifier: Pickled.
        timeout: Seconds for one verdict, from the moment that the worker takes it.
        memory_gb: GiB that verdicts may add to what the worker holds once prepared; None for no limit.
        prepare_timeout: Seconds for the worker to get ready, while somebody waits for it; None for no limit.

    Raises:
        RuntimeError: No process can be started.
    """

    def __init__(self, verifier: bytes, *, timeout: float, memory_gb: float | None, prepare_timeout: float | None):
        self._setup = (verifier, timeout + _GRACE, memory_gb)
        self._timeout, self._prepare_timeout = timeout, prepare_timeout
        self._pool = self._start()

    def ask(self, question: bytes, given_up: Callable[[], bool]) -> Score:
        """Wait for the verdict.

        Args:
            question: Pickled task and trajectory.
            given_up: Whether nobody wants to know any more.

        Raises:
            TimeoutError: No verdict within its time.
            pebble.ProcessExpired: The worker died while judging.
            BrokenProcessPool: It died before; the question may be asked again.
            UnreadyError: It did not get ready.
            CancelledError: Nobody wants to know.
        """
        if given_up():
            raise CancelledError
        if not self._pool.active:
            self._restart()
        try:
            future = self._pool.schedule(judge, (question,), timeout=self._timeout)
        except RuntimeError as error:  # it died just now
            raise BrokenProcessPool(str(error)) from error
        try:
            self._await(future, given_up)
            return future.result()
        except (pebble.ProcessExpired, BrokenProcessPool):
            self._restart()  # pebble's own replacement would wait for the locks that the dead one may hold
            raise

    def stop(self) -> None:
        """Kill the worker."""
        self._pool.stop()
        self._pool.join()

    def _await(self, future: Future[Score], given_up: Callable[[], bool]) -> None:
        """Return once the future has its end; see that it gets one."""
        waited = 0.0  # a clock that stands still while this process is stopped
        while not wait([future], _GLANCE).done:
            if given_up():
                future.cancel()  # kills the worker once it has begun
                raise CancelledError
            if not self._pool.active:
                # Pebble settles what it knows of, in threads that end now; a question that came too late it never saw.
                if not wait([future], _GLANCE).done:
                    raise BrokenProcessPool("the worker died")
            elif not future.running():
                waited += _GLANCE
                if self._prepare_timeout is not None and waited >= self._prepare_timeout:
                    limit = f"{self._prepare_timeout:g} s (prepare_timeout)"
                    raise UnreadyError(f"TimeoutError: the verifier was not prepared within {limit}")

    def _restart(self) -> None:
        self.stop()
        self._pool = self._start()

    def _start(self) -> pebble.ProcessPool:
        pool = pebble.ProcessPool(1, initializer=prepare, initargs=self._setup, context=Workers())
        # The worker, and the threads that will restart it, inherit the mask: Ctrl-C is for the parent alone.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            if not pool.active:  # asking starts the worker
                raise RuntimeError("no worker process could be started")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pool
