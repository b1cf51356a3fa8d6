"""Engines: processes that measure when they are told to, so that several can take turns in one run.

A line of JSON goes to the engine's standard input for each turn, and one comes back. The first holds the settings. The
engine keeps for itself the descriptor that replies go to, so that nothing else that a library prints can mix with them.
Needs only the standard library, for an engine may run under an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]


class EngineError(RuntimeError):
    """An engine ended, or answered with an error; the message is its last word."""


class Engine:
    """A running engine, seen from the process that compares. A context manager, which ends it.

    Args:
        module: Of :mod:`benchmarks.engines`.
        settings: Sent first.
        log: Where its standard error goes.
        python: Another interpreter.
    """

    def __init__(self, module: str, settings: dict[str, Any], log: Path, python: str = sys.executable) -> None:
        self.module, self.log = module, log
        paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.engines.{module}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )  # fmt: skip
        self._settings: dict[str, Any] | None = settings

    def start(self, timeout: float = 1800) -> dict[str, Any]:
        """Send the settings, and wait until it has loaded what it needs; what it tells of itself."""
        return self._exchange(self._settings, timeout)

    def turn(self, timeout: float = 3600, **request: Any) -> dict[str, Any]:
        """Have it measure once.

        Raises:
            EngineError: If it ended, took longer than ``timeout`` seconds, or says why it could not.
        """
        return self._exchange(request, timeout)

    def _exchange(self, message: Any, timeout: float) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise EngineError(f"over {timeout:.0f} s" if late.is_set() else self._last_words())
        reply = json.loads(line)
        if "error" in reply:
            raise EngineError(reply["error"])
        return reply

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"ended with code {self._process.wait()} and without a word"

    def close(self) -> None:
        """Let it end; kill it if it does not."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Turns:
    """The engine's side: its settings, then one request after the other until nobody asks any more."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.settings: dict[str, Any] = self.wait() or {}

    def wait(self) -> dict[str, Any] | None:
        """The next request, or None at the end."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def reply(self, **values: Any) -> None:
        """Answer the request, or say that loading is done."""
        self._replies.write(json.dumps(values) + "\n")
        self._replies.flush()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (request := self.wait()) is not None:
            yield request
