"""A policy that no longer learns."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from hone.types import Batch, Scores

if TYPE_CHECKING:
    from hone.policies.causal_lm import CausalLM


class FrozenLM:
    """A reference policy: a copy of a model as it was, or its base model where only adapters train."""

    def __init__(self, policy: CausalLM) -> None:
        self.policy = policy
        if not policy.lora:
            self.policy = copy.copy(policy)
            self.policy.model = copy.deepcopy(policy.model).requires_grad_(False)

    @torch.no_grad()
    def score(self, batch: Batch) -> Scores:
        """Log-probabilities and entropies of the batch's masked steps, by the frozen weights."""
        if not self.policy.lora:
            return self.policy.score(batch)
        with self.policy.model.disable_adapter():
            return self.policy.score(batch)
