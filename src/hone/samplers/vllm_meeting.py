"""Where a trainer and the workers of its servers meet to hand weights over: a store of torch's, and limits of time.

The trainer opens a meeting for each transfer and tells the servers of it, who ask for its key; its name, which they
learn there too, is in front of every entry of the store. As soon as one gives up, or the trainer is gone, all do.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore

SHORTEST, LONGEST, LOOK = 0.0005, 0.02, 0.2
"""Seconds between looks whether something is done, longer the longer it takes, and whether somebody has given up."""
FOREVER = timedelta(days=365)
REACH = timedelta(seconds=30)
"""The most for a connection to the trainer, which is there before anybody is told of it."""


class Meeting:
    """The processes of one transfer.

    Args:
        store: Through which they talk.
        told: What all of them know: "host", "port", "name", "size" (processes, the trainer included) and "limit"
            (seconds for the whole transfer, or None). Plain data.
        began: When its limit began, by the monotonic clock.
    """

    def __init__(self, store: TCPStore, told: dict[str, Any], began: float) -> None:
        self._connection, self.told = store, told
        self._store = PrefixStore(told["name"], store)
        self.limit, self.size = told["limit"], told["size"]
        self._end = began + (math.inf if self.limit is None else self.limit)

    @classmethod
    def opened(cls, host: str, port: int, size: int, limit: float | None) -> Meeting:
        """As the trainer, who listens at this address alone.

        Args:
            host: Address by which the workers reach it.
            port: 0 for one that is free.
            size: Processes, the trainer included.
            limit: Seconds for the transfer; None for no limit.

        Raises:
            OSError: If it cannot listen there; it names the setting.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listening = socket.socket(family, socket.SOCK_STREAM)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen()
            port = listening.getsockname()[1]
            store = _kept(listening, host, port)
        except OSError as error:
            raise OSError(f"sampler.vllm_server.meet: cannot listen at {host}:{port}: {error}") from None
        told = {"host": host, "port": port, "name": secrets.token_hex(16), "size": size, "limit": limit}
        meeting = cls(store, told, time.monotonic())
        meeting.count("open", 1)
        return meeting

    @classmethod
    def joined(cls, told: dict[str, Any]) -> Meeting:
        """As a worker, by what the trainer told.

        Raises:
            OSError: If it cannot be reached, or has another meeting there by now.
        """
        began, limit = time.monotonic(), told["limit"]
        span = REACH if limit is None else min(REACH, timedelta(seconds=limit))
        with lost(f"the trainer at {told['host']}:{told['port']}"):
            store = TCPStore(told["host"], told["port"], is_master=False, wait_for_workers=False, timeout=span)
        meeting = cls(store, told, began)
        if not meeting.count("open"):
            raise ConnectionError("the trainer waits no longer: it has another meeting by now")
        return meeting

    @property
    def left(self) -> timedelta:
        """Until the limit, and a second more: what ends by itself then, ends behind it."""
        return FOREVER if self.limit is None else timedelta(seconds=max(0.0, self._end - time.monotonic()) + 1)

    def store(self) -> Store:
        """For a group of these processes, over a connection of its own."""
        return PrefixStore(f"{self.told['name']}/group", self._connection.clone())

    def gather(self) -> None:
        """Wait until all are here."""
        self.count("here", 1)
        self.wait(lambda: self.count("here") >= self.size, f"{self.size - 1} workers meeting the trainer")

    def count(self, name: str, more: int = 0) -> int:
        """Add to a number, which begins with 0; what it is then."""
        with lost("the trainer"):
            return self._store.add(name, more)

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Until something is done.

        Raises:
            TimeoutError: It is not, within the limit; it says ``what``.
            ConnectionError: Somebody has given up, or the trainer is gone.
        """
        look = began = time.monotonic()
        while not done():
            now = time.monotonic()
            if now > self._end:
                raise TimeoutError(f"{what} took more than {self.limit:g} s (sampler.vllm_server.patience)")
            if now >= look:
                look = now + LOOK
                if why := self._over():
                    raise ConnectionAbortedError(f"{what} was given up: {why}")
            time.sleep(min(LONGEST, max(SHORTEST, (now - began) / 8)))

    def _over(self) -> str:
        with lost("the trainer"):
            return self._store.get("over").decode() if self._store.check(["over"]) else ""

    def give_up(self, why: str) -> None:
        """Tell the others that there is nothing more to wait for; the first to do so says why."""
        if (store := self._store) is None:  # it is closed
            return
        with suppress(RuntimeError):  # who keeps the store is gone, and with it all reason to wait
            store.compare_set("over", "", why)

    def close(self) -> None:
        """As the trainer, behind all others: who is still there loses the connection."""
        self._connection = self._store = None


def _kept(listening: socket.socket, host: str, port: int) -> TCPStore:
    """A store at a socket, which is closed if there is none; torch does so itself only when it got far enough."""
    own = os.fstat(listening.fileno())
    file = listening.detach()
    try:
        with lost("the store of a transfer"):
            return TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=file)
    except OSError:
        with suppress(OSError):
            if os.path.samestat(own, os.fstat(file)):
                os.close(file)
        raise


@contextmanager
def lost(what: str) -> Iterator[None]:
    """Torch's errors of connections are RuntimeErrors; here they are ConnectionErrors that say to what."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"{what}: {str(error).splitlines()[0]}") from None


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port`` or ``[IPv6]:port``; port 0 is any.

    Raises:
        ValueError: If it is neither, or no address that others could be sent to.
    """
    plain = re.fullmatch(r"(?P<host>[^:\[\]]+)(:(?P<port>[0-9]{1,5}))?", text)
    found = plain or re.fullmatch(r"\[(?P<host>[^\[\]]+)\](:(?P<port>[0-9]{1,5}))?", text)
    host, port = (found["host"], int(found["port"] or 0)) if found else (text, 0)
    if (not plain and not _is_ip6(host)) or port > 65535 or host in ("0.0.0.0", "::"):
        raise ValueError(f"should be the trainer's address as servers reach it, host or host:port, not {text!r}")
    return host, port


def _is_ip6(host: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def own_address(host: str, port: int) -> str:
    """The address of this host by which one reaches another: nothing is sent."""
    family, kind, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        return probe.getsockname()[0]


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
