"""Whether sampler and policy give the same steps the same log-probabilities; and if not, what would explain it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, pstdev
from typing import Any

import torch

from hone import collate
from hone.guards import shift
from hone.guards.finding import Finding
from hone.types import Group

Steps = Sequence[Sequence[float]]
"""A number for each trained step of each trajectory."""


@dataclass(frozen=True)
class Scorer:
    """The policy's own word on the trained steps of groups, at any temperature.

    Attributes:
        learner: Of the policy as it is now; it lays the groups out.
        groups: Judged, with trained steps.
    """

    learner: Any
    groups: Sequence[Group]

    @torch.no_grad()
    def __call__(self, temperature: float | None = None, *, read: str = "logprobs") -> list[list[float]]:
        """``logprobs`` or ``entropy`` of every trained step, by trajectory, in nats."""
        found: dict[int, list[float]] = {}
        for batch in self.learner.unshared(self.groups, temperature=temperature):
            found |= collate.spread(getattr(self.learner.policy.score(batch), read), batch)
        return [found[index] for index in sorted(found)]

    @cached_property
    def scored(self) -> list[list[float]]:
        """Log-probabilities at the temperature of sampling, computed once."""
        return self()

    @property
    def sampled(self) -> list[list[float]]:
        """What the sampler recorded of the same steps."""
        judged = [t for group in self.groups for t in group if t.trained and t.reward is not None]
        return [[value for s in t.segments if s.train for value in s.logprobs] for t in judged]


def agreement(scorer: Scorer, *, limit: float) -> Finding | None:
    """Compare the two.

    Args:
        scorer: Of a few trajectories that were sampled by the weights as they are.
        limit: Nats, of the mean absolute difference.
    """
    sampled, scored = scorer.sampled, scorer.scored
    found = gap(sampled, scored)
    if found <= limit:
        return None
    cause, look = next(_explanations(scorer, sampled, scored, found), _UNKNOWN)
    evidence = (
        f"log-probabilities of sampler and policy differ by {found:.3g} nats a token, over the limit of {limit:.3g} "
        f"({sum(map(len, sampled))} tokens)"
    )
    return Finding("agreement", evidence, cause, look)


def repeatable(scorer: Scorer, *, limit: float) -> Finding | None:
    """Whether the policy scores the same steps alike twice: else no ratio is 1, not even on-policy."""
    found = gap(scorer.scored, scorer())
    if found <= limit:
        return None
    evidence = f"scored twice, the same tokens differ by {found:.3g} nats on average: the on-policy ratio is not 1"
    cause = "the model draws at random while it scores: dropout, for it is in training mode, or noise of its own"
    return Finding("repeatable", evidence, cause, "model: call .eval() behind .train(); dropout in its config.json")


def gap(one: Steps, other: Steps) -> float:
    """Mean absolute difference in nats; infinite if something is not finite or not there."""
    if [len(values) for values in one] != [len(values) for values in other]:
        return math.inf
    found = [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    mean = fmean(found) if found else 0.0
    return mean if math.isfinite(mean) else math.inf


_UNKNOWN = (
    "the sampler has other weights than the policy, or reads another context (template, positions, a processor)",
    "sampler: does sync() reach it; sampler.processors; the chat template",
)


def _explanations(scorer: Scorer, sampled: Steps, scored: Steps, found: float) -> Iterator[tuple[str, str]]:
    """Causes under which the difference (nearly) goes away, each tried out."""

    def explains(one: Steps, other: Steps) -> bool:
        return gap(one, other) < found / 10

    if not all(math.isfinite(value) for values in scored for value in values):
        yield "the policy's weights are not finite", "optimizer.lr, model.dtype; update.on_bad: rollback goes back"
    if [len(v) for v in sampled] != [len(v) for v in scored] or not all(math.isfinite(v) for vs in sampled for v in vs):
        yield "the sampler did not record log-probabilities, or they are not finite", "sampler"
        return
    for by in (1, -1):
        if explains(*zip(*(_moved(a, b, by) for a, b in zip(sampled, scored, strict=True)), strict=True)):
            where = "behind" if by > 0 else "before"
            yield f"the sampler's log-probabilities are shifted: each is that of the token {where} its own", "sampler"
    if _normalised_twice(sampled, scored):
        yield "the sampler takes the softmax twice: it normalised probabilities, not logits", "sampler, its draw"
    heat = scorer.learner.temperature
    if heat != 1.0:
        if explains(sampled, scorer(heat * heat)):
            yield "the sampler applies the temperature twice", "sampler; sampling.temperature"
        if explains(sampled, scorer(1.0)):
            yield "the sampler leaves the temperature out of its log-probabilities", "sampler; sampling.temperature"
        if explains(sampled, scorer(math.sqrt(heat))):
            yield "the policy applies the temperature twice", "model, its score(); sampling.temperature"
    if not gap(scored, scorer(2 * heat)):
        yield "the policy leaves the temperature out of its log-probabilities", "model, its score()"
    if wrong := shift.wrong(scorer.learner, scorer.groups):
        yield wrong, "model: its score() and encode(), the step before each action"


def _moved(sampled: Sequence[float], scored: Sequence[float], by: int) -> tuple[Sequence[float], Sequence[float]]:
    """The two, where the sampler's number of a step is held against the policy's of the step ``by`` further on."""
    return (sampled[:-1], scored[1:]) if by > 0 else (sampled[1:], scored[:-1])


def _normalised_twice(sampled: Steps, scored: Steps) -> bool:
    """Whether ``log softmax(p)`` was recorded: that is ``p``, less the log of a sum that is nearly constant."""
    rests = [a - math.exp(b) for x, y in zip(sampled, scored, strict=True) for a, b in zip(x, y, strict=True)]
    spread = [b for values in scored for b in values]
    return len(rests) > 2 and pstdev(rests) < 0.1 and pstdev(spread) > 0.5
