"""Time limits for what may never end: with the stacks of all threads, and an error that says what was waited for."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger("hone")

GRACE = 60.0
"""Seconds that a thread has to notice its end; what is stuck outside of Python ends with the process."""


class HangError(RuntimeError):
    """Something did not end within its limit."""


class EndedElsewhere(RuntimeError):
    """Another process of the run has failed; it says itself why."""


def stacks() -> str:
    """Where every thread of this process is, the latest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def told(what: str, seconds: float, setting: str) -> HangError:
    """The error, with the stacks already in the log."""
    message = f"{what} did not end within {seconds:g} s ({setting}); the stacks of all threads are in the log"
    log.error("%s:\n%s", message, stacks())
    return HangError(message)


@contextmanager
def within(what: str, seconds: float | None, setting: str) -> Iterator[None]:
    """Raise in this thread if the block takes longer; None for no limit.

    What does not come back to Python for a further minute (a collective, a kernel) ends the process, exit status 1.

    Args:
        what: For the message.
        seconds: The limit.
        setting: That sets it.

    Raises:
        HangError: After the limit.
    """
    if seconds is None:
        yield
        return
    over = threading.Event()
    thread = threading.get_ident()
    alarmed = threading.current_thread() is threading.main_thread() and hasattr(signal, "pthread_kill")
    errors: list[HangError] = []

    def expire() -> None:
        if over.wait(seconds):
            return
        errors.append(told(what, seconds, setting))
        if over.is_set():
            return
        if alarmed:
            signal.pthread_kill(thread, signal.SIGALRM)  # a signal also ends waits for locks, files and sleep
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(HangError))
        if not over.wait(GRACE):
            log.error("%s is stuck where no exception reaches it: the process ends", what)
            logging.shutdown()
            os._exit(1)

    def alarm(number: int, frame: FrameType | None) -> Any:
        if errors and not over.is_set():
            raise errors[0]
        if callable(before):  # another's alarm
            return before(number, frame)

    before = signal.signal(signal.SIGALRM, alarm) if alarmed else None
    watch = threading.Thread(target=expire, name="hone-limit", daemon=True)
    watch.start()
    try:
        yield
    except HangError as error:
        raise (errors[0] if errors and not error.args else error) from None
    finally:
        over.set()
        if alarmed:
            watch.join()  # a signal that is under way still finds its handler
            signal.signal(signal.SIGALRM, before)
