"""Weights of one moment in buckets of bytes, as they travel without a folder, and what is told of them beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hone.checksums import checksums

SIZE = 256 * 2**20
"""Most bytes of a bucket; a weight that has more is one by itself."""
ALIGN = 16
"""Every weight begins at a multiple of so many bytes, so that it can be read where it lies."""


class Damaged(OSError):
    """A bucket did not arrive as it was sent; ``names`` are the weights in it."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"{len(names)} weights, such as {names[0]}, did not arrive as they were sent")
        self.names = names


@dataclass(frozen=True)
class Parcel:
    """A copy of weights on the host: a server that comes late gets them while the policy already learns on.

    Attributes:
        buckets: Bytes, ``[n]`` each.
        outline: Of each bucket its "bytes", their "sum" and its "weights": name, type and shape. Plain data.
        device: Where the weights are.
    """

    buckets: list[Tensor]
    outline: list[dict[str, Any]]
    device: torch.device

    @classmethod
    def pack(cls, weights: Iterable[tuple[str, Tensor]]) -> Parcel:
        """Copy weights, which may change afterwards.

        Raises:
            ValueError: If there are none.
        """
        parcel = None
        for batch in _batches(weights):
            device = batch[0][1].device
            parcel = parcel or cls([], [], device)
            bucket = torch.zeros(
                sum(_room(weight.nbytes) for _, weight in batch), dtype=torch.uint8, pin_memory=device.type == "cuda"
            )
            entry = {"bytes": len(bucket), "weights": [_described(*each) for each in batch]}
            for (_, place), (_, weight) in zip(unpacked(bucket, entry), batch, strict=True):
                place.copy_(weight.detach())
            parcel.buckets.append(bucket)
            parcel.outline.append(entry | checksums([("sum", bucket)]))
        if parcel is None:
            raise ValueError("sampler: the policy has no weights to give")
        return parcel


def _batches(weights: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    batch, filled = [], 0
    for name, weight in weights:
        room = _room(weight.nbytes)
        if batch and filled + room > SIZE:
            yield batch
            batch, filled = [], 0
        batch.append((name, weight))
        filled += room
    if batch:
        yield batch


def _room(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _described(name: str, weight: Tensor) -> list[Any]:
    return [name, str(weight.dtype).removeprefix("torch."), list(weight.shape)]


def unpacked(bucket: Tensor, entry: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The weights in a bucket, which keep it alive: nothing is copied."""
    start = 0
    for name, kind, shape in entry["weights"]:
        dtype = getattr(torch, kind)
        size = math.prod(shape) * dtype.itemsize
        yield name, bucket[start : start + size].view(dtype).view(shape)
        start += _room(size)


def arriving(channel: Any, outline: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """The weights that a channel receives, one bucket after the other.

    Raises:
        Damaged: If one is not what its sum says.
        OSError: If one does not arrive.
    """
    for entry in outline:
        bucket = channel.receive(entry["bytes"])
        if checksums([("sum", bucket)])["sum"] != entry["sum"]:
            raise Damaged([name for name, _, _ in entry["weights"]])
        yield from unpacked(bucket, entry)
