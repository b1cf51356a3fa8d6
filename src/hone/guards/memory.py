"""Whether memory grows from step to step, of the host or of the GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hone.guards.finding import Finding

MB = 2**20
PARTS = 5
"""Of the window: memory must have grown from each to the next. What rises once, or goes up and down, is no leak."""


def held() -> dict[str, float]:
    """MiB that are this process's own, by where they are."""
    found = {"host": _resident() / MB}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["GPU"] = torch.cuda.memory_allocated() / MB
    return found


def growing(where: str, values: Sequence[float], limit: float) -> Finding | None:
    """Whether memory grew all through a window, by more than a limit from its first part to its last.

    Args:
        where: "host" or "GPU".
        values: MiB, one a step, the window's.
        limit: MiB.
    """
    size = len(values) // PARTS
    if not size:
        return None
    parts = [values[len(values) - size * (i + 1) : len(values) - size * i] for i in reversed(range(PARTS))]
    lowest = [min(part) for part in parts]
    steady = all(later > earlier for earlier, later in pairwise(lowest))
    grown = lowest[-1] - lowest[0]
    # The last part must carry its share: what has levelled off was warming up.
    if not steady or grown <= limit or lowest[-1] - lowest[-2] < grown / (2 * PARTS):
        return None
    return Finding(
        "memory",
        f"{where} memory grew by {grown:.0f} MiB over the last {len(values)} steps, steadily, to {values[-1]:.0f} MiB",
        "something is kept from every step: a hook's or a part's list, tensors with their graph, an open cache",
        "hooks and parts of your own; guard.memory_mb",
    )


def _resident() -> float:
    """Bytes that are this process's own: pages of mapped files are not, for the system drops and reads them at will."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        parts = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
        return sum(int(parts[part].split()[0]) * 1024 for part in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
