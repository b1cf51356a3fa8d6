"""A row's steps over several processes: each holds a part of them, and inside attention a part of its heads.

The layers but for attention look at one step at a time, so a process computes them for its own steps. Before attention
it gives its steps of each head to the process that has the head, and gets those of the others for its own; behind it
they go back. (DeepSpeed-Ulysses, arXiv:2309.14509.) So what a process keeps of a row shrinks with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from hone import ranks

WHOLE = {"dynamic", "longrope"}
"""Kinds of rotary positions whose frequencies follow the largest position, which a part of a row does not know."""
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Split:
    """How the ``length`` steps of a row lie over ``size`` processes: equal parts, the last one padded."""

    size: int
    length: int

    @property
    def width(self) -> int:
        """Steps of a part."""
        return -(-self.length // self.size)

    @property
    def start(self) -> int:
        """The first step of this process's part."""
        return self.width * (ranks.index() % self.size)

    def part(self, steps: Tensor) -> Tensor:
        """``[1, T] -> [1, T / size]``: what of the steps lies here."""
        return self._padded(steps, 1)[:, self.start : self.start + self.width]

    def own(self, steps: Tensor) -> Tensor:
        """Which of the steps, given by their places in the row, lie here."""
        return (steps >= self.start) & (steps < self.start + self.width)

    def attend(self, over: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of all steps for a part of the heads, in exchange for that of a part of the steps for all.

        Args:
            over: ``[1, heads, T, D]`` three times, to ``[1, T, heads, D]``.
            query: ``[1, heads, T / size, D]``.
            key: Likewise, of fewer heads perhaps.
            value: Likewise.

        Returns:
            ``[1, T / size, heads, D]``.
        """
        few = self.size // key.shape[1]
        if few > 1:  # processes than heads of keys: neighbours have the same
            key, value = (each.repeat_interleave(few, 1) for each in (key, value))
        return self._by_steps(over(*(self._by_heads(each) for each in (query, key, value))))

    def _by_heads(self, states: Tensor) -> Tensor:
        found = self._exchange(states[0].unflatten(0, (self.size, -1)))  # [size, heads / size, T / size, D]
        return found.transpose(0, 1).flatten(1, 2)[None, :, : self.length]

    def _by_steps(self, states: Tensor) -> Tensor:
        pieces = self._padded(states, 1)[0].unflatten(0, (self.size, -1))  # [size, T / size, heads / size, D]
        return self._exchange(pieces).transpose(0, 1).flatten(1, 2)[None]

    def _exchange(self, pieces: Tensor) -> Tensor:
        return _Exchange.apply(pieces, self.size)

    def _padded(self, steps: Tensor, axis: int) -> Tensor:
        return pad(steps, [0, 0] * (steps.ndim - 1 - axis) + [0, self.width * self.size - self.length])

    def assembled(self, values: Tensor, own: Tensor) -> Tensor:
        """``[2, n] -> [2, N]``: what every process has computed of the steps that are its ``own``, ``[N]``."""
        return _Assembled.apply(values, own, self.size)


class _Exchange(torch.autograd.Function):
    """The i-th piece goes to the i-th process, and a piece of each comes back; so does its gradient."""

    @staticmethod
    def forward(ctx: Any, pieces: Tensor, size: int) -> Tensor:
        ctx.size = size
        found = torch.empty_like(pieces, memory_format=torch.contiguous_format)
        distributed.all_to_all_single(found, pieces.contiguous(), group=ranks.neighbours(size))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradient, ctx.size), None


class _Assembled(torch.autograd.Function):
    """Every process goes on with all values, and to the same loss: each takes the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, own: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(own)
        found = values.new_zeros(len(values), len(own))
        found[:, own] = values
        return ranks.together(found, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [own] = ctx.saved_tensors
        return gradient[:, own], None, None


def _rotary(config: Any) -> set[str]:
    """The kinds of rotary positions that a model has, perhaps by kind of layer."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [part for part in (given, *given.values()) if isinstance(part, Mapping)]
    return {str(part.get("rope_type", part.get("type"))) for part in parts}


def refuse(config: Any, size: int) -> None:
    """Refuse a model whose steps cannot lie over so many processes.

    Args:
        config: Of the text model.
        size: Processes.

    Raises:
        ValueError: It names the setting, and what could be set.
    """
    where = f"update.sequence_parallel: {size}"
    if kinds := _rotary(config) & WHOLE:
        raise ValueError(f"{where}: the model's positions ({', '.join(kinds)}) depend on how long the whole row is")
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    fits = [n for n in range(1, heads + 1) if heads % n == 0 and (keys % n == 0 or n % keys == 0)]
    if size not in fits:
        those = ", ".join(map(str, fits))
        raise ValueError(f"{where}: the model has {heads} heads of queries and {keys} of keys; give one of {those}")


def prepare(policy: Any, size: int) -> None:
    """Make ready to score with so many processes, all of which call this.

    Raises:
        ValueError: If they do not come out even, or the model is refused.
    """
    where = f"update.sequence_parallel: {size}"
    if ranks.count() % size:
        raise ValueError(f"{where}: the run has {ranks.count()} processes, which is no multiple of it")
    if not (policy.packs and policy.shares_context):
        raise ValueError(f"{where}: {policy.path!r} does not attend over packed rows, which alone can be spread")
    refuse(policy.text_config, size)
    ranks.neighbours(size)
