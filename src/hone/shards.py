"""Tensors of which every process may hold a part (torch's DTensor), and whole ones."""

from __future__ import annotations

from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor


def full(part: Tensor) -> Tensor:
    """All of it, in every process; every process has to call it."""
    return part.full_tensor() if isinstance(part, DTensor) else part


def kept(part: Tensor) -> Tensor:
    """What is saved of it: a sharded one whole in the first process's host memory, and empty in the others."""
    if not isinstance(part, DTensor):
        return part
    whole = part.full_tensor()
    return whole.new_empty(0, device="cpu") if distributed.get_rank() else whole.cpu()


def placed(values: Tensor, like: Tensor, *, own: bool = False) -> Tensor:
    """Values as :func:`kept` gave them, sharded where ``like`` is: all come from the first process.

    Args:
        values: The others' are not looked at where ``like`` is sharded.
        like: The tensor that they are for.
        own: Copy those that are not sharded to where ``like`` is; else they are given back as they are.
    """
    if not isinstance(like, DTensor):
        return values.to(like.device, copy=True) if own else values
    device = like.to_local().device
    whole = values.new_empty(like.shape, device=device) if distributed.get_rank() else values.to(device)
    return distribute_tensor(whole, like.device_mesh, like.placements)
