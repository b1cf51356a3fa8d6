"""What a model must compute alike in two ways, before anything relies on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hone.policies import tree
from hone.seats import Row
from hone.types import Batch, Branch, Segment

if TYPE_CHECKING:
    from hone.policies.causal_lm import CausalLM


@torch.no_grad()
def check_head(policy: CausalLM) -> None:
    """Refuse a model whose own logits are not those of the policy's head.

    Raises:
        ValueError: If the model changes its logits in a way that hone does not know.
    """
    ids = torch.arange(1, 9, device=policy.device)[None] % policy.text_config.vocab_size
    own = policy.causal_lm(input_ids=ids, use_cache=False).logits[0].float()
    ours = policy.logits(policy.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]).float()
    if (own.log_softmax(-1) - ours.log_softmax(-1)).abs().max() > tolerance(policy):
        raise ValueError(
            f"model: {policy.path!r} ({type(policy.causal_lm).__name__}) changes its logits after the output embedding "
            "in a way that hone does not know; its log-probabilities would be wrong"
        )


def find_ways(policy: CausalLM) -> None:
    """Set what the model honours: ``takes_masks``, and ``packs``, for which it comes to attend over trees."""
    policy.takes_masks = policy.packs = False
    if policy.causal_lm._is_stateful:  # a recurrence sees every step before, whatever the mask says
        return
    apart = _apart(policy)
    policy.takes_masks = _agrees(policy, apart)
    before = policy.causal_lm.config._attn_implementation
    if policy.takes_masks and before == "sdpa":
        tree.use(policy.causal_lm)
        policy.packs = True
        if not _agrees(policy, apart):
            policy.packs = False
            policy.causal_lm.set_attn_implementation(before)


def _probe(policy: CausalLM) -> tuple[Segment, list[Segment]]:
    """A context and two branches."""
    size = policy.text_config.vocab_size
    context, *branches = (
        Segment("probe", "policy", tuple((7 * i + j) % size for i in range(3, 8)), train=j > 0) for j in range(3)
    )
    return context, branches


def _apart(policy: CausalLM) -> Tensor:
    """The scores of the branches in rows of their own, by plain causal attention."""
    context, branches = _probe(policy)
    return torch.cat([_score(policy, Branch([context, branch])) for branch in branches])


def _agrees(policy: CausalLM, apart: Tensor) -> bool:
    """Whether the two score in one row as they do apart."""
    context, branches = _probe(policy)
    try:
        together = _score(policy, Branch([context]), *(Branch([branch], parent=0) for branch in branches))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError):
        return False
    return bool((together - apart).abs().max() < tolerance(policy))


@torch.no_grad()
def _score(policy: CausalLM, *branches: Branch) -> Tensor:
    inputs = policy.encode([Row(list(branches))])
    mask = torch.tensor([[s.train for b in branches for s in b.segments for _ in s.actions]], device=policy.device)
    nothing = torch.zeros_like(mask, dtype=torch.float32)
    return policy.score(Batch(inputs, mask, nothing, nothing, mask.long(), mask.long())).logprobs[mask]


def tolerance(policy: CausalLM) -> float:
    """Between log-probabilities that are computed in two ways, nats."""
    return 1e-3 if policy.model.dtype == torch.float32 else 0.25
