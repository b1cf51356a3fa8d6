"""Talking to the other processes of a run."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
PIECE = 4 * 2**20
"""Bytes that the store takes at a time: torch's takes 8 MiB at most."""
_second: Any = None
"""Connections for threads that talk :func:`aside`."""
_timeout: timedelta | None = None
"""After which none waits for another any longer."""
_thread = threading.local()


def connect(backend: str, timeout: timedelta) -> None:
    """Join the processes that a launcher has started, twice; after ``timeout`` none waits for another any longer."""
    global _second, _timeout
    neighbours.cache_clear()
    _timeout = timeout
    distributed.init_process_group(backend, timeout=timeout)
    _second = distributed.new_group(backend="gloo", timeout=timeout)


def aside() -> None:
    """From now on this thread talks by the second connections: what another says meanwhile does not get mixed up.

    One such thread of each process at a time.
    """
    _thread.aside = True


def several() -> bool:
    """Whether the run has more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def count() -> int:
    """How many processes the run has."""
    return distributed.get_world_size() if several() else 1


def index() -> int:
    """The place of this process among those of the run; 0 where it is alone."""
    return distributed.get_rank() if several() else 0


@cache
def neighbours(size: int) -> Any:
    """The group of ``size`` processes next to each other that this one belongs to; first, every process asks for it."""
    own, _ = distributed.new_subgroups(size, timeout=_timeout)
    return own


def together(values: Tensor, size: int) -> Tensor:
    """Values summed over :func:`neighbours`, which all call it."""
    if size > 1:
        distributed.all_reduce(values, group=neighbours(size))
    return values


def each(work: Callable[[], T]) -> list[T]:
    """What ``work`` gives in every process, in the order of :func:`index`; what it raises in one is raised in all.

    Every process has to call it. Values and errors travel pickled, from processes of the same run alone. Where several
    fail, all raise what the first of them did; an error that came from another says so by ``elsewhere``, its place. One
    that does not survive the way is a RuntimeError with its text, in all, so that all do the same about it.
    """
    if not several():
        return [work()]
    value, failure = None, None
    try:
        value = work()
    except Exception as error:
        failure = error
    found: list[Any] = [None] * count()
    line = _second if getattr(_thread, "aside", False) else None
    distributed.all_gather_object(found, (value, None if failure is None else portable(failure)), group=line)
    for place, (_, error) in enumerate(found):
        if error is not None and place == index():
            raise failure if type(error) is type(failure) else error from failure
        if error is not None:
            error.elsewhere = place
            raise error
    return [value for value, _ in found]


def first(work: Callable[[], T]) -> T:
    """What ``work`` gives in the first process, which alone does it; what it raises there is raised in all."""
    return each(lambda: None if index() else work())[0]


def summed(*values: float) -> list[float]:
    """Each number, summed over the processes."""
    return [math.fsum(column) for column in zip(*each(lambda: values), strict=True)] if several() else list(values)


def take(counter: str) -> int:
    """The next number of a counter that the processes share, from 0: no two of them get the same."""
    return _store().add(f"hone/{counter}", 1) - 1


def post(name: str, value: Any) -> None:
    """Leave something under a name that is used once, for whoever looks; unlike :func:`each`, nobody has to wait."""
    data = pickle.dumps(value)
    starts = range(0, len(data), PIECE)
    for i, start in enumerate(starts):
        _store().set(f"hone/{name}/{i}", data[start : start + PIECE])
    _store().set(f"hone/{name}", str(len(starts)))  # last: what is there is there whole


def posted(name: str) -> bool:
    """Whether something lies under a name."""
    return _store().check([f"hone/{name}"])


def fetch(name: str) -> Any:
    """What lies under a name, which is then free; it waits until there is something."""
    pieces = [f"hone/{name}/{i}" for i in range(int(_store().get(f"hone/{name}")))]
    data = b"".join(map(_store().get, pieces))
    for key in (f"hone/{name}", *pieces):
        _store().delete_key(key)
    return pickle.loads(data)


def blame(error: Exception) -> str | None:
    """Tell the others why this process ends; if one of them has done so before, what it said."""
    told = f"{type(error).__name__} in process {index()} of {count()}: {error}"
    try:
        if take("failures") == 0:
            _store().set("hone/failure", told)
            return None
        return _store().get("hone/failure").decode()
    except RuntimeError:  # the process that kept the store is gone
        return "the first process has ended"


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()


def portable(error: Exception) -> Exception:
    """The error, or one with its text if it does not survive the way to another process."""
    try:
        pickle.dumps(error)
        return copy.deepcopy(error)  # puts it together as its arrival would
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


@torch.no_grad()
def gather(values: Tensor, alike: int = 1) -> list[Tensor]:
    """The values of every process, without gradient, in the order of :func:`index`; alone, just one's own.

    Every process has to call it, with values or without: the two collectives inside wait for all of them.

    Args:
        values: ``[n, ...]``. ``n`` may differ between the processes, and be 0; type and further axes may not.
        alike: How many :func:`neighbours` have the same values, which then come once.

    Returns:
        One tensor a process, or one for all that are alike, on the device of ``values``.
    """
    if not several():
        return [values.detach()]
    if index() % alike:
        values = values[:0]
    # The backend, not the values, says where they travel: a process without any knows of no device.
    nccl = distributed.get_backend() == distributed.Backend.NCCL
    own = values.detach().to(torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu")
    lengths = [int(length) for length in _all(torch.tensor([len(own)], device=own.device))]
    padded = own.new_zeros(max(lengths), *own.shape[1:])  # collectives want equal shapes
    padded[: len(own)] = own
    return [part[:length].to(values.device) for part, length in zip(_all(padded), lengths, strict=True)][::alike]


def _all(values: Tensor) -> list[Tensor]:
    """Of every process, a tensor of the same shape."""
    found = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    if values.numel():  # of no process there is anything, and all know that
        distributed.all_gather(found, values)
    return found
