"""How a trainer's weights go to servers: through a folder that they share, or from process to process."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hone.samplers.vllm_broadcast import Broadcast
from hone.samplers.vllm_ipc import Lent
from hone.samplers.vllm_meeting import Meeting, address, lost
from hone.samplers.vllm_parcel import Parcel

log = logging.getLogger("hone")

Delivery = tuple[list[dict[str, Any]], Callable[[str], None]]
"""What each server is told beside the version, and what to call, with the reason, as soon as one has failed."""


class Sender(Protocol):
    """One way. The weights of now stay with it, for servers that come late.

    Attributes:
        transfer: Its name in the settings.
        together: Whether servers that take weights at the same time depend on each other.
    """

    transfer: str
    together: bool

    def put(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Take weights, which may change afterwards; the name under which servers have them then."""

    def settled(self) -> None:
        """Those before are not wanted any more."""

    def delivery(self, name: str, servers: Sequence[Mapping[str, Any]]) -> AbstractAsyncContextManager[Delivery]:
        """Give the weights of now, which have this name, to servers, while they are asked to take them.

        Args:
            name: Which ``put`` gave; OSError if there are others by now.
            servers: What they said of themselves.
        """

    def close(self) -> None:
        """Leave nothing behind."""


class Folder:
    """Through ``exchange``, as safetensors."""

    transfer, together = "folder", False

    def __init__(self, exchange: str) -> None:
        self._exchange = Path(exchange)
        self._now: Path | None = None
        self._before: Path | None = None

    def put(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Write weights into a new folder, which appears whole or not at all."""
        from safetensors.torch import save_file

        self._exchange.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self._exchange, prefix="."))
        plain = {name: weight.detach().cpu().contiguous() for name, weight in _once(weights)}
        whole = {n: w if w.untyped_storage().nbytes() == w.nbytes else w.clone() for n, w in plain.items()}
        save_file(whole, scratch / "model.safetensors")
        folder = self._exchange / _named(version)
        scratch.rename(folder)
        self._before, self._now = self._now, folder
        return folder.name

    def settled(self) -> None:
        """Remove the folder before."""
        if self._before is not None:
            shutil.rmtree(self._before, ignore_errors=True)
        self._before = None

    @asynccontextmanager
    async def delivery(self, name: str, servers: Sequence[Mapping[str, Any]]) -> AsyncIterator[Delivery]:
        """They find it by its name."""
        yield [{} for _ in servers], lambda why: None

    def close(self) -> None:
        """Remove what was written."""
        self.settled()
        if self._now is not None:
            shutil.rmtree(self._now, ignore_errors=True)
        self._now = None


class Direct:
    """From process to process, out of a copy on the host: by ``collective`` or ``ipc``.

    Every transfer is a meeting of its own, of the trainer and all workers of those servers that are to take weights
    now, so that it does not matter who was there before. One at a time.

    Args:
        transfer: Which of the two.
        meet: The trainer's address, as the servers reach it.
        limit: Seconds for a transfer; None for no limit.
    """

    together = True

    def __init__(self, transfer: str, meet: str, limit: float | None) -> None:
        self.transfer, self._limit = transfer, limit
        self._host, self._port = address(meet)
        self._parcel: Parcel | None = None
        self._name = ""
        self._turn = asyncio.Lock()

    def put(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Copy weights onto the host.

        Raises:
            ValueError: If they are not where this way begins.
        """
        self._parcel = None  # so that there is one copy, not two
        parcel = Parcel.pack(_once(weights))
        if self.transfer == "ipc" and parcel.device.type != "cuda":
            raise ValueError(
                f"sampler.vllm_server.transfer: ipc goes through a GPU's memory, and the policy is on {parcel.device}; "
                "take collective or folder"
            )
        self._parcel, self._name = parcel, _named(version)
        return self._name

    def settled(self) -> None:
        """There is but one copy."""

    @asynccontextmanager
    async def delivery(self, name: str, servers: Sequence[Mapping[str, Any]]) -> AsyncIterator[Delivery]:
        """Send to all workers of these servers, from a thread."""
        async with self._turn:
            parcel = self._parcel
            if parcel is None or self._name != name:
                raise OSError("there are other weights to give by now")
            first = list(accumulate([server["workers"] for server in servers], initial=1))
            meeting = Meeting.opened(self._host, self._port, first[-1], self._limit)
            kinds = {parcel.device.type, *(server["device"] for server in servers)}
            told = meeting.told | {"outline": parcel.outline, "backend": "nccl" if kinds == {"cuda"} else "gloo"}
            lent = None
            try:
                if self.transfer == "ipc":
                    with lost("sampler.vllm_server.transfer: ipc"):
                        lent = Lent(meeting, max(map(len, parcel.buckets)), parcel.device)
                    told |= {"backend": "ipc", "handles": lent.handles}
                sending = _aside(lambda: _send(meeting, parcel, told["backend"], lent))
                try:
                    yield [{"meeting": told | {"first": rank}} for rank in first[:-1]], meeting.give_up
                finally:
                    meeting.give_up("no server waits for it any longer")
                    await sending.wait()
            finally:
                if lent is not None:
                    lent.close()
                meeting.close()

    def close(self) -> None:
        """Forget the copy."""
        self._parcel = None


def _send(meeting: Meeting, parcel: Parcel, backend: str, lent: Lent | None) -> None:
    """All of a parcel. Whoever receives it says whether it came; what fails here, they are told."""
    try:
        if lent is not None:
            meeting.gather()
        channel = lent or Broadcast(meeting, 0, backend, parcel.device)
        for bucket in parcel.buckets:
            channel.send(bucket)
    except Exception as error:
        log.warning("sampler: the weights did not reach every server: %s", error)
        meeting.give_up(f"{type(error).__name__} in the trainer: {error}")


def _aside(work: Callable[[], None]) -> asyncio.Event:
    """Have a thread do work, and set when it is done: what is stuck there keeps no process from its end."""
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="hone-weights", daemon=True).start()
    return done


def _named(version: int) -> str:
    return f"{version}-{secrets.token_hex(8)}"


def _once(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Of weights that are tied the first; all are kept, so that no address comes twice."""
    held: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    for name, weight in weights:
        place = weight.data_ptr(), tuple(weight.shape)
        if place not in held:
            held[place] = weight
            yield name, weight
