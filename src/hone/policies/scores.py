"""From rows to the log-probability and entropy of each masked step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hone import compiling, masks
from hone.policies import head
from hone.policies.sequence import Split

if TYPE_CHECKING:
    from hone.policies.causal_lm import CausalLM


def scored(policy: CausalLM, inputs: Mapping[str, Any], mask: Tensor, temperature: float, processes: int) -> Tensor:
    """The two of each masked step, ``[2, N]``; where the row lies over several processes, all have to call it."""
    rows, steps = mask.nonzero(as_tuple=True)
    before, targets = inputs["previous"][rows, steps], inputs["input_ids"][rows, steps]
    if processes == 1:
        return _read(policy, hidden(policy, inputs)[rows, before], targets, temperature)
    split = Split(processes, mask.shape[1])
    own = split.own(before)
    selected = hidden(policy, inputs, split)[rows[own], before[own] - split.start]
    return split.assembled(_read(policy, selected, targets[own], temperature), own)


def hidden(policy: CausalLM, inputs: Mapping[str, Any], split: Split | None = None) -> Tensor:
    """The states that the head reads, ``[B, T, D]``; of a row that is split, those that lie here."""
    ids, positions, end, extra = inputs["input_ids"], inputs["position_ids"], inputs["end"], {}
    mask = None
    if "tree" in inputs:
        extra = {masks.TREE: inputs["tree"]}
        nothing = torch.ones(1, 1, 1, dtype=torch.bool, device=end.device)  # nobody looks at it, and none is made
        mask = masks.by_layer(policy.text_config, nothing, positions[:, :1], positions[:, :1])
    elif (end != end.amax(-1, keepdim=True)).logical_and(end > 0).any():
        mask = masks.by_layer(policy.text_config, masks.tree(end), positions, positions)
    # Otherwise plain causal attention is right: padding comes last and is seen by nobody.
    if split:
        extra = {masks.TREE: replace(inputs["tree"], split=split)}
        ids, positions = split.part(ids), split.part(positions)
    return policy.backbone(
        input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False, **extra
    ).last_hidden_state


def _read(policy: CausalLM, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    size, kind = (policy.text_config.vocab_size, policy.model.dtype.itemsize), states.device.type
    chunk, keep = head.budget(*size, policy.head_memory_mb, kind, compiling.works(kind))
    trained = [p for p in policy.causal_lm.get_output_embeddings().parameters() if p.requires_grad]
    how = {"parameters": trained, "chunk": chunk, "keep": keep}
    return torch.stack(head.chunked(policy.logits, states, targets, temperature, **how))
