"""Starting the candidate's process: forked off, moved into namespaces of its own, and limited, before it runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from . import namespaces

_KEPT = 2
"""Processes beside the candidate's that its limit counts: the one that started it, and the first of its namespace."""


def confined(job: dict, proc: int | None, fds: list[int], run: Callable[[], None]) -> int:
    """Start ``run``, which never returns, in a process that has the descriptors ``fds`` as 0, 1, ... and no others.

    With namespaces (``proc`` is a descriptor of ``/proc``) three processes are chained: one outside, one that is the
    first of the namespace and takes all others with it when it ends, and the candidate, as whose child nothing
    survives. Each ends with the exit status of the next.

    Returns:
        The number of the first, which leads a process group.

    Raises:
        OSError: It could not be confined; then nothing has run.
    """
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _inside(job, proc, [*fds, telling])
            os.close(len(fds))
            run()
        except BaseException as error:
            _tell(len(fds), telling, error)
        os._exit(70)
    os.close(telling)
    problem = b""
    while more := os.read(told, 4096):
        problem += more
    os.close(told)
    if problem:
        os.waitpid(child, 0)
        raise OSError(problem.decode("utf-8", "replace"))
    return child


def _tell(*way: object) -> None:
    *fds, error = way
    for fd in fds:
        try:
            os.write(fd, f"{type(error).__name__}: {error}".encode())
            return
        except OSError:
            continue


def _inside(job: dict, proc: int | None, fds: list[int]) -> None:
    os.setsid()
    namespaces.die_with_parent()
    limits = job["limits"]
    if proc is not None:
        namespaces.leave_supervisor(proc, job["tmp"], job["visible"])
        os.chdir("/tmp")
    _keep(fds)
    if proc is not None:
        namespaces.die_with_parent()
        _follow()
        namespaces.die_with_parent()
        namespaces.drop_capabilities()
        namespaces.hide_memory()  # before there is a child: it may not trace this process, and so stop it
        _follow()
        os.setsid()
        limits = limits | {"processes": limits["processes"] + _KEPT}
    namespaces.limit(**limits)


def _keep(fds: list[int]) -> None:
    """Make the descriptors 0, 1, ... and close all others."""
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
    for i, fd in enumerate(moved):
        os.dup2(fd, i)
    os.closerange(len(moved), os.sysconf("SC_OPEN_MAX"))


def _follow() -> None:
    """Fork. The child goes on; the parent waits for it, and ends as it does."""
    child = os.fork()
    if child == 0:
        return
    os.closerange(0, 64)
    while True:
        ended, status = os.wait()  # the first of a namespace is given the orphans
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
