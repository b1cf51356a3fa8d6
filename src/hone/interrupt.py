"""Ctrl-C that ends a run, and does not tear it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hone import ranks


@contextmanager
def graceful(stop: Callable[[], None], told: str = "stopping: saving a checkpoint") -> Iterator[None]:
    """Have the first Ctrl-C call ``stop``, which is to end things soon, and say so; the second ends them at once.

    Elsewhere than in the main thread, where signals cannot be handled, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()
        if not ranks.index():
            print(f"\n{told} (Ctrl-C again to stop at once)", file=sys.stderr)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
