"""Running a model's Python program where it can do no harm, and where it cannot see what is expected of it.

Namespaces of Linux (5.14 or newer, where an ordinary user may make them, or for root) give it: a root of Python's
library and nothing else, read-only, with a private ``/tmp`` of limited size; no network; no other process in sight, and
no ``/proc``; an empty environment; no capability, nor a way to one. Limits of processor time, memory, file size, open
files and processes hold in any case, and so do those of time and of output. When the program ends, or its time does,
everything that it started is killed.

What is not there: a seccomp filter, so a hole in the kernel is a way out; a limit of the memory of all its processes
together, which is that of one times their number.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hone.verifiers.jail.wire import Broken, receive, send

GRACE = 1.5
"""Seconds beyond the program's own after which a sandbox that has not answered is killed."""

_START = "import sys; sys.path.append(sys.argv[1]); from jail.supervisor import main; sys.path.pop(); main()"


class SandboxError(RuntimeError):
    """A program could not be run: the sandbox is at fault, and not the program."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: Of wall time, over all calls or inputs.
        cpu_seconds: Of processor time, for each process.
        memory_mb: MiB of address space for each process.
        processes: Processes and threads at a time, the program's first included.
        files: Open files.
        file_mb: MiB for a file, and for all of ``/tmp``.
        output: Bytes that are read of what it prints.
    """

    seconds: float = 8.0
    cpu_seconds: int = 5
    memory_mb: int = 1024
    processes: int = 8
    files: int = 32
    file_mb: int = 16
    output: int = 2**20


@dataclass(frozen=True)
class Printed:
    """What a program made of an input.

    Attributes:
        text: What it printed, as far as it was read.
        status: Its exit status; above 128, the signal that killed it plus 128.
        why: "time" or "output", where it was killed for too much of it.
    """

    text: str
    status: int
    why: str | None = None

    @property
    def ended_well(self) -> bool:
        """Whether it ended by itself, without an error."""
        return self.status == 0 and self.why is None


@dataclass(frozen=True)
class Sandbox:
    """Where programs run.

    Attributes:
        isolated: In namespaces. Without, limits are all there is: a program reads and writes what this process may.
        packages: Whether programs may import what is installed beside hone.
        limits: For each program.
    """

    isolated: bool = True
    packages: bool = False
    limits: Limits = field(default_factory=Limits)

    def test(self, program: str, setup: str, tests: Sequence[str], taken: Sequence[str]) -> list[bool] | None:
        """Which tests pass; None where the program cannot be loaded.

        The tests run in a process of their own, and ask the program for the value of what they call.

        Args:
            program: Python.
            setup: Python that the tests start from.
            tests: Python; one passes that raises nothing.
            taken: Names that are the program's although Python has them too.

        Raises:
            SandboxError: The sandbox failed.
        """
        with self._started(program, calls=True) as talk:
            try:
                answer = talk({"setup": setup, "tests": list(tests), "taken": list(taken)})
            except Broken:
                # The supervisor was killed while it tested: a value of the program's was too much for its limits, or
                # kept it busy where no timer can interrupt it.
                return [False] * len(tests)
        return answer["passed"] if answer["loaded"] else None

    def outputs(self, program: str, inputs: Sequence[str]) -> Iterator[Printed]:
        """What the program prints, given each input on standard input; run afresh and only when asked for.

        Raises:
            SandboxError: The sandbox failed.
        """
        with self._started(program, calls=False) as talk:
            for text in inputs:
                try:
                    answer = talk({"stdin": text})
                except Broken as error:
                    raise SandboxError(f"the sandbox ended while a program ran: {error}") from None
                yield Printed(answer["stdout"], answer["status"], answer["why"])

    def check(self) -> None:
        """Try it out.

        Raises:
            SandboxError: It does not work here; the message says why, and what can be done.
        """
        if self.isolated and sys.platform != "linux":
            raise SandboxError(_no_isolation(f"{sys.platform} has no namespaces"))
        if self.test("def f(x):\n    return x + 1", "", ["assert f(1) == 2", "assert f(1) == 3"], ["f"]) != [
            True,
            False,
        ]:
            raise SandboxError("the sandbox starts, and gives wrong results; is this Python complete?")

    @contextmanager
    def _started(self, program: str, calls: bool) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
        """A sandbox that holds the program, as a function that puts a question to it; gone at the end."""
        with ExitStack() as stack:
            # Without a root of its own a program gets a folder of its own at least.
            folder = "/" if self.isolated else stack.enter_context(tempfile.TemporaryDirectory(prefix="hone-"))
            process = stack.enter_context(_supervisor(folder))
            timer = threading.Timer(self.limits.seconds + GRACE, process.kill)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
            try:
                _ask(process, self._job(program, calls))
            except Broken:
                process.kill()
                said = process.stderr.read().decode("utf-8", "replace").strip()[-500:]
                raise SandboxError(f"the sandbox did not start: {said or 'killed, or out of time'}") from None
            except SandboxError as error:
                raise SandboxError(_no_isolation(error) if self.isolated else error) from None
            yield lambda question: _ask(process, question)

    def _job(self, program: str, calls: bool) -> dict[str, Any]:
        limits = self.limits
        packages = _packages() if self.packages else []
        return {
            "program": program,
            "calls": calls,
            "isolated": self.isolated,
            "visible": _visible(packages),
            "packages": packages,
            "seconds": limits.seconds,
            "output": limits.output,
            "tmp": limits.file_mb * 2**20,
            "limits": {
                "memory": limits.memory_mb * 2**20,
                "seconds": limits.cpu_seconds,
                "file": limits.file_mb * 2**20,
                "files": limits.files,
                "processes": limits.processes,
            },
        }


@contextmanager
def _supervisor(folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """A fresh interpreter that waits for its job, with nothing of this one's environment; killed at the end."""
    environment = {
        "HOME": folder if folder != "/" else "/tmp",
        "TMPDIR": folder if folder != "/" else "/tmp",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",  # the same program, the same verdict
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-sSP", "-c", _START, str(Path(__file__).parent)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    try:
        yield process
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        process.wait()


def _ask(process: subprocess.Popen[bytes], question: dict[str, Any]) -> dict[str, Any]:
    send(process.stdin.fileno(), question)
    answer = receive(process.stdout.fileno())
    if "failed" in answer:
        raise SandboxError(answer["failed"])
    return answer


def _visible(packages: Sequence[str]) -> list[str]:
    """What a sandbox's root is made of: the library of Python and those of the system, none inside another."""
    prefixes = dict.fromkeys([sys.base_prefix, sys.base_exec_prefix])
    wanted = [os.path.join(prefix, name) for prefix in prefixes for name in ("lib", sys.platlibdir)]
    wanted += [*packages, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    visible: list[str] = []
    for path in sorted(filter(os.path.exists, dict.fromkeys(wanted)), key=len):
        if not any(path.startswith(f"{outer}/") for outer in visible if not os.path.islink(outer)):
            visible.append(path)
    return visible


def _packages() -> list[str]:
    """Where the packages are that are installed beside hone."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _no_isolation(why: object) -> str:
    return (
        f"no isolation for model-written programs here: {why}. It needs Linux 5.14 or newer with user namespaces; "
        "`isolation: none` runs them all the same, with limits alone"
    )
