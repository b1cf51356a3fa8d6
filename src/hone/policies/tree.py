"""Attention over prefix trees: many contexts and their branches end to end in one row, and no pair that a mask drops.

A row of ``T`` steps needs ``T * T`` pairs under a mask, most of which it drops again. Here each branch attends to what
it continues and to itself, siblings together: on a CPU by torch's own attention, on a GPU by its flex_attention, whose
masks are made of blocks. It stands where transformers looks for attention by name, so the model's code stays as it is;
without a :class:`Tree` it is what transformers has under "sdpa".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from hone import compiling, masks
from hone.policies.layout import spans
from hone.policies.sequence import Split
from hone.seats import Row

REFUSED = ("softcap", "s_aux", "position_bias")
"""What some models have their attention do besides; none of it is done here."""
BLOCK = 128
"""Steps of a side of the blocks that flex_attention skips, or looks at without a mask."""


@dataclass(frozen=True)
class Siblings:
    """Branches that continue the same steps, one behind the other in the row.

    Attributes:
        lengths: Of each.
        path: What they continue, by its place among the row's siblings; each is one branch.
    """

    lengths: tuple[int, ...]
    path: tuple[int, ...]

    @cached_property
    def places(self) -> Tensor:
        """Of their steps, where these are padded to the longest: ``[n * L]``."""
        longest = max(self.lengths)
        return torch.cat([torch.arange(n) + i * longest for i, n in enumerate(self.lengths)])

    def padded(self, steps: Tensor) -> Tensor:
        """Their steps, a row for each: ``[n, L, ...]``."""
        shape = len(self.lengths), max(self.lengths)
        if len(set(self.lengths)) > 1:
            steps = steps.new_zeros(shape[0] * shape[1], *steps.shape[1:]).index_copy(0, self.places, steps)
        return steps.unflatten(0, shape)

    def flat(self, rows: Tensor) -> Tensor:
        """Undo :meth:`padded`."""
        rows = rows.flatten(0, 1)
        return rows if len(set(self.lengths)) == 1 else rows.index_select(0, self.places)


@dataclass
class Tree:
    """Who sees whom in a row of prefix trees.

    Attributes:
        siblings: All of its steps, in their order.
        end: ``[T]`` int64: behind the last step that continues each step.
        positions: ``[T]`` int64.
        split: How its steps lie over processes; None for all of them here.
    """

    siblings: list[Siblings]
    end: Tensor
    positions: Tensor
    split: Split | None = None
    _masks: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, row: Row, end: Tensor, positions: Tensor) -> Tree:
        """The tree of a row, with the ``end`` and ``position_ids`` of its layout."""
        found: list[Siblings] = []
        paths: list[tuple[int, ...]] = []
        """Of what continues each branch."""
        open_ = False
        for branch, (start, stop, after, *_) in zip(row.branches, spans(row), strict=True):
            path = paths[branch.parent] if branch.parent >= 0 else ()
            lengths = (*found[-1].lengths, stop - start) if open_ and found[-1].path == path else (stop - start,)
            leaf = after == stop
            if len(lengths) > 1 and leaf and max(lengths) <= 2 * min(lengths):
                found[-1] = Siblings(lengths, path)
            else:  # padded beside a longer one, it would cost as much
                found.append(Siblings((stop - start,), path))
            open_ = leaf
            paths.append((*path, len(found) - 1))
        return cls(found, end, positions)

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made once for all layers."""
        if key not in self._masks:
            self._masks[key] = make()
        return self._masks[key]


@torch.compiler.disable
def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, ``[B, heads, T, width] -> [B, T, heads, width]``.

    Raises:
        ValueError: If the model's attention is to do something that this one does not.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    tree: Tree | None = kwargs.pop(masks.TREE, None)
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if strange := [name for name in REFUSED if kwargs.get(name) is not None]:
        raise ValueError(f"attention with {', '.join(strange)} is not known over trees")
    over = partial(by_blocks if query.is_cuda else by_siblings, tree)
    over = partial(over, scale=kwargs.get("scaling"), window=kwargs.get("sliding_window"))
    return (tree.split.attend(over, query, key, value) if tree.split else over(query, key, value)), None


