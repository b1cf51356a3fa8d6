"""Probability that is moved from some tokens to one, in the logits: what a decoding method imposes, exactly.

A method that draws a token and then puts another in its place draws from a distribution of its own; written into the
logits, its probabilities are known. All three functions work in place on chosen rows of ``[B, V]`` logits that are not
divided by the temperature yet, ``pi = softmax(logits / temperature)``, and are exact where nothing is truncated behind
them (top-p, top-k and min-p of the new distribution are not those of the old one).
"""

import torch
from torch import Tensor


def force(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """``mu(token) = 1``; a row that bans its token already is left as it is.

    Args:
        logits: ``[B, V]``, changed in place.
        rows: ``[N]`` int64: which rows.
        tokens: ``[N]`` int64: for each its token.
    """
    kept = logits[rows, tokens][:, None]
    only = torch.full_like(logits[rows], -torch.inf).scatter_(1, tokens[:, None], kept)
    logits[rows] = torch.where(kept == -torch.inf, logits[rows], only)
    return logits


def move(logits: Tensor, rows: Tensor, sources: Tensor, target: int, temperature: Tensor) -> Tensor:
    """``mu(target) = pi(target) + sum over sources of pi``, ``mu(source) = 0``: each drawn source becomes the target.

    ``logit(target) = T logsumexp(logits[target, *sources] / T)``, whose limit at a temperature of 0 is their maximum.

    Args:
        logits: ``[B, V]``, changed in place.
        rows: ``[N]`` int64: which rows.
        sources: ``[K]`` int64, the target not among them.
        target: The token that takes their mass.
        temperature: ``[N]``, 0 for greedy rows.
    """
    held = torch.cat([logits[rows, target][:, None], logits[rows[:, None], sources]], 1).double()
    warm = torch.where(temperature > 0, temperature, 1.0).double()[:, None]
    mass = torch.where(temperature > 0, (warm * (held / warm).logsumexp(1, keepdim=True))[:, 0], held.amax(1))
    logits[rows[:, None], sources] = -torch.inf
    logits[rows, target] = mass.to(logits.dtype)
    return logits


def mix(logits: Tensor, rows: Tensor, target: int, share: Tensor, temperature: Tensor) -> Tensor:
    """``mu(target) = s + (1 - s) pi(target)``, ``mu(x) = (1 - s) pi(x)``: with probability s the target, whatever else.

    Only the target's logit changes, to ``T log(s / (1 - s) Z + exp(logit / T))``, ``Z`` the sum of ``exp(logits / T)``;
    with ``s = 1`` the others are banned.

    Args:
        logits: ``[B, V]``, changed in place.
        rows: ``[N]`` int64: which rows.
        target: The token that is mixed in.
        share: ``[N]``: s, in [0, 1].
        temperature: ``[N]``, above 0.
    """
    scaled = logits[rows].float() / temperature.float()[:, None]
    odds = share.double().log() - torch.log1p(-share.double())
    mass = temperature * torch.logaddexp(odds + scaled.logsumexp(1), scaled[:, target].double())
    logits[rows, target] = torch.where(share < 1, mass.to(logits.dtype), logits[rows, target])
    sure = rows[share == 1]
    return force(logits, sure, torch.full_like(sure, target))
