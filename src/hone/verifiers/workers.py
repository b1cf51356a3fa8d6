"""The inside of a verifier's worker process, and the process itself, which takes what it started with it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from hone.types import Score, Task, Trajectory
from hone.verifiers.verdict import failed, to_score


class Worker(SpawnProcess):
    """A fresh interpreter (a fork would inherit the threads and the device of torch) that leads a group of processes.

    What a verifier starts is in that group, which is killed once the worker has ended, be it at a time limit, with the
    pool or by itself: pebble asks ``is_alive`` after each. When its parent has died, a worker kills the group, and so
    itself. What stays is a process that left the group (``start_new_session=True``), and, without a parent, what was
    started by a verifier that is stuck in C.
    """

    _swept = False

    def run(self) -> None:
        """In the worker: lead, and follow the parent."""
        os.setsid()
        threading.Thread(target=_follow_parent, daemon=True).start()
        super().run()

    def is_alive(self) -> bool:
        """Whether it runs. Once it does not, neither does its group."""
        alive = super().is_alive()
        if not alive and not self._swept:
            self._swept = True  # never again: by and by the number may be another's
            with suppress(ProcessLookupError, PermissionError):  # there is none, or (on macOS) none but the dead
                os.killpg(self.pid, signal.SIGKILL)
        return alive


class Workers(SpawnContext):
    """Where pebble gets its processes from."""

    Process = Worker


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os.killpg(os.getpid(), signal.SIGKILL)


_verifier: Callable[[Task, Trajectory], Any]
_time_to_live: float


def prepare(verifier: bytes, time_to_live: float, memory_gb: float | None) -> None:
    """Make this process a worker. A failure is kept for the verdicts to tell: raised here, it would only be logged.

    Args:
        verifier: Pickled.
        time_to_live: Seconds that a verdict may take before the process ends by itself.
        memory_gb: GiB that verdicts may add to what the process holds once it is prepared.
    """
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


def judge(question: bytes) -> Score:
    """The verdict on a pickled task and trajectory, or the error that prevented one."""
    # The parent kills a late worker, but a dead parent cannot, and a C function may not let the thread run that follows
    # it: the kernel's timer ends the worker then, unless a verifier uses that timer itself.
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
