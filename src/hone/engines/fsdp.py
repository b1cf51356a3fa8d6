"""Fully sharded: every process holds a part of each weight, by torch's FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from pydantic import Field
from torch import nn

from hone import ranks
from hone.seats import Policy, settings


@settings
class FSDP:
    """Weights, gradients and the optimiser's state are spread over the processes; torch gathers them layer by layer.

    Gradients are summed, not averaged, as each micro-batch's backward pass ends. For sampling a process holds a whole
    copy of the model in its precision beside its shard (of 18 bytes a weight, 2 are not spread). In a run of one
    process it changes nothing.

    Attributes:
        replicas: Groups of processes, each of which holds all weights (hybrid sharding): 1 spreads them over all
            processes; as many as there are machines keeps the gathering within each.
    """

    replicas: int = Field(1, ge=1)

    def load(self, policy: Policy, device: torch.device) -> None:
        """Load the policy, and keep a part of it in every process.

        Raises:
            ValueError: If the processes do not come out even over the replicas, or the policy cannot be sharded.
        """
        if not ranks.several():
            policy.load(device)
            return
        if "shard" not in signature(policy.load).parameters:
            raise ValueError(f"engine: a {type(policy).__name__} cannot be sharded (load(device, shard)); use ddp")
        from torch.distributed import init_device_mesh

        size, rest = divmod(ranks.count(), self.replicas)
        if rest:
            raise ValueError(f"engine.fsdp.replicas: {ranks.count()} processes do not make {self.replicas} replicas")
        shape = ((size,), ("shard",)) if self.replicas == 1 else ((self.replicas, size), ("replicate", "shard"))
        mesh = init_device_mesh(device.type, shape[0], mesh_dim_names=shape[1])
        policy.load(device, partial(self._shard, mesh))

    def _shard(
        self, mesh: Any, model: nn.Module, blocks: Iterable[nn.Module], score: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Shard a model in place; ``score``, which calls parts of it, as it may then be called."""
        from torch.distributed.fsdp import (
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        for module in (*blocks, model):
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=True,  # else weights that nobody asks the gradient of go stale
                mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
            )
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        model.score = score
        register_fsdp_forward_method(model, "score")
        forget = getattr(model, "reset_iter_state", lambda: None)  # torch before 2.13 has none

        def scored(*given: Any) -> Any:
            found = model.score(*given)
            if not torch.is_grad_enabled():
                forget()  # the order of passes, which a backward pass would have cleared
            return found

        return scored

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing: gradients were summed in the backward passes."""
