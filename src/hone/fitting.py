"""Whether objective and sampler fit: steps drawn by other probabilities than the policy's need a weight."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from hone.build import describe
from hone.seats import Objective, Sampler


def corrected(objective: Objective, sampler: Sampler) -> Objective:
    """The objective, with the weight that the sampler brings (``correction``) if it has none that corrects sampling."""
    correction = getattr(sampler, "correction", None)
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


def _corrects(objective: Objective) -> bool:
    weights = getattr(objective, "weights", ())
    return any(getattr(getattr(weight, "func", weight), "corrects_sampling", False) for weight in weights)
