"""Floating-point operations of a step, from a model's shape."""

from __future__ import annotations

from dataclasses import dataclass

from hone.planning.work import Work
from hone.policies.hollow import Shape

BACKWARD = 2.5
"""Of attention, over its forward pass: five products for two, since the probabilities are computed again."""


@dataclass(frozen=True)
class Flops:
    """Of the update of a step, or of its sampling.

    Attributes:
        products: Of the backbone's matrix products.
        attention: Of queries with keys, and of probabilities with values.
        head: Of the output embedding.
    """

    products: float = 0.0
    attention: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        """All three."""
        return self.products + self.attention + self.head


def sampling(shape: Shape, work: Work) -> Flops:
    """2N a token of a prompt or an answer, and its attention to what is before it."""
    answered = work.sequences * work.response
    context = work.contexts / max(1, work.prompts)
    pairs = work.contexts * context / 2 + answered * (context + work.response / 2)
    return Flops(2.0 * shape.products * (work.contexts + answered), shape.pairs * pairs, 2.0 * shape.head * answered)


def update(shape: Shape, work: Work, *, keep: int, recomputed: bool, passes: int) -> Flops:
    """6N a useful token where all weights learn: 2 forward, 2 for the inputs' gradient and 2 for the weights'.

    Frozen weights need no gradient of their own. The head is counted where there is something to train, which is the
    only place where it is computed.

    Args:
        shape: Of the model.
        work: Of the step.
        keep: Steps whose logits are kept; others are computed twice.
        recomputed: Whether layers are computed again in the backward pass.
        passes: Further forward passes, of a reference or for old log-probabilities.
    """
    micros = [micro for mini in work.minibatches for micro in mini]
    tokens, pairs, trained = (sum(getattr(m, name) for m in micros) for name in ("tokens", "pairs", "trained"))
    again = sum(max(0, micro.trained - keep) for micro in micros)
    learning = min(1.0, shape.trained / max(1, shape.parameters))
    whole = shape.trained >= shape.parameters - shape.head
    forward = 2.0 * shape.products * tokens
    times = work.epochs * (1 + recomputed) + passes
    return Flops(
        products=forward * (times + work.epochs * (1 + (1.0 if whole else learning))),
        attention=shape.pairs * pairs * (times + work.epochs * BACKWARD),
        head=2.0 * shape.head * (trained * (work.epochs * (2 + shape.head_trained) + passes) + again * work.epochs),
    )
