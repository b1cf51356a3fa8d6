"""Playing for the steps of a run: each at its turn, or up to ``max_staleness`` steps ahead of the updates.

The schedule is fixed. When a step has taken its groups, those of the step ``max_staleness`` later are begun, by the
weights of that moment; while there are no updates yet, the first weights play for several. So the weights that sample
are exactly so many updates behind, whichever is faster, sampling or updating, and a run can be repeated. One step is
played at a time, in the order of the run: tasks are drawn in the same order as by a run that plays nothing ahead. Of
several processes all begin and end a step together; those that play talk to each other beside those that update.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from hone import ranks
from hone.collect import Interrupted
from hone.coming import Coming
from hone.seats import State, TaskSource
from hone.session import Session
from hone.types import Group

log = logging.getLogger("hone")


class Ahead:
    """The queue of what is played for the coming steps: at most ``max_staleness`` beside the one that is trained on.

    Args:
        config: Of the run. With ``max_staleness`` 0 a step is played when it is taken, by the caller's thread.
        session: Plays, and gives the sampler its weights.
        state: Of the run; its step is the one that is coming, or trained on.
    """

    def __init__(self, config: Any, session: Session, state: State) -> None:
        self.config, self.session, self.state, self.policy = config, session, state, session.policy
        self.most: int = config.max_staleness
        self._waiting: deque[Coming] = deque()
        self._hand: Coming | None = None
        """Taken, and not trained on yet."""
        self._worker: ThreadPoolExecutor | None = None
        self._ending = False
        """What has not begun yet does not begin any more."""
        self._spare: list[Any] = []
        self._lost = {"staleness/dropped": 0, "tokens/aside": 0}
        self._version = self.policy.version
        if self.most:
            session.detach()
            self._worker = ThreadPoolExecutor(1, "hone-ahead", initializer=ranks.aside)

    def take(self) -> Coming:
        """What was played for the coming step; where it is played ahead, others are begun in its place.

        Raises:
            Exception: What playing it raised.
        """
        self._drop_others()
        step, asked = self.state.step, time.perf_counter()
        if not self._waiting:
            self._begin(step)
        if self._worker is None:
            self._play(self._waiting[0])
        else:
            self._waiting[0].done.result()
            self._waiting[0].seconds["wait"] = time.perf_counter() - asked
        self._hand = self._waiting.popleft()
        for later in range(step + 1 + len(self._waiting), min(step + self.most + 1, self.state.steps)):
            self._begin(later)
        return self._hand

    def trained(self) -> None:
        """What was taken is trained on, and the weights are others now."""
        self._hand, self._version = None, self.policy.version
        self.publish()

    def publish(self) -> None:
        """Give the sampler the weights as they are; where it plays ahead, that waits for what is begun next."""
        if not self.most:
            self.session.publish()

    def play(self, *given: Any, **named: Any) -> list[Group]:
        """Play outside of training, by the weights as they are, behind what is under way; as the collector does."""
        self._drop_others()
        self._settle()
        self.session.publish()
        return self.session.collector.play(*given, **named)

    def undo(self) -> None:
        """Forget what was taken and what waits, as if it had not been played: its tasks are drawn again."""
        self._ending = True
        self._settle()
        for coming in reversed([*([self._hand] if self._hand else []), *self._waiting]):
            if coming.cursor is not None:
                self._source(coming.step).load_state_dict(coming.cursor)
        self._waiting.clear()
        self._hand, self._ending = None, False

    def drop(self) -> None:
        """Forget what waits, for the run has left the weights that it was played by; its tasks are drawn again."""
        hand, self._hand = self._hand, None
        waited = list(self._waiting)
        self.undo()
        self._hand = hand
        groups = [group for coming in waited for group in coming.groups]
        self._lost["staleness/dropped"] += len(groups)
        self._lost["tokens/aside"] += sum(group.generated for group in groups)
        if groups:
            log.warning("%d groups were sampled by weights that the run has left: they are played again", len(groups))

    def told(self, coming: Coming, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics of how old the groups of a step were, and of what was dropped since the step before."""
        if not self.most:
            return {}
        lost, self._lost = self._lost, dict.fromkeys(self._lost, 0)
        told = {"staleness/updates": float(coming.behind)}
        return told | {name: metrics.get(name, 0) + number for name, number in lost.items() if number}

    def close(self) -> None:
        """End what is under way."""
        if self._worker is not None:
            self._ending = True
            if not all(coming.done.done() for coming in self._waiting):
                self.session.collector.cancel()
            self._worker.shutdown()

    def state_dict(self) -> dict[str, Any]:
        """The task source as it was before all that is not trained on; and what waits, which is waited for."""
        self._drop_others()
        self._settle()
        hand = self._hand if self._hand and self._hand.groups else None
        first = hand or next(iter(self._waiting), None)
        cursor = first.cursor if first and first.cursor is not None else self._source(self.state.step).state_dict()
        if not self.most:
            return {"tasks": cursor}
        whole = []
        for coming in self._waiting if hand is None else ():
            if coming.done.cancelled() or coming.done.exception():
                break
            whole.append(coming.state_dict())
        return {"tasks": cursor, "ahead": {"waiting": whole, "lost": dict(self._lost)}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on there; what waited and is of other tasks now, or too old, is played again."""
        self._source(self.state.step).load_state_dict(saved["tasks"])
        held = saved.get("ahead", {"waiting": [], "lost": self._lost})
        self._lost, self._version = dict(held["lost"]), self.policy.version
        for waited in held["waiting"]:
            young = waited["step"] - waited["updates"] <= self.most
            coming = Coming.restored(waited, self._source(waited["step"])) if young else None
            if coming is None:
                break
            self._waiting.append(coming)

    def _source(self, step: int) -> TaskSource:
        return self.config.at(step).tasks

    def _drop_others(self) -> None:
        """Where anything but an update has changed the weights, what waits is of a run that is no more."""
        if self.policy.version != self._version:
            self._version = self.policy.version
            self.drop()

    def _settle(self) -> None:
        """Wait until nothing is under way."""
        wait([coming.done for coming in self._waiting if coming.done is not None])

    def _begin(self, step: int) -> None:
        coming = Coming(step, self.state.step, self.policy.version, self._weights())
        self._waiting.append(coming)
        if self._worker is not None:
            coming.done = self._worker.submit(self._play, coming)

    def _weights(self) -> Any:
        """Give the sampler the weights as they are, or if it is busy with others, a copy for when it is not."""
        if self._waiting and self._waiting[-1].version == self.policy.version:
            return None
        if all(ranks.each(lambda: all(coming.done.done() for coming in self._waiting))):
            self.session.publish()
            return None
        copy = self._spare.pop() if self._spare else self.policy.twin()
        return copy.follow(self.policy)

    def _refuse_to_begin(self) -> None:
        if self._ending:
            raise Interrupted("nothing more is begun")

    def _play(self, coming: Coming) -> None:
        if self.most:
            ranks.each(self._refuse_to_begin)  # where one does not begin, the others would wait for it
        try:
            if coming.copy is not None:
                self.session.publish(coming.copy)
                self._spare.append(coming.copy)
                coming.copy = None
            coming.play(self.config.at(coming.step), self.session.collector)
            if not self.most:
                self.session.rest()
        except BaseException:
            self._ending = True  # what comes behind would draw the wrong tasks
            raise
