"""A policy that no longer learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hone.shards import kept, placed
from hone.types import Batch, Scores

if TYPE_CHECKING:
    from hone.policies.causal_lm import CausalLM


class FrozenLM:
    """A reference policy: a model as it was, until it takes over the trainable weights of another moment.

    Under a full fine-tune it is a second model. Where only adapters train it costs their size at most: at first it is
    the base model, with the adapters disabled, and once it has taken over weights it is the base model with a frozen
    copy of those adapters, which stand in the place of the live ones while it scores. Disabling the adapters would
    then be wrong. So nothing else may use the model at the same time.

    Its values are those that the model computes with: weights in float32 are rounded as they are for the policy, so
    that the two agree bit for bit right after the policy's weights were taken over.
    """

    def __init__(self, policy: CausalLM) -> None:
        self.policy = policy
        self._names = set(policy.masters.pairs)
        self._adapters: dict[str, Tensor] = {}
        """With LoRA: the frozen adapters, once there are any."""
        self._initial = True
        if not policy.lora:
            self.policy = policy.twin()
            self.policy.split()
            self.policy.model.requires_grad_(False)

    @torch.no_grad()
    def score(self, batch: Batch) -> Scores:
        """Log-probabilities and entropies of the batch's masked steps, by the frozen weights."""
        if not self.policy.lora:
            return self.policy.score(batch)
        with self._swapped() if self._adapters else self.policy.model.disable_adapter():
            return self.policy.score(batch)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that were taken over, in the model's precision; empty for the initial policy."""
        return {} if self._initial else {name: kept(weight) for name, weight in self._frozen()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the values of trainable weights, in place; an empty state leaves an initial policy as it is.

        Raises:
            ValueError: If the names are not those of this model's trainable weights.
        """
        if self._initial and not state:
            return
        if state.keys() != self._names:
            strange = sorted(state.keys() ^ self._names)[:3]
            raise ValueError(f"the reference cannot take over these weights: the names differ in {strange}")
        if self.policy.lora and not self._adapters:
            self._adapters = {name: torch.empty_like(weight) for name, weight in self._trainable()}
        for name, weight in self._frozen():
            weight.copy_(placed(state[name], weight))
        self._initial = False

    def _frozen(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of the reference that another moment may replace."""
        return iter(self._adapters.items()) if self.policy.lora else self._trainable()

    def _trainable(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, w.detach()) for name, w in self.policy.model.named_parameters() if name in self._names)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        """The frozen adapters in the place of the live ones: values are copied, for a shard must stay where it is."""
        live = {name: weight.clone() for name, weight in self._trainable()}
        try:
            for name, weight in self._trainable():
                weight.copy_(self._adapters[name])
            yield
        finally:
            for name, weight in self._trainable():
                weight.copy_(live[name])
