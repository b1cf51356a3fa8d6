"""What does not end is ended, and says where it was."""

import logging
import signal
import subprocess
import sys
import threading
import time

import pytest

from hone.hangs import HangError, within


def quick():
    with within("a quick thing", 30, "limits.test"):
        return 7


def test_what_ends_in_time_is_left_alone():
    before = signal.getsignal(signal.SIGALRM)
    assert quick() == 7
    assert signal.getsignal(signal.SIGALRM) is before
    assert "hone-limit" not in {thread.name for thread in threading.enumerate()}
    with within("no limit", None, "limits.test"):
        pass
    with pytest.raises(ZeroDivisionError), within("an error", 30, "limits.test"):
        raise ZeroDivisionError


@pytest.mark.parametrize("wait", [time.sleep, threading.Event().wait], ids=["sleep", "lock"])
def test_a_wait_ends_with_the_stacks_of_all_threads(caplog, wait):
    def idle_elsewhere(over):
        over.wait(60)

    over = threading.Event()
    other = threading.Thread(target=idle_elsewhere, args=(over,), name="a-second-thread")
    other.start()
    began = time.monotonic()
    with pytest.raises(HangError, match=r"^the update of step 3 did not end within 0\.2 s \(limits\.update\)"):  # noqa: SIM117
        with within("the update of step 3", 0.2, "limits.update"):
            wait(60)
    over.set()
    other.join()
    assert time.monotonic() - began < 20
    assert "thread a-second-thread:" in caplog.text
    assert "in idle_elsewhere" in caplog.text
    assert "thread MainThread:" in caplog.text
    assert "wait(60)" in caplog.text


def test_a_loop_in_another_thread_ends(caplog):
    found = []

    def work():
        try:
            with within("a loop", 0.2, "limits.test"):
                while True:
                    time.sleep(0.01)
        except HangError as error:
            found.append(str(error))

    caplog.set_level(logging.CRITICAL)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found
    assert found[0].startswith("a loop did not end within 0.2 s (limits.test)")


STUCK = """
import hashlib, logging
from hone import hangs
logging.basicConfig()
hangs.GRACE = 0.3
with hangs.within("a collective", 0.2, "limits.update"):
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # does not come back to Python for an hour
"""


def test_what_is_stuck_outside_of_python_ends_with_the_process():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=80)
    assert done.returncode == 1
    assert "a collective did not end within 0.2 s (limits.update)" in done.stderr
    assert "line 7, in <module>" in done.stderr
    assert "stuck where no exception reaches it" in done.stderr
