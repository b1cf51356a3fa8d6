"""The guard of a run: a preflight before the first update, and a watchdog beside the others."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from pydantic import Field

from hone import ranks
from hone.guards import bands, memory, rewards, weights
from hone.guards.agreement import Scorer, agreement, repeatable
from hone.guards.bands import Band
from hone.guards.credit import credit
from hone.guards.finding import Finding
from hone.guards.layout import layout
from hone.guards.probe import few, uneven
from hone.guards.siblings import siblings
from hone.guards.split import split
from hone.seats import Refusal, State, settings
from hone.types import Group

log = logging.getLogger("hone")

Check = Literal[
    "agreement", "repeatable", "siblings", "layout", "split", "weights", "swapped", "credit", "constant", "missing",
    "bands", "memory",
]  # fmt: skip
Follow = Literal["stop", "warn", "ignore"]

FOLLOW: dict[Check, Follow] = {
    "agreement": "stop", "repeatable": "stop", "siblings": "stop", "layout": "stop", "split": "stop",
    "weights": "stop", "swapped": "stop", "credit": "warn", "constant": "warn", "missing": "warn",
    "bands": "warn", "memory": "warn",
}  # fmt: skip
"""What follows by default: what cannot be in a sound run stops it, what may be a matter of taste is told."""

INEXACT = 0.25
"""Nats that log-probabilities computed in two ways may differ by, where a policy says nothing of its own."""

JUDGED = 16
"""Most trajectories that are judged again, unless one group has more."""


def _usual() -> dict[str, Band]:
    return {
        "entropy/mean": Band(factor=10, floor=1.0),
        "grad_norm": Band(factor=100, floor=10.0),
        "length/mean": Band(factor=10, floor=64.0),
    }


@settings
class Guard:
    """Checks what must hold in every sound run, and says what is likely wrong where it does not.

    Before the first update of a run, resumed ones too, and then before every ``every``-th: sampler and policy agree on
    the log-probabilities of what was just sampled (``agreement``); the policy scores alike twice, so that the on-policy
    ratio is 1 (``repeatable``); a batch trains the right steps (``layout``); the gradient does not depend on the split
    into micro-batches (``split``, at first only); sampler and policy hold the same finite weights (``weights``);
    answers that are judged again keep their rewards (``swapped``). On every step: answers to a task were drawn apart
    (``siblings``), advantages follow rewards (``credit``), which are not all the same (``constant``) or without verdict
    (``missing``), metrics stay in their ``bands``, and ``memory`` does not grow.

    Of what older weights have sampled, as ``max_staleness`` allows, the log-probabilities are not compared.

    A finding that stops a run does so before the update that it is about, if it can: that step is not made, and those
    before it are saved. Each step logs ``guard/findings``, and a finding ``guard/<check>``.

    Attributes:
        every: Steps between the checks that compute something; 0 for the preflight alone.
        follow: What follows on a finding, by the name of the check: "stop", "warn", "ignore". By default ``constant``,
            ``missing``, ``credit``, ``bands`` and ``memory`` warn, and all others stop.
        mismatch: Nats by which sampler and policy may differ a token, on average; None is half of what the policy's
            precision allows: 5e-4 in float32, 0.125 in bfloat16.
        patience: Steps in a row for which rewards must be all the same, or missing.
        missing: Share of a step's answers without a verdict, above which they are missing.
        bands: By metric. Given ones are added to the usual: ``entropy/mean``, ``grad_norm`` and ``length/mean`` at most
            10, 100 and 10 times the largest of the 20 steps before.
        memory_mb: MiB by which memory may grow, steadily, within ``memory_window``.
        memory_window: Steps.
    """

    every: int = Field(10, ge=0)
    follow: dict[Check, Follow] = Field(default_factory=dict)
    mismatch: float | None = Field(None, gt=0)
    patience: int = Field(20, ge=1)
    missing: float = Field(0.5, ge=0, lt=1)
    bands: dict[str, Band] = Field(default_factory=dict)
    memory_mb: float = Field(1024, gt=0)
    memory_window: int = Field(100, ge=10)

    def __post_init__(self) -> None:
        self._follow = FOLLOW | self.follow
        self._bands = _usual() | self.bands
        self._begin()

    def _begin(self) -> None:
        self._due, self._whole = True, True
        """Whether the costly checks are due out of turn, and whether the split is still to be tried."""
        self._fresh = True
        """Whether the policy's weights sampled what is trained on: by older ones its log-probabilities are others."""
        self._memory: dict[str, deque[float]] = {}
        self._told: dict[str, int] = {}
        """The step at which a check was last told of."""
        self._found: set[str] = set()

    def on_start(self, state: State) -> None:
        """The preflight lies ahead; what memory was in another process says nothing of this one."""
        self._begin()
        if state.step == 0:
            self._forget()

    def _forget(self) -> None:
        self._seen: list[rewards.Seen] = []
        self._before: dict[str, list[float]] = {}

    def before_update(self, state: State) -> None:
        """Look at what was sampled, before it is trained on.

        Raises:
            Refusal: If something is found that stops the run.
        """
        self._fresh = state.version in (None, state.policy.version)
        judged = [group for group in state.groups if any(t.trained and t.reward is not None for t in group)]
        self._tell(self._cheap(state), state, ahead=True)
        regular = self.every and (state.step + 1) % self.every == 0
        if judged and (self._due or regular):
            self._tell(self._costly(state, judged), state, ahead=True)
            self._due = False
        if self._whole and (kept := self._kept(state)):
            self._tell(self._split(state, kept), state, ahead=True)
            self._whole = False

    def on_step(self, state: State) -> None:
        """Look at what the update gave."""
        self._tell(self._after(state), state)
        state.metrics |= {"guard/findings": float(len(self._found))} | {f"guard/{name}": 1.0 for name in self._found}
        self._found = set()

    def on_end(self, state: State) -> None:
        """Nothing: everything was told when it was found."""

    def state_dict(self) -> dict[str, Any]:
        """Rewards and metrics of the last steps."""
        seen = [(s.low, s.high, s.missing, s.count) for s in self._seen]
        return {"seen": seen, "before": {name: list(values) for name, values in self._before.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._seen = [rewards.Seen(*values) for values in state["seen"]]
        self._before = {name: list(values) for name, values in state["before"].items()}

    def _cheap(self, state: State) -> Iterator[Finding | None]:
        """What is only looked up."""
        self._seen = [*self._seen, rewards.Seen.of(state.rewards)][-self.patience :]
        yield rewards.constant(self._seen, self.patience)
        yield rewards.missing(self._seen, self.patience, self.missing)
        yield siblings(state.groups)
        yield credit([group for group, keep in zip(state.groups, state.kept, strict=True) if keep])
        trained = [t for group in self._kept(state) for t in group if t.trained and t.reward is not None]
        now = state.policy.version if state.version is None else state.version
        yield weights.stale((t.version for t in trained), now)

    def _costly(self, state: State, judged: Sequence[Group]) -> Iterator[Finding | None]:
        """What is computed, on a few trajectories; the first finding that explains others comes first."""
        policy, learner = state.policy, state.learner
        yield weights.finite(policy.parameters())
        own, held = (getattr(part, "fingerprint", None) for part in (policy, state.session.sampler))
        if own and held and state.session.up_to_date():
            yield weights.alike(own(), held())
        probe = few(judged)
        tolerance = getattr(policy, "tolerance", INEXACT)
        yield layout(probe, learner.unshared(probe))
        scorer = Scorer(learner, probe)
        limit = self.mismatch or tolerance / 2
        yield repeatable(scorer, limit=limit)
        if self._fresh:
            yield agreement(scorer, limit=limit)
        yield self._judged_again(state)

    def _split(self, state: State, kept: Sequence[Group]) -> Iterator[Finding | None]:
        """Two gradients of two trajectories."""
        learner, exact = state.learner, getattr(state.policy, "tolerance", INEXACT) < 0.01
        if learner.splits(exact=exact):
            probe = [uneven(group) for group in few(kept)]
            together, apart = (learner.gradient(probe, tokens=n) for n in (learner.settings.tokens, 1))
            yield split(together, apart, limit=0.01 if exact else 0.5)

    def _kept(self, state: State) -> list[Group]:
        """The groups that are trained on, where there is something to train."""
        kept = [group for group, keep in zip(state.groups, state.kept, strict=True) if keep]
        return [group for group in kept if any(t.trained and t.reward is not None for t in group)]

    def _judged_again(self, state: State) -> Finding | None:
        """Whether a verifier gives answers the rewards that they have; one that is of two minds says nothing."""
        chosen, given = [], []
        for group, own in zip(state.groups, state.rewards, strict=True):
            fits = not chosen or len(chosen) + len(own) <= JUDGED
            if fits and None not in own and len(set(own)) > 1:
                chosen += group.trajectories
                given += own
        if not chosen:
            return None

        def judge() -> list[float] | None:
            values = [score.value for score in state.session.judge(chosen, state.verifier)]
            return None if None in values else values

        again = judge()
        found = again and rewards.swapped(given, again)
        return found if found and judge() == again else None

    def _after(self, state: State) -> Iterator[Finding | None]:
        """What the step's own metrics say, and memory."""
        metrics = state.metrics
        for metric, band in self._bands.items():
            if metric in metrics:
                before = self._before.setdefault(metric, [])
                yield bands.outside(metric, band, before, metrics[metric])
                if math.isfinite(metrics[metric]):
                    self._before[metric] = [*before, metrics[metric]][-bands.WINDOW :]
        limit = self.mismatch or getattr(state.policy, "tolerance", INEXACT) / 2
        self._due = self._due or (self._fresh and not metrics.get("mismatch/abs", 0.0) <= limit)  # before the next one
        for where, amount in memory.held().items():
            values = self._memory.setdefault(where, deque(maxlen=self.memory_window))
            values.append(amount)
            if len(values) == self.memory_window:
                yield memory.growing(where, list(values), self.memory_mb)

    def _tell(self, found: Iterable[Finding | None], state: State, *, ahead: bool = False) -> None:
        """Do what follows on each finding."""
        for finding in _of_all(found):
            follow = self._follow[finding.check] if finding else "ignore"
            if follow == "ignore":
                continue
            self._found.add(finding.check)
            if follow == "stop" and ahead:
                raise Refusal(f"guard: {finding}")
            if follow == "stop":
                state.stop = state.stop or f"guard: {finding}"
            last = self._told.get(finding.check)
            if last is None or state.step - last >= max(self.every, 1):
                log.warning("guard, step %d: %s", state.step + ahead, finding)
                self._told[finding.check] = state.step


def _of_all(found: Iterable[Finding | None]) -> Iterator[Finding | None]:
    """What each check finds, in the first process where it finds anything; what it raises in one is raised in all.

    So processes do the same about it, and none goes on alone to a check for which all are needed.
    """
    checks = iter(found)
    while all(told := ranks.each(lambda: [*islice(checks, 1)])):
        yield next((finding for [finding] in told if finding is not None), None)
