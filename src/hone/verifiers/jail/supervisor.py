"""The supervisor: builds the sandbox, starts the candidate in it, and runs the tests or passes on what it printed."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time

from . import candidate, namespaces
from .confine import confined
from .evaluator import Expired, Program, evaluate
from .wire import Broken, receive, send

_CHUNK = 65536


def main() -> None:
    """Take a job from standard input, and answer on standard output.

    The first message is the job: ``program``, ``calls``, ``isolated``, ``visible``, ``packages``, ``seconds``,
    ``output``, ``tmp`` and ``limits``. The first answer is "ready". Where the program's functions are to be called, one
    message ``{"setup", "tests", "taken"}`` follows, answered by ``{"loaded", "passed"}``; else one ``{"stdin"}`` after
    the other, each answered by what the program printed. A sandbox that cannot be built answers "failed".
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    namespaces.die_with_parent()
    sys.set_int_max_str_digits(0)  # numbers pass as digits
    jobs, answers = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (0, 1))
    _silence()
    try:
        job = receive(jobs)
        sys.path += job["packages"]
        proc = _move_in(job["visible"]) if job["isolated"] else None
        namespaces.no_new_privileges()
        (_call if job["calls"] else _feed)(job, proc, jobs, answers)
    except Broken:  # nobody waits for an answer any more
        pass
    except Exception as error:
        send(answers, {"failed": f"{type(error).__name__}: {error}"})
    os._exit(0)


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _move_in(visible: list[str]) -> int:
    """Go on as the first process of new namespaces, without any privilege; what was before waits for its end."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    namespaces.leave_host(proc)
    if first := os.fork():
        os.closerange(0, 64)
        os.waitpid(first, 0)
        os._exit(0)
    namespaces.build_root(visible)
    namespaces.drop_root()
    namespaces.drop_capabilities()
    namespaces.die_with_parent()
    return proc


def _call(job: dict, proc: int | None, jobs: int, answers: int) -> None:
    """Start the program, then run the tests. Only now they are read, and nothing is started any more."""
    asked, asking = os.pipe()
    told, telling = os.pipe()
    child = confined(job, proc, [0, 1, 2, asked, telling], lambda: candidate.serve(job["program"], 3, 4))
    os.close(asked)
    os.close(telling)
    if proc is not None:
        os.close(proc)
    namespaces.limit(**(job["limits"] | {"processes": None}))
    send(answers, {"ready": True})
    tests = receive(jobs)
    send(answers, _tested(Program(told, asking), tests, job["seconds"]))
    _kill(child)


def _tested(program: Program, tests: dict, seconds: float) -> dict:
    """What of the tests passes within the time; those that it does not suffice for have failed."""
    passed: list[bool] = []
    loaded = False
    signal.signal(signal.SIGALRM, _expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)  # again and again, should a test catch everything
        loaded = program.loaded()
        if loaded:
            passed.extend(evaluate(program, **tests))
    except Expired:
        pass
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return {"loaded": loaded, "passed": passed + [False] * (len(tests["tests"]) - len(passed))}


def _expire(*_: object) -> None:
    raise Expired


def _feed(job: dict, proc: int | None, jobs: int, answers: int) -> None:
    """Run the program afresh on each input, within the time for all of them."""
    send(answers, {"ready": True})
    left = job["seconds"]
    while True:
        text = receive(jobs)["stdin"]
        start = time.monotonic()
        send(answers, _run(job, proc, text, left))
        left = max(0.0, left - (time.monotonic() - start))


def _run(job: dict, proc: int | None, text: str, seconds: float) -> dict:
    if seconds <= 0:
        return {"stdout": "", "status": 0, "why": "time"}
    stdin = _file(text)
    ours, theirs = os.pipe()
    child = confined(job, proc, [stdin, theirs, 2], lambda: candidate.run_script(job["program"]))
    os.close(stdin)
    os.close(theirs)
    until = time.monotonic() + seconds
    output, why = _read(ours, job["output"], until)
    status = None if why else _ended(child, until)
    _kill(child)  # and what it has left running
    if status is None:
        why = why or "time"
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(ours)
    return {"stdout": output.decode("utf-8", "replace"), "status": status, "why": why}


def _ended(child: int, until: float) -> int | None:
    """The exit status; None if there is none in time: a program may close its output and go on."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


def _read(pipe: int, most: int, until: float) -> tuple[bytes, str | None]:
    """What comes out of the pipe until it is closed; and "output" or "time", if there is too much or it takes long."""
    output = bytearray()
    while len(output) <= most:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            return bytes(output), "time"
        more = os.read(pipe, _CHUNK)
        if not more:
            return bytes(output), None
        output += more
    return bytes(output[:most]), "output"


def _kill(child: int) -> None:
    """Kill the candidate's process group; in namespaces of its own, everything in them."""
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _file(text: str) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("stdin")
    else:
        import tempfile

        fd, path = tempfile.mkstemp()
        os.unlink(path)
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
