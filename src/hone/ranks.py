"""Talking to the other processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def several() -> bool:
    """Whether the run has more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def index() -> int:
    """The place of this process among those of the run; 0 where it is alone."""
    return distributed.get_rank() if several() else 0


@torch.no_grad()
def gather(values: Tensor) -> list[Tensor]:
    """The values of every process, without gradient, in the order of :func:`index`; alone, just one's own.

    Every process has to call it, with values or without: the two collectives inside wait for all of them.

    Args:
        values: ``[n, ...]``. ``n`` may differ between the processes, and be 0; type and further axes may not.

    Returns:
        One tensor a process, on the device of ``values``.
    """
    if not several():
        return [values.detach()]
    # The backend, not the values, says where they travel: a process without any knows of no device.
    nccl = distributed.get_backend() == distributed.Backend.NCCL
    own = values.detach().to(torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu")
    lengths = [int(length) for length in _all(torch.tensor([len(own)], device=own.device))]
    padded = own.new_zeros(max(lengths), *own.shape[1:])  # collectives want equal shapes
    padded[: len(own)] = own
    return [part[:length].to(values.device) for part, length in zip(_all(padded), lengths, strict=True)]


def _all(values: Tensor) -> list[Tensor]:
    """Of every process, a tensor of the same shape."""
    found = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    if values.numel():  # of no process there is anything, and all know that
        distributed.all_gather(found, values)
    return found
