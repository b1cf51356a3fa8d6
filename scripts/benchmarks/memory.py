"""Peak memory, of a process with its children and of a device. Linux; needs only the standard library."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peaks() -> dict[str, int]:
    """Bytes: "peak" of this process; "peak_all" also of its living children, pages that they share counted for each."""
    return {"peak": peak(children=False), "peak_all": peak()}


def peak(pid: str = "self", children: bool = True) -> int:
    """Bytes: the most that the process ever had resident, and each of its living children likewise."""
    try:
        status = Path("/proc", pid, "status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended, or this is no Linux
        return _own() if pid == "self" else 0
    [high] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")] or [0]
    return int(high) * 1024 + (sum(map(peak, _children(pid))) if children else 0)


def reset() -> None:
    """Begin the process's high-water mark anew from what is resident now, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("memory: the high-water mark cannot be reset here; it includes loading", file=sys.stderr)


def _children(pid: str) -> list[str]:
    found: list[str] = []
    for task in Path("/proc", pid, "task").glob("*/children"):
        try:
            found += task.read_text().split()
        except OSError:
            continue
    return found


def _own() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def device_peak(device: str) -> int | None:
    """Bytes allocated at most on a CUDA device since :func:`device_reset`; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)


def device_reset(device: str) -> None:
    """Begin the device's high-water mark anew."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