def by_siblings(
    tree: Tree, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Each set of siblings by itself; the heads that share keys are queries of one head."""
    sizes = [sum(some.lengths) for some in tree.siblings]
    q, k, v = (each[0].transpose(0, 1).split(sizes) for each in (query, key, value))
    shared, found = query.shape[1] // key.shape[1], []
    for some, steps, *own in zip(tree.siblings, q, k, v, strict=True):
        length, before = max(some.lengths), sum(sizes[i] for i in some.path)
        queries = some.padded(steps).unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4)  # [n, key heads, shared, L, D]
        keys, values = (
            torch.cat([*(every[i].expand(len(queries), -1, -1, -1) for i in some.path), some.padded(each)], 1)
            for every, each in zip((k, v), own, strict=True)
        )
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if before or window:
            queries = queries.flatten(2, 3)
            mask = tree.kept((before, length, window), partial(_behind, before, length, window, query.device))
            mask = mask.repeat(shared, 1)
        else:  # causal as it is, which torch knows to make use of
            queries, mask = queries.flatten(1, 2), None
            keys, values = (each.repeat_interleave(shared, 1) for each in (keys, values))
        out = scaled_dot_product_attention(queries, keys, values, mask, is_causal=mask is None, scale=scale)
        out = out.reshape(len(out), query.shape[1], length, -1)
        found.append(some.flat(out.transpose(1, 2)))
    return torch.cat(found)[None]


def _behind(before: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """``[length, before + length]``: causal, for queries that are the last of their keys."""
    distance = torch.arange(before, before + length, device=device)[:, None] - torch.arange(
        before + length, device=device
    )
    return (distance >= 0) & (distance < window) if window else distance >= 0


def by_blocks(tree: Tree, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
    """All at once, by flex_attention: blocks of pairs of which none sees the other are not computed."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = tree.kept(window, partial(_blocks, tree.end, tree.positions, window))
    attend, shared = compiling.compiled(flex_attention, query.device), query.shape[1] != key.shape[1]
    return attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=shared).transpose(1, 2)


def _blocks(end: Tensor, positions: Tensor, window: int | None) -> Any:
    """A mask by blocks of pairs, from what each block of steps has at its ends: no pair by itself is looked at."""
    from torch.nn.attention.flex_attention import BlockMask

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (k <= q) & (q < end[k])
        return seen & (positions[q] - positions[k] < window) if window else seen

    def cut(steps: Tensor, last: int) -> Tensor:
        return nn.functional.pad(steps, (0, -len(steps) % BLOCK), value=last).view(-1, BLOCK)

    ends, first = cut(end, 0), torch.arange(0, len(end), BLOCK, device=end.device)
    queries, keys = first[:, None], first[None]
    some = (queries >= keys) & (queries < ends.amax(1))
    every = (queries > keys) & (queries + BLOCK <= ends.amin(1))
    if window:
        at = cut(positions, 0)
        some &= cut(positions, int(1e9)).amin(1)[:, None] - at.amax(1) < window
        every &= at.amax(1)[:, None] - at.amin(1) < window
    partly, wholly = (_listed(each) for each in (some & ~every, every))
    return BlockMask.from_kv_blocks(
        *partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(len(end), len(end))
    )  # fmt: skip


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row there are, and those first, ``[1, 1, n]`` and ``[1, 1, n, n]`` int32."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).int()[None, None], order.int()[None, None].contiguous()


def use(model: Any) -> None:
    """Have a transformers model attend by this file."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(masks.TREE, attention)
    AttentionMaskInterface.register(masks.TREE, sdpa_mask)
    model.set_attn_implementation(masks.TREE)
