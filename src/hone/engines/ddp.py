"""Data parallel: every process holds all weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor, distributed

from hone import ranks
from hone.seats import Policy, settings


@settings
class DDP:
    """Every process holds the whole policy; gradients are summed after the last micro-batch of an optimiser step.

    It is also how a run of one process computes, which has nothing to sum.

    Attributes:
        bucket_mb: MiB of gradients that travel together.
    """

    bucket_mb: int = Field(64, ge=1)

    def load(self, policy: Policy, device: torch.device) -> None:
        """Load the policy in every process.

        Raises:
            ValueError: If they did not all load the same weights.
        """
        policy.load(device)
        if fingerprint := getattr(policy, "fingerprint", None):
            sums = ranks.each(fingerprint)
            if other := [place for place, found in enumerate(sums) if found != sums[0]]:
                raise ValueError(f"model: process {other[0]} loaded other weights than the first: is it one file?")

    @torch.no_grad()
    def reduce(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum gradients over the processes, in place; every process has to call it."""
        if not ranks.several():
            return
        has = torch.tensor([weight.grad is not None for weight in parameters], dtype=torch.uint8)
        has = has.to(parameters[0].device)
        distributed.all_reduce(has, op=distributed.ReduceOp.MAX)  # some have none anywhere, and are to keep none
        for weight, somewhere in zip(parameters, has.tolist(), strict=True):
            if somewhere and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for bucket in self._buckets([weight.grad for weight in parameters if weight.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(flat)
            for gradient, values in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(values.view_as(gradient))

    def _buckets(self, gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        bucket: list[Tensor] = []
        for gradient in gradients:
            if bucket and sum(g.nbytes for g in bucket) + gradient.nbytes > self.bucket_mb * 2**20:
                yield bucket
                bucket = []
            bucket.append(gradient)
        if bucket:
            yield bucket
