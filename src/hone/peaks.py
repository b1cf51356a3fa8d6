"""The most memory that a phase of the run took, of the GPU where there is one, else of this process on the host."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

MB = 2**20


def peak() -> float:
    """MiB held at most since this was last asked; the count then begins anew.

    On a GPU that is what torch allocated; on the host, what was resident of this process, libraries included. Where the
    system does not let a process reset its high-water mark, it is the most since the process began.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        most = torch.cuda.max_memory_allocated() / MB
        torch.cuda.reset_peak_memory_stats()
        return most
    most = _high_water() / MB
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # begins the mark anew, and touches nothing else
    return most


def _high_water() -> int:
    """Bytes."""
    try:
        [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(kilobytes) * 1024
    except (OSError, ValueError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
