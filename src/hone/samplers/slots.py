"""A key-value cache with a slot for each running sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from hone.samplers.prefill import Prefix

GROW = 128
"""Steps by which slots that are made for a round grow at least."""
ROOM = 1024
"""The same of slots that stay, on a GPU, where to move them is to capture the decode steps anew."""


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, ``[slots, heads, length, width]``; every slot has a length of its own.

    The first ``n`` slots are running. A decode step writes one key and value a slot, at the slot's own position, and
    attends over views of the buffers: nothing is copied.
    """

    def __init__(self, slots: Slots, like: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.slots = slots
        self.keys, self.values = (
            buffer.new_zeros(slots.count, buffer.shape[0], slots.length, buffer.shape[2]) for buffer in like
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers are there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write the step's keys and values, ``[n, heads, 1, width]``; return all that may be attended to."""
        slots = self.slots
        self.keys[slots.index, :, slots.positions] = key_states[:, :, 0]
        self.values[slots.index, :, slots.positions] = value_states[:, :, 0]
        n = len(slots.index)
        return self.keys[:n, :, : slots.width], self.values[:n, :, : slots.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is attended to."""
        return self.slots.width, 0

    def get_seq_length(self) -> int:
        """Positions are always given explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Slots grow as needed."""
        return -1


class Slots:
    """The cache of a decode batch.

    Attributes:
        cache: What a transformers model takes as its cache.
        count: Slots.
        length: Steps that each slot has room for.
        index: ``[n]`` the running slots, always the first ones.
        positions: ``[n]`` where the coming step of each goes.
        width: Steps that are attended to, one more than the largest position or further ones that are masked.
        grow: Steps by which slots grow at least.
        moves: How often the buffers were made anew, larger.
    """

    def __init__(self, count: int, length: int, like: Sequence[tuple[Tensor, Tensor]], grow: int = GROW) -> None:
        self.count, self.length, self.grow = count, length, grow
        self.cache = Cache(layers=[SlotLayer(self, layer) for layer in like])
        self.index = self.positions = torch.zeros(0, dtype=torch.int64)
        self.width = self.moves = 0

    def aim(self, positions: Tensor, width: int) -> None:
        """Set where the coming decode step writes, ``[n]``, and to how many steps it attends."""
        self.positions, self.width = positions, width
        self.index = torch.arange(len(positions), device=positions.device)

    def reserve(self, length: int) -> None:
        """Make room for ``length`` steps a slot."""
        if length <= self.length:
            return
        extra = -(-(length - self.length) // self.grow) * self.grow
        self.length, self.moves = self.length + extra, self.moves + 1
        for layer in self.cache.layers:
            layer.keys, layer.values = (
                torch.nn.functional.pad(buffer, (0, 0, 0, extra)) for buffer in (layer.keys, layer.values)
            )

    def ensure(self, count: int) -> None:
        """Have at least ``count`` slots."""
        if count <= self.count:
            return
        for layer in self.cache.layers:
            layer.keys, layer.values = (
                torch.cat([buffer, buffer.new_zeros(count - self.count, *buffer.shape[1:])])
                for buffer in (layer.keys, layer.values)
            )
        self.count, self.moves = count, self.moves + 1

    def fill(self, slots: slice, prefix: Prefix) -> None:
        """Copy a prefilled context into slots."""
        n = prefix.length
        self.reserve(n)
        for layer, (keys, values) in zip(self.cache.layers, prefix.layers, strict=True):
            layer.keys[slots, :, :n], layer.values[slots, :, :n] = keys, values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one slot over another, so that the running ones stay the first."""
        for layer in self.cache.layers:
            for buffer in (layer.keys, layer.values):
                buffer[target, :, :length] = buffer[source, :, :length]
