"""Log-probability and entropy without ever holding full logits.

``[N, V]`` logits are the largest tensor of RL post-training: 8192 steps of a 150k vocabulary are 5 GB in fp32, several
times over. Here the head runs on a few steps at a time, and the backward pass recomputes each piece, so that memory
depends on the piece and not on length times vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def log_prob_and_entropy(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of the distribution ``softmax(logits / temperature)``, in float32 or better, and nats.

    Args:
        logits: ``[N, V]``.
        targets: ``[N]`` int64.
        temperature: Above 0.

    Returns:
        The log-probability of each target and the entropy of each distribution, both ``[N]``.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    log_probs = logits.log_softmax(-1)
    return log_probs.gather(-1, targets[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def chunked(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, temperature: float, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """:func:`log_prob_and_entropy` of ``logits(hidden)``, at most ``chunk`` steps at a time.

    Args:
        logits: ``[n, D] -> [n, V]``: the head, with whatever the model does after it.
        hidden: ``[N, D]``.
        targets: ``[N]`` int64.
        temperature: Above 0.
        chunk: Steps per piece.

    Returns:
        Log-probabilities and entropies, both ``[N]`` float32, with gradients to ``hidden`` and the head's weights.
    """

    def piece(hidden: Tensor, targets: Tensor) -> Tensor:
        # One tensor for both: a result that no loss reads would keep what it recomputes, [n, V], until the last piece.
        return torch.stack(log_prob_and_entropy(logits(hidden), targets, temperature))

    pieces = []
    for start in range(0, len(targets), chunk):
        part = hidden[start : start + chunk], targets[start : start + chunk]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(piece, *part, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(piece(*part))
    if not pieces:
        empty = hidden.sum(-1).float()
        return empty, empty
    log_probs, entropy = torch.cat(pieces, dim=1)
    return log_probs, entropy


def chunk_size(vocabulary: int, memory_mb: int) -> int:
    """Steps per piece such that the float32 logits of a piece and their three copies fit in ``memory_mb`` MiB."""
    return max(1, memory_mb * 2**20 // (4 * 4 * vocabulary))
