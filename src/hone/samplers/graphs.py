"""Work of a few shapes, captured as CUDA graphs and replayed: to launch small kernels takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hone.samplers.slots import Slots

KEYS = 128
"""Steps of a fixed shape attend to a multiple of so many keys."""


class Graphs:
    """Captures work when it is first asked for under a key, and replays it from then on with other contents.

    Weights are read where they are, so a graph outlives an update; it does not outlive a cache that has moved. All
    share their memory: what one leaves in tensors of its own, the next may overwrite. On a CPU the work is just done.

    Args:
        slots: The cache that the work reads.
        device: Where it is done.
    """

    def __init__(self, slots: Slots, device: torch.device) -> None:
        self.slots, self._captures = slots, device.type == "cuda"
        self.made: dict[tuple[object, ...], torch.cuda.CUDAGraph | None] = {}
        self._beside = torch.cuda.Stream(device) if self._captures else None
        self._begin()

    def _begin(self) -> None:
        """Forget all graphs, and with the last of them their memory, which cannot be had again under its name."""
        self.made.clear()
        self._moves = self.slots.moves
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None

    def __call__(self, key: tuple[object, ...], work: Callable[[], None], state: Sequence[Tensor] = ()) -> None:
        """Do the work.

        Args:
            key: All that makes it launch other kernels, or other shapes.
            work: Reads and writes tensors that stay where they are, and waits for nothing.
            state: Tensors of which it makes something that depends on what they were.
        """
        if self._moves != self.slots.moves:
            self._begin()
        if key not in self.made:
            self.made[key] = self._captured(work, state) if self._captures else None
        graph = self.made[key]
        work() if graph is None else graph.replay()

    def _captured(self, work: Callable[[], None], state: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        here = torch.cuda.current_stream()
        saved = [tensor.clone() for tensor in state]
        self._beside.wait_stream(here)
        with torch.cuda.stream(self._beside):  # the first calls set libraries up, which cannot be captured
            for _ in range(2):
                work()  # writes to the cache what will be written anyway
                for tensor, before in zip(state, saved, strict=True):
                    tensor.copy_(before)
        here.wait_stream(self._beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):  # an update may run in another
            work()
        return graph


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Meanwhile the device is the current one of this thread, to which streams, events and graphs belong."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def shape(rows: int, width: int, slots: Slots) -> tuple[int, int]:
    """The next of few shapes: a power of two, or all slots; and a round number of keys, for which there is room now."""
    width = -(-width // KEYS) * KEYS
    slots.reserve(width)
    return min(1 << (rows - 1).bit_length(), slots.count), width
