#!/usr/bin/env python
"""Processor time of the guard, against that of a step: ``python scripts/guard_cost.py CONFIG [key=value ...]``.

The first step has the preflight, every later one all checks of the watchdog; a run makes those every tenth step.
"""

import sys
import tempfile
import time

import hone
from hone.guards.guard import Guard


class Timed(Guard):
    """Knows what it took."""

    spent = 0.0

    def before_update(self, state):
        began = time.process_time()
        super().before_update(state)
        self.spent += time.process_time() - began

    def on_step(self, state):
        began = time.process_time()
        super().on_step(state)
        self.spent += time.process_time() - began


def main(path: str, *overrides: str) -> None:
    """Train, and print a line a step."""
    config = hone.load_config(path, [*overrides, f"folder={tempfile.mkdtemp()}/run", "checkpoint.at_end=false"])
    config.eval = {}
    trainer = hone.Trainer.from_config(config)
    guard = Timed(every=1)
    trainer.hooks = [guard, *(hook for hook in trainer.hooks if type(hook).__name__ in ("Log",))]
    step = trainer._step

    def timed() -> bool:
        guard.spent, began = 0.0, time.process_time()
        made = step()
        before = guard.spent
        whole = time.process_time() - began
        print(f"step {trainer.state.step}: {whole - before:.3f} s, before the update {before:.3f} s ", end="")
        print(f"= {before / (whole - before):.2%}, one in ten {before / (whole - before) / 10:.3%}", flush=True)
        return made

    trainer._step = timed
    trainer.fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
