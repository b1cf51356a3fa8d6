"""hone's trainer, a step a turn: sampling, judging, update."""

import tempfile
import time
from typing import Any

import hone
from benchmarks import memory, work
from benchmarks.engine import Turns
from benchmarks.rates import wait


class OnCommand:
    """A hook that holds the run until the next turn, and tells of the step."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_start(self, state: Any) -> None:
        self.turns.reply()
        self._go(state)

    def on_step(self, state: Any) -> None:
        wait(self.turns.settings["device"])
        seconds = time.perf_counter() - self.started
        kept = [group for group, keep in zip(state.groups, state.kept, strict=True) if keep]
        self.turns.reply(
            seconds=seconds,
            update=state.metrics["time/update"],
            tokens=int(state.metrics["tokens/sampled"]),
            completions=sum(map(len, state.groups)),
            updated=len(kept),
            shape=work.shape_of(kept),
            prompt=sum(map(work.context_length, state.groups)),
            **memory.peaks(),
            device_peak=memory.device_peak(self.turns.settings["device"]),
        )
        self._go(state)

    def _go(self, state: Any) -> None:
        memory.device_reset(self.turns.settings["device"])
        if self.turns.wait() is None:
            state.stop = "nobody asks any more"
        self.started = time.perf_counter()

    def on_end(self, state: Any) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def main() -> None:
    turns = Turns()
    s = turns.settings
    rows = [{"chat": chat, "signal": signal} for chat, signal in zip(s["messages"], s["signal"], strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        config = hone.Config(
            model={"path": s["folder"], "dtype": s["dtype"], "random_weights": 0 if s["random"] else None},
            tasks={"inline": {"rows": rows, "prompt": "{chat}", "meta": ["signal"], "shuffle": False}},
            verifier=work.judge,
            sampler={"native": {"max_sequences": len(rows) * s["siblings"]}},
            sampling={"max_tokens": s["tokens"]},
            prompts=len(rows),
            siblings=s["siblings"],
            optimizer={"lr": s["lr"]},
            update={"tokens": s["update_tokens"]},
            steps=10**6,
            hooks=[OnCommand(turns)],
            checkpoint={"at_end": False},
            folder=f"{folder}/run",
            device=s["device"],
        )
        hone.Trainer.from_config(config).fit()


if __name__ == "__main__":
    main()
