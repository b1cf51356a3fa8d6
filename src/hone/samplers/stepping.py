"""An engine that only computes when it is called, for coroutines that await samples of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from hone.samplers.vllm_compat import Answer, Engine
from hone.samplers.vllm_requests import Asking
from hone.seats import SamplingParams
from hone.types import Completion, Segment

T = TypeVar("T")


class OneThread:
    """Calls functions one after the other, in a thread that does not keep the process from ending.

    An engine is not safe for threads, and what it holds of a device is that of the thread.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a function called."""
        done: Future[T] = Future()
        self._queue.put((done, work))
        return done

    def end(self) -> None:
        """No more calls after those that are waiting."""
        self._queue.put(None)

    def _serve(self) -> None:
        while waiting := self._queue.get():
            done, work = waiting
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except BaseException as error:
                    done.set_exception(error)


@dataclass(eq=False)
class Request:
    """One sequence that is waited for."""

    id: str
    context: tuple[int, ...]
    params: SamplingParams
    done: asyncio.Future[Completion]
    version: int


class Stepper:
    """Steps an engine while somebody awaits a sample.

    Args:
        engine: With weights.
        thread: The engine's own.
        asking: How a request is put.
    """

    def __init__(self, engine: Engine, thread: OneThread, asking: Asking) -> None:
        self.engine, self.thread, self.asking = engine, thread, asking
        self._ids = itertools.count()
        self._waiting: list[Request] = []
        self._running: dict[str, Request] = {}
        self._driver: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def under_way(self) -> int:
        """Sequences that somebody waits for."""
        return sum(not request.done.done() for request in (*self._waiting, *self._running.values()))

    def close(self) -> None:
        """Let sequences under way fail."""
        self._closed = True

    async def sample(self, segments: Sequence[Segment], params: SamplingParams, version: int) -> Completion:
        """Continue ``segments`` with the engine's weights, which are those of ``version``."""
        context = self.asking.context(segments, params)
        loop = asyncio.get_running_loop()
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not loop:
            self._forget()  # what a loop that was stopped midway has left
            self._driver = loop.create_task(self._drive())
        request = Request(str(next(self._ids)), context, params, loop.create_future(), version)
        self._waiting.append(request)
        return await request.done  # whoever cancels this cancels the future, and the engine drops the request

    async def _drive(self) -> None:
        """Let the engine compute until nobody waits; an error goes to everybody who does."""
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # let siblings line up, so that the first pass serves them all
            while self._waiting or self._running:
                if self._closed:
                    raise RuntimeError("sampler: it was closed while this sequence was under way")
                entering, self._waiting = self._waiting, []
                self._running |= {request.id: request for request in entering}
                for name, answer in await asyncio.wrap_future(self.thread.submit(partial(self._turn, entering))):
                    self._finish(self._running.pop(name), answer)
                self._running = {name: request for name, request in self._running.items() if not request.done.done()}
        except Exception as error:
            for request in (*self._waiting, *self._running.values()):
                if not request.done.done():
                    request.done.set_exception(error)
        finally:
            self._forget()

    def _turn(self, entering: Sequence[Request]) -> list[tuple[str, Answer | Exception]]:
        """In the engine's thread: step until something is finished, given up or new."""
        refused: list[tuple[str, Answer | Exception]] = []
        for request in entering:
            try:
                self.engine.add(request.id, request.context, self.asking.of(request.params))
            except Exception as error:
                refused.append((request.id, error))
        while not (refused or self._waiting or self._closed):
            self.engine.keep({name for name, request in self._running.items() if not request.done.done()})
            if not self.engine.busy:
                break
            if answers := self.engine.step():
                return [(answer.id, answer) for answer in answers]
        return refused

    def _finish(self, request: Request, answer: Answer | Exception) -> None:
        if request.done.done():
            return
        try:
            if isinstance(answer, Exception):
                raise answer
            parts = (answer.tokens, answer.logprobs, answer.reason)
            request.done.set_result(self.asking.completion(*parts, request.params, request.version))
        except Exception as error:
            request.done.set_exception(error)

    def _forget(self) -> None:
        """Give up whoever is left; the engine drops them in its next turn, or when it takes weights."""
        for request in (*self._waiting, *self._running.values()):
            request.done.cancel()  # does nothing to those that have their error
        self._waiting, self._running = [], {}
