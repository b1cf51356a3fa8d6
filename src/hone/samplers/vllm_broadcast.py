"""Weights from a trainer to all workers of its servers at once: a broadcast of torch's, by NCCL or by gloo.

vLLM's own engine for this (``weight_transfer/nccl_engine.py``) wants its communicator on the trainer's side as well,
whose processes find each other by pickles in a store, and waits without a limit. So the way is torch's, which is there
on both sides and on a CPU; where the weights arrive is vLLM's: ``reload_weights``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor, distributed

from hone.samplers.vllm_meeting import Meeting, lost, own_address


class Broadcast:
    """A group of processes of which the first sends; it comes up when all have met.

    Args:
        meeting: Of these processes.
        rank: The place of this one; 0 is the trainer's.
        backend: "nccl" or "gloo".
        device: Of this process, which NCCL reads and writes; gloo does on the host.

    Raises:
        OSError: If the others do not come, or cannot be reached.
    """

    def __init__(self, meeting: Meeting, rank: int, backend: str, device: torch.device) -> None:
        self._meeting, self._count = meeting, 0
        self._device = device if backend == "nccl" else torch.device("cpu")
        meeting.gather()
        with lost("the connections between trainer and servers"):
            self._group = _aside(
                meeting, lambda: _nccl(meeting, rank, device) if backend == "nccl" else _gloo(meeting, rank)
            )
        self._options = distributed.BroadcastOptions()
        self._options.rootRank = self._options.rootTensor = 0

    def send(self, bucket: Tensor) -> None:
        """As the trainer, bytes ``[n]``."""
        self._do(bucket.to(self._device), "sending")

    def receive(self, size: int) -> Tensor:
        """As a worker, bytes ``[size]``."""
        return self._do(torch.empty(size, dtype=torch.uint8, device=self._device), "receiving")

    def _do(self, bucket: Tensor, what: str) -> Tensor:
        self._count += 1
        what = f"{what} bucket {self._count} of the weights"
        with lost(what):
            work = self._group.broadcast([bucket], self._options)
        try:
            self._meeting.wait(work.is_completed, what)
        except OSError:
            self._group.abort()
            threading.Thread(target=_outlive, args=(work, self._group, bucket), daemon=True).start()
            raise
        with lost(what):
            work.wait()  # it is done; this raises its error
        return bucket


def _aside(meeting: Meeting, make: Callable[[], Any]) -> Any:
    """What connects, from a thread: while torch connects it looks at nothing, and others may have given up."""
    made: Future[Any] = Future()

    def work() -> None:
        try:
            made.set_result(make())
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=work, name="hone-connecting", daemon=True).start()
    meeting.wait(made.done, "connecting trainer and servers")
    return made.result()


def _outlive(work: Any, *held: Any) -> None:
    """Keep what a broadcast that was left alone still reads and writes; the end of a group waits for it."""
    while not work.is_completed():
        time.sleep(0.1)


def _gloo(meeting: Meeting, rank: int) -> Any:
    """It listens at the address by which this host reaches the trainer, and nowhere else."""
    options = distributed.ProcessGroupGloo._Options()
    own = own_address(meeting.told["host"], meeting.told["port"])
    options._devices = [distributed.ProcessGroupGloo.create_device(hostname=own)]
    options._timeout = meeting.left
    return distributed.ProcessGroupGloo(meeting.store(), rank, meeting.size, options)


def _nccl(meeting: Meeting, rank: int, device: torch.device) -> Any:
    """Torch must not end the process for an error in this group, as it does for one of training.

    Only the environment says so, and a group reads it as it is made. That takes no time, for it connects afterwards;
    a group that another thread makes in that moment has no watchdog either, but training makes its own beforehand.
    """
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = meeting.left
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        group = distributed.ProcessGroupNCCL(meeting.store(), rank, meeting.size, options)
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
    group.eager_connect_single_device(device)  # else the first broadcast does, and whoever asks for it stands still
    return group
