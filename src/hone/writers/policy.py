"""A policy as a writer: that of the run, or a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

from pydantic import Field

from hone.seats import Player, Policy, Sampler, SamplingParams, settings
from hone.types import Message


@settings
class Shown:
    """A request and the reply that it should get, shown to a writer before its own.

    Attributes:
        prompt: The user's message.
        response: The assistant's message.
    """

    prompt: str
    response: str


@settings
class PolicyWriter:
    """Writes with one of our samplers. A small model needs examples to write in the form that is asked for.

    Attributes:
        model: The policy that writes; None is the run's, as it is when it writes.
        sampler: Of that policy.
        sampling: How it writes.
        system: A system message for it.
        examples: Turns before the request.
    """

    model: Policy | None = None
    sampler: Sampler | None = None
    sampling: SamplingParams = Field(default_factory=lambda: SamplingParams(max_tokens=1024))
    system: str | None = None
    examples: list[Shown] = Field(default_factory=list)

    _player: Any = field(default=None, init=False, repr=False, compare=False)
    _loaded: bool = field(default=False, init=False, repr=False, compare=False)
    tokens: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.model is None) != (self.sampler is None):
            raise ValueError(
                "model and sampler: give both, for a sampler samples from one policy; or none, for the run's"
            )

    @property
    def name(self) -> str:
        """The model's name; of the run's policy also a hash of its weights, for they change."""
        if self.model is not None:
            return f"policy {getattr(self.model, 'path', type(self.model).__name__)}"
        return f"policy {self._player.fingerprint()}" if self._player is not None else "policy"

    def bind(self, player: Player) -> None:
        """Take the player; a model of its own is loaded when it first writes."""
        self._player, self._loaded = player, False

    async def write(self, messages: Sequence[Message], *, seed: int) -> str:
        """One reply. What was cut off at the limit of tokens comes as it is.

        Raises:
            RuntimeError: The writer is not bound, or sampling failed.
        """
        if self._player is None:
            raise RuntimeError("writer policy: bind(player) comes first")
        if self.model is not None and not self._loaded:
            self.model.load(self._player.policy.device)
            self.sampler.sync(self.model)
            self._loaded = True
        sampler = self.sampler or self._player.sampler
        context = sampler.renderer.prompt([*self._before(), *messages])
        completion = await sampler.sample([context], replace(self.sampling, seed=seed))
        if completion.stop == "error":
            raise RuntimeError(f"{self.name}: sampling failed")
        if self.model is None:
            self.tokens[seed] = sum(map(len, completion.segments))
            self._player.sampled += self.tokens[seed]
        return completion.text

    def _before(self) -> list[Message]:
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        shown = ((("user", one.prompt), ("assistant", one.response)) for one in self.examples)
        return system + [{"role": role, "content": text} for turns in shown for role, text in turns]
