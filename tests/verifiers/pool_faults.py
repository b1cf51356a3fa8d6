"""Verifiers that go wrong, importable by a worker process."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

from hone.types import Score


class OddError(Exception):
    """Does not survive pickling."""

    def __init__(self, first, second):
        super().__init__("odd")
        self.hook = lambda: None


def forever(first):
    while True:
        time.sleep(0.01)


DEEDS = {
    "raise": lambda: 1 / 0,
    "raise_odd": lambda: (_ for _ in ()).throw(OddError(1, 2)),
    "hang": lambda: forever(1),
    "hang_in_c": lambda: 7 ** (10**9),
    "exit": lambda: os._exit(3),
    "sys_exit": lambda: sys.exit(4),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": lambda: len(bytearray(2**32)),
    "recursion": lambda: eval("(lambda f: f(f))(lambda f: f(f))"),
    "nan": lambda: math.nan,
    "none": lambda: None,
    "text": lambda: "1.0",
    "empty_score": lambda: Score(None),
    "infinite_score": lambda: Score(math.inf),
    "pid": lambda: os.getpid(),
    "print": lambda: print("noise", flush=True) or os.system("echo more noise") or 1.0,
    "true": lambda: True,
    "slow": lambda: time.sleep(0.3) or 1.0,
    "long": lambda: time.sleep(4.0) or 1.0,
    "torch": lambda: float("torch" in sys.modules),
}


def misbehave(task, trajectory):
    return DEEDS[trajectory.response]()


def breed(task, trajectory):
    """Start a process that would run for an hour, write its number into a file, and misbehave."""
    deed, _, path = trajectory.response.partition(" ")
    if path:
        with open(path, "w") as file:
            print(subprocess.Popen(["sleep", "3600"]).pid, file=file)
    return DEEDS[deed]()


@dataclass
class Prepared:
    seconds: float = 0.0
    broken: bool = False
    once: str | None = None
    ready: bool = field(default=False, init=False)

    def prepare(self):
        if self.once is not None:
            self.seconds = 3600 if os.path.exists(self.once) else 0
            open(self.once, "w").close()
        time.sleep(self.seconds)
        if self.broken:
            raise OSError("the answers are not on this disk")
        self.ready = True

    def __call__(self, task, trajectory):
        return DEEDS[trajectory.response]() if trajectory.response else self.ready


def main(deed, timeout):
    """Ask once and end without closing; used as a script's whole life."""
    import asyncio

    from hone.types import Segment, Task, Trajectory
    from hone.verifiers import lane
    from hone.verifiers.pool import VerifierPool

    lane._GRACE = 0.0
    pool = VerifierPool(breed, workers=1, timeout=timeout)
    task = Task("t", [])

    def ask(text):
        return pool(task, Trajectory(task, [Segment("response", "policy", (), text=text)]))

    print(int(asyncio.run(ask("pid")).value), flush=True)
    if deed:
        asyncio.run(ask(deed))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
