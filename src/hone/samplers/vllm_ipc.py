"""Weights to servers on the trainer's own GPU, or others of its host, through memory of that GPU: CUDA IPC.

The handles travel as plain data. vLLM's own engine for this unpickles what it gets, and servers are to take no pickles.
"""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor

from hone.samplers.vllm_meeting import Meeting


def exported(memory: Tensor) -> dict[str, Any]:
    """A handle of a tensor that begins its storage, as plain data, for one other process: each needs its own."""
    device, *fields = memory.untyped_storage()._share_cuda_()
    plain = [base64.b64encode(each).decode() if isinstance(each, bytes) else each for each in fields]
    return {"gpu": str(torch.cuda.get_device_properties(device).uuid), "fields": plain}


def imported(handle: dict[str, Any]) -> Tensor:
    """The bytes that another process of this host has exported; it has to keep them meanwhile.

    Raises:
        ConnectionError: If this process does not see that GPU.
    """
    seen = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    if handle["gpu"] not in seen:
        raise ConnectionError(f"the trainer's GPU {handle['gpu']} is not seen here, only {', '.join(seen) or 'none'}")
    fields = [base64.b64decode(each) if isinstance(each, str) else each for each in handle["fields"]]
    storage = torch.UntypedStorage._new_shared_cuda(seen.index(handle["gpu"]), *fields)
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class Lent:
    """The trainer's end: memory that it fills, again as soon as all have taken what was in it.

    Args:
        meeting: Of trainer and workers.
        size: Bytes of the largest bucket.
        device: The trainer's.
    """

    def __init__(self, meeting: Meeting, size: int, device: torch.device) -> None:
        self._meeting, self._count = meeting, 0
        self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        self.handles = [exported(self._memory) for _ in range(meeting.size - 1)]

    def send(self, bucket: Tensor) -> None:
        """Bytes ``[n]``."""
        self._memory[: len(bucket)].copy_(bucket)
        torch.cuda.synchronize(self._memory.device)
        self._count += 1
        self._meeting.count(f"filled {self._count}", 1)
        taken, all_others = f"taken {self._count}", self._meeting.size - 1
        self._meeting.wait(lambda: self._meeting.count(taken) == all_others, f"handing over bucket {self._count}")

    def close(self) -> None:
        """Give the memory back, behind all others."""
        self._memory = None
        torch.cuda.ipc_collect()


class Borrowed:
    """A worker's end.

    Args:
        meeting: Of trainer and workers.
        handle: For this worker.
        device: Of this worker, onto which what arrives is copied.
    """

    def __init__(self, meeting: Meeting, handle: dict[str, Any], device: torch.device) -> None:
        self._meeting, self._device, self._count = meeting, device, 0
        self._memory = imported(handle)

    def receive(self, size: int) -> Tensor:
        """Bytes ``[size]``."""
        self._count += 1
        filled = f"filled {self._count}"
        self._meeting.wait(lambda: self._meeting.count(filled) > 0, f"waiting for bucket {self._count} of the weights")
        bucket = self._memory[:size].to(self._device, copy=True)
        torch.cuda.synchronize(self._device)
        self._meeting.count(f"taken {self._count}", 1)
        return bucket
