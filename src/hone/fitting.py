"""Whether objective and sampler fit: steps drawn by other probabilities than the policy's need a weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

from hone.build import describe
from hone.seats import Objective, Policy, Sampler, TaskSource


def corrected(objective: Objective, sampler: Sampler, *, stale: bool) -> Objective:
    """The objective, with a weight that corrects sampling if it has none and needs one.

    That is the one which the sampler brings (``correction``); else, where weights sample that are older than those
    which are trained (``stale``), truncated importance.
    """
    correction = getattr(sampler, "correction", None)
    if stale and not hasattr(sampler, "correction"):
        from hone.math.mismatch import truncated_importance as correction
    if correction is None or not hasattr(objective, "weights") or _corrects(objective):
        return objective
    objective = copy(objective)
    objective.weights = [*objective.weights, correction]
    return objective


def unfit_processors(objective: Objective, sampler: Sampler) -> Iterator[str]:
    """Processors that change the distribution that training samples from, where nothing makes up for it."""
    for i, processor in enumerate(getattr(sampler, "processors", ())):
        training = getattr(processor, "training", None)
        spec = describe(processor)
        where = f"sampler.processors.{i} = {spec if isinstance(spec, str) else next(iter(spec))}"
        if training is None:
            yield f"{where}: changes the distribution that is sampled, which biases the ratio of training"
        elif training == "weighted" and not _corrects(objective):
            yield (
                f"{where}: what it imposes trains with another probability than the policy's; add "
                "truncated_importance or masked_importance to objective.policy_gradient.weights"
            )


def unfit_ahead(model: Policy, tasks: Sequence[TaskSource]) -> Iterator[str]:
    """Why these cannot play ahead of the updates (``max_staleness``)."""
    from hone.session import within

    if not hasattr(model, "twin"):
        yield f"max_staleness: a {type(model).__name__} has no twin() to sample from while it learns; set 0"
    for source in (found for given in tasks for found in within(given)):
        if getattr(source, "follows_policy", False):
            yield (
                f"max_staleness: {type(source).__name__} makes its tasks by the policy as it is, which an update then "
                "changes meanwhile; set 0, or have it make its tasks before (refresh: 0)"
            )


def _corrects(objective: Objective) -> bool:
    weights = getattr(objective, "weights", ())
    return any(getattr(getattr(weight, "func", weight), "corrects_sampling", False) for weight in weights)
