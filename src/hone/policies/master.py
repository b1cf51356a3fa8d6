"""Float32 master weights behind a low-precision model.

A bfloat16 weight has 8 bits of mantissa: an update of 1e-5 to a weight of 0.1 rounds to nothing. The optimiser
therefore works on float32 copies, gradients are summed over micro-batches in float32, and the model gets the rounded
result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hone.shards import full, kept, placed


class MasterWeights:
    """The trainable weights in float32, for a model that may compute in a lower precision.

    A parameter that already is float32 is its own master, unless masters are to live elsewhere. For any other, each
    gradient moves to the master as soon as it is complete, is added there in float32, and leaves the model.

    Args:
        model: Its trainable weights are looked at now.
        offload: Masters live in the host's memory, and with them gradients and what the optimiser keeps.
    """

    def __init__(self, model: nn.Module, offload: bool = False) -> None:
        self.pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            master = weight
            if weight.dtype != torch.float32 or offload:
                where = torch.device("cpu") if offload else weight.device
                master = nn.Parameter(weight.detach().to(where, torch.float32, copy=True))
                weight.register_post_accumulate_grad_hook(_mover(master))
            self.pairs[name] = (weight, master)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser updates."""
        return [master for _, master in self.pairs.values()]

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for weight, master in self.pairs.values():
            if weight is not master:
                weight.copy_(master)

    def rounded(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole value of each trained weight, as :meth:`publish` rounds it."""
        for name, (weight, master) in self.pairs.items():
            yield name, full(master.detach()).to(weight.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Name to float32 weight; of sharded ones the first process has all, and the others nothing."""
        return {name: kept(master.detach()) for name, (_, master) in self.pairs.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over saved masters and publish them.

        Raises:
            ValueError: If the saved names are not this model's trainable ones.
        """
        if state.keys() != self.pairs.keys():
            strange = sorted(state.keys() ^ self.pairs.keys())[:3]
            raise ValueError(f"the checkpoint's trainable weights are not this model's; they differ in {strange}")
        for name, (_, master) in self.pairs.items():
            master.copy_(placed(state[name], master))
        self.publish()


def _mover(master: nn.Parameter):
    def move(weight: nn.Parameter) -> None:
        if master.grad is None:
            master.grad = weight.grad.to(master.device, torch.float32)
        else:
            master.grad.add_(weight.grad.to(master.device))
        weight.grad = None

    return move
