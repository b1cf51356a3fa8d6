from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def metrics_of(step: int) -> dict:
    time = {"time/sample": 2.0, "time/verify": 0.5, "time/update": 1.0, "time/step": 4.0}
    row = {"step": step, "reward/mean": step / 20, "reward/std": 0.1, "groups/kept": 6, "groups/dropped": 2}
    row |= {"length/mean": 50.0 + step, "length/truncated": 0.1, "entropy/mean": 1 / step, "grad_norm": 0.5}
    row |= {"kl/mean": 0.001 * step, "mismatch/mean": 0.002, "clip/fraction": 0.01, **time}
    if step % 10 == 0:
        row["eval/heldout/accuracy"] = step / 40
    return row


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run's folder by hand, as the hooks and the trainer would leave it."""

    def write(steps: int = 20, name: str = "run", before: bool = True) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text("steps: 20\nname: λ\n", encoding="utf-8")
        lines = [{"step": 0, "eval/heldout/accuracy": 0.1}] if before else []
        lines += [metrics_of(step) for step in range(1, steps + 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        rollouts = [
            {"step": step, "task": f"t{step}", "sibling": sibling, "text": "七\u2028✓"}
            for step in range(1, steps + 1)
            for sibling in range(3)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rollouts)
        (folder / "rollouts.jsonl").write_text(text, encoding="utf-8")
        return folder

    return write
