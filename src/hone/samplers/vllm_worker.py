"""What `hone serve` adds to the workers of a vLLM server, which import this file, and nothing else of hone's does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hone.samplers.vllm_broadcast import Broadcast
from hone.samplers.vllm_ipc import Borrowed
from hone.samplers.vllm_meeting import Meeting
from hone.samplers.vllm_parcel import Damaged, arriving
from hone.samplers.vllm_weights import unlike, words


class TakesWeights:
    """An extension of vLLM's worker: takes the weights that a trainer gives, in place.

    Each way gives "unlike", the names of weights that differ from what was sent, "compared", the number of those that
    could be compared, and "failed", why they did not arrive, or nothing. ``check`` is whether to compare what the model
    then holds; what comes without a folder is always compared as it arrives.
    """

    def take_weights(self, folder: str, check: bool) -> dict[str, Any]:
        """Those in a folder of safetensors, by the names of a checkpoint."""
        return self._take(_read(folder), check, lambda why: None)

    def receive_weights(self, told: dict[str, Any], check: bool) -> dict[str, Any]:
        """Those that the trainer sends to a meeting; if this worker fails, all others there are told at once.

        Args:
            told: What :class:`~hone.samplers.vllm_meeting.Meeting` tells, the weights' "outline", the "backend",
                the place of this server's "first" worker, and for "ipc" the "handles".
            check: Whether to compare.
        """
        try:
            meeting = Meeting.joined(told)
        except OSError as error:
            return {"unlike": [], "compared": 0, "failed": _told(error)}
        weights = _received(meeting, told["first"] + self.parallel_config.rank, self.device)
        return self._take(weights, check, meeting.give_up)

    def _take(self, weights: Iterable[tuple[str, Tensor]], check: bool, fail: Callable[[str], None]) -> dict[str, Any]:
        sent: dict[str, int] = {}
        failures: list[Exception] = []

        def given() -> Iterator[tuple[str, Tensor]]:
            try:
                for name, weight in weights:
                    if check:
                        sent.update(words(name, weight, self.model_config.dtype))
                    yield name, weight
            except Exception as error:  # vLLM has to come to the end, or it would go on in the middle the next time
                failures.append(error)
                fail(_told(error))

        try:
            self.reload_weights(weights_iterator=given())
        except Exception as error:
            fail(_told(error))
            raise
        for failure in failures:
            damaged = failure.names if isinstance(failure, Damaged) else []
            return {"unlike": damaged, "compared": len(damaged), "failed": "" if damaged else _told(failure)}
        alone = self.parallel_config.world_size == 1  # of several, each has a part of most weights
        model = self.model_runner.get_model()
        names, compared = unlike(model, sent, self.model_config.dtype) if check and alone else ([], 0)
        return {"unlike": names, "compared": compared, "failed": ""}


def _received(meeting: Meeting, rank: int, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    yield from arriving(channel(meeting, rank, device), meeting.told["outline"])


def channel(meeting: Meeting, rank: int, device: torch.device) -> Borrowed | Broadcast:
    """What receives the buckets of a meeting, as soon as all are there.

    Args:
        meeting: What was told of it is as in :meth:`TakesWeights.receive_weights`.
        rank: The place of this worker; 0 is the trainer's.
        device: Of this worker.

    Raises:
        OSError: If the trainer or the others are not there.
    """
    told = meeting.told
    if told["backend"] != "ipc":
        return Broadcast(meeting, rank, told["backend"], device)
    borrowed = Borrowed(meeting, told["handles"][rank - 1], device)
    meeting.gather()
    return borrowed


def _told(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"


def _read(folder: str) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                yield name, file.get_tensor(name)
