"""What the machine gives: the rates of matrix products and of copies, of any size and of a model's own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import models


def seconds(work: Callable[[], Any], device: str, *, least: int = 3, most: float = 1.0) -> float:
    """The median of at least ``least`` repetitions in about ``most`` seconds, after one that warms up."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= least or (time.perf_counter() - began < most and len(times) < 200):
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def square(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a large square product."""
    n = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device)


def copied(device: str) -> float:
    """Bytes a second, read and written counted, of a copy that fits in no cache."""
    n = 2**30 if device.startswith("cuda") else 2**28
    source, target = (torch.ones(n, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * n / seconds(lambda: target.copy_(source), device)


def products(folder: str, tokens: int, dtype: torch.dtype, device: str) -> dict[str, float]:
    """FLOP/s of the model's own products at ``tokens`` rows, head included: forward, and forward with backward."""
    layers, head = models.linear_shapes(folder)
    forward = backward = flops = 0.0
    for (out, into), count in {**layers, head: layers.get(head, 0) + 1}.items():
        x, g, w = (
            torch.randn(*shape, device=device).to(dtype) for shape in ((tokens, into), (tokens, out), (out, into))
        )
        once = seconds(lambda x=x, w=w: x @ w.T, device, most=0.2)
        back = seconds(lambda g=g, w=w: g @ w, device, most=0.2) + seconds(lambda g=g, x=x: g.T @ x, device, most=0.2)
        forward, backward, flops = (
            forward + count * once,
            backward + count * back,
            flops + 2 * count * tokens * out * into,
        )
    return {"forward": flops / forward, "update": 3 * flops / (forward + backward)}


@torch.inference_mode()
def decode_products(folder: str, sequences: int, dtype: torch.dtype, device: str) -> float:
    """Seconds of one decode step that does nothing but multiply by every weight, all of which are read anew."""
    layers, head = models.linear_shapes(folder)
    shapes = [shape for shape, count in layers.items() for _ in range(count)] + [head]
    weights = [torch.randn(*shape, device=device).to(dtype) for shape in shapes]
    inputs = {into: torch.randn(sequences, into, device=device).to(dtype) for _, into in shapes}

    def step() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return seconds(step, device)


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    import os
    import platform
    from datetime import date
    from importlib.metadata import PackageNotFoundError, version

    def release(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    known = [line for line in _cpuinfo() if line.startswith("model name")]
    return {
        "device": device,
        "cpu": known[0].split(":")[1].strip() if known else platform.processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load before": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "date": date.today().isoformat(),
        **{name: release(name) for name in ("torch", "transformers", "trl")},
    }


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo") as lines:
            return lines.readlines()
    except FileNotFoundError:
        return []
