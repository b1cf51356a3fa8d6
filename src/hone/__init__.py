"""hone: reinforcement learning post-training for language models.

The names below are imported when first asked for, so that ``import hone`` (in a verifier's worker process, say) does
not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.6.0"

_HOMES = {
    "Config": "hone.config",
    "Run": "hone.report.run",
    "Trainer": "hone.trainer",
    "load_config": "hone.config",
    **dict.fromkeys(["Batch", "Completion", "Group", "Loss", "Score", "Scores", "Segment", "Task", "Trajectory"],
                    "hone.types"),
    **dict.fromkeys(["SamplingParams", "settings"], "hone.seats"),
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hone' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
