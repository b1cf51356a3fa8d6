"""How parts declare their settings; the settings of a draw, and what is being drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Protocol, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from hone.keys import key


@dataclass_transform(kw_only_default=True)
def settings(cls: type) -> type:
    """Make a class a validated dataclass whose fields are its settings: keyword-only, unknown names refused."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True)
    return validated(cls, config=config, kw_only=True)


@settings
class SamplingParams:
    """How tokens are drawn.

    ``seed`` is a key, not a setting: environments derive one per sample with :meth:`keyed`.

    Attributes:
        temperature: Divides the logits; 0 is greedy.
        top_p: Keep the smallest set of tokens whose probability reaches this.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        min_p: Keep tokens at least this fraction as likely as the likeliest.
        stop: Strings that end a sample; the string itself is kept.
        max_tokens: Most tokens per sample.
        entropies: Record the entropy of each draw; a run asks for it where its objective can use it.
    """

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, lt=1)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    max_tokens: int = Field(256, ge=1)
    entropies: bool = False
    seed: int = 0

    def keyed(self, *parts: int | str) -> SamplingParams:
        """The same parameters with a seed derived from this seed and ``parts`` (task id, sibling, turn)."""
        return replace(self, seed=key(self.seed, *parts))

    @property
    def truncated(self) -> bool:
        """Whether some tokens can never be drawn, so that sampled log-probabilities are of another distribution."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


class Decoding(Protocol):
    """A sequence while it is sampled, as processors see it: hashed by identity, and the same object to its end.

    ``context`` are the token ids that it continues, ``tokens`` those drawn so far, imposed ones included. A processor's
    own randomness is keyed by ``params.seed`` and the position, as that of the draw, so that a sample does not depend
    on its neighbours.
    """

    context: Sequence[int]
    params: SamplingParams
    tokens: Sequence[int]


class Refusal(RuntimeError):
    """A hook's reason not to make an update: the step is undone, those before it are saved, and the run ends."""


def reads_reference(part: Any) -> bool:
    """Whether a part, possibly a function with its settings bound, reads the reference's log-probabilities.

    A part says so with an attribute ``reads_reference``; without it, or with a ``coefficient`` of 0, no reference
    policy is kept for its sake.
    """
    if isinstance(part, partial) and part.keywords.get("coefficient") == 0:
        return False
    return bool(getattr(part.func if isinstance(part, partial) else part, "reads_reference", False))
