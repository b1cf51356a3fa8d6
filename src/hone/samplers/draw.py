"""From logits to tokens, with noise that is keyed and not sequential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hone.seats import SamplingParams

BLOCK = 128
ROWS = 4


@dataclass
class Rules:
    """The sampling parameters of the rows of one decode step, as ``[B]`` tensors."""

    seed: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    truncated: bool
    greedy: bool
    entropies: bool

    @classmethod
    def stack(cls, params: Sequence[SamplingParams], device: torch.device) -> Rules:
        """One row for each of ``params``, on ``device`` or, where that has no float64, on the CPU."""
        device = torch.device("cpu") if device.type == "mps" else device

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(p, name) for p in params], dtype=dtype, device=device)

        return cls(
            seed=column("seed", torch.int64),
            temperature=column("temperature", torch.float32),
            top_p=column("top_p", torch.float32),
            top_k=column("top_k", torch.int64),
            min_p=column("min_p", torch.float32),
            truncated=any(p.truncated for p in params),
            greedy=any(p.temperature == 0 for p in params),
            entropies=any(p.entropies and not p.truncated for p in params),
        )


class Drawn(NamedTuple):
    """One token a row.

    Attributes:
        tokens: ``[B]`` int64.
        logprobs: ``[B]`` float32, of the distribution that was drawn from; NaN where a row is none.
        entropies: ``[B]`` float64 in nats, of the same distribution; None where the rules ask for none.
    """

    tokens: Tensor
    logprobs: Tensor
    entropies: Tensor | None = None


def draw(logits: Tensor, rules: Rules, position: Tensor) -> Drawn:
    """Draw one token a row by inverting the cumulative distribution at a keyed uniform number.

    The number depends on (seed, position) alone, so a row draws the same token whatever else is in the batch. A
    temperature of 0 takes the likeliest token, and its log-probability is that at temperature 1.

    Args:
        logits: ``[B, V]``, any float type, any device.
        rules: Of ``B`` rows.
        position: ``[B]`` int64: how many tokens the row has sampled before; where the rules are.
    """
    temperature = torch.where(rules.temperature == 0, 1.0, rules.temperature)[:, None]
    rows, size = logits.shape
    scaled = temperature.new_empty(rows, size + -size % BLOCK)  # in place from here on: [B, V] in float32 is large
    scaled[:, :size], scaled[:, size:] = logits, -torch.inf
    scaled.div_(temperature)
    if rules.truncated:
        scaled = truncate(scaled, rules)
    highest = scaled.amax(-1, keepdim=True)
    likeliest = scaled.argmax(-1) if rules.greedy else None
    weights = scaled.sub_(highest).exp_()
    tokens, total = _invert(weights, uniform(rules.seed, position))
    tokens = tokens.clamp(max=size - 1)  # of a row that is no distribution
    if likeliest is not None:
        tokens = torch.where(rules.temperature == 0, likeliest, tokens)
    chosen = logits.gather(-1, tokens[:, None].to(logits.device)).to(temperature.device).float() / temperature
    logprobs = (chosen - highest)[:, 0] - total.log().float()
    if not rules.entropies:
        return Drawn(tokens, logprobs)
    mean = _expected(logits, weights[:, :size], total) / temperature[:, 0]
    return Drawn(tokens, logprobs, highest[:, 0] + total.log() - mean)


def fetched(drawn: Drawn) -> tuple[list[int], list[float], list[float]]:
    """All on the host, in one transfer: the only time in a decode step that it waits for the device.

    Raises:
        FloatingPointError: If a row was no distribution.
    """
    numbers, values, *entropies = torch.stack([x.double() for x in drawn if x is not None]).tolist()  # exact for each
    if not all(map(math.isfinite, values)):
        raise FloatingPointError("sampler: the logits are NaN, infinite or all -inf; blame the weights or a processor")
    return [int(number) for number in numbers], values, entropies[0] if entropies else []


def _expected(logits: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """The mean of ``[B, V]`` logits under weights of which ``[B]`` are the sums; ``[B]`` float64.

    A few rows at a time: on a CPU, another ``[B, V]`` of new memory costs more than all that is done with it.
    """
    lowest = torch.finfo(torch.float32).min  # 0 times -inf is no number
    parts = zip(logits.split(ROWS), weights.split(ROWS), strict=True)
    sums = [torch.linalg.vecdot(w, part.to(w, copy=True).clamp_(min=lowest)) for part, w in parts]
    return torch.cat(sums).double() / total


def _invert(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The token at which the cumulative weight passes ``u`` times the total: first the block of tokens, then in it.

    Two short cumulative sums in float64 are both faster and more exact than one over the whole vocabulary; only the
    sums of single blocks are float32, as the weights are.

    Args:
        weights: ``[B, V]`` float32, whole blocks.
        u: ``[B]`` float64, in [0, 1).

    Returns:
        Tokens ``[B]`` int64 and the total weights ``[B]`` float64.
    """
    blocks = weights.unflatten(1, (-1, BLOCK))
    sums = blocks.sum(-1).double()
    passed = sums.cumsum(-1)
    total = passed[:, -1]
    target = (u * total)[:, None]
    block = _first_beyond(passed, target)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    target = (target - (passed - sums).gather(1, block)).clamp(min=0)  # rounding may pass 0
    target *= inside[:, -1:] / sums.gather(1, block)  # float32 and float64 do not sum it to the same
    return (block * BLOCK + _first_beyond(inside, target))[:, 0], total


def _first_beyond(cumulative: Tensor, target: Tensor) -> Tensor:
    """Index of the first entry above ``target``; where rounding leaves none, of the first that reaches the end."""
    index = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(index, last).clamp(max=cumulative.shape[1] - 1)  # NaN is beyond everything


def truncate(logits: Tensor, rules: Rules) -> Tensor:
    """Give -inf to the tokens that top-k, top-p (arXiv 1904.09751) or min-p (arXiv 2407.01082) leave out.

    The three are applied in this order, each on the whole distribution; the likeliest token always stays.
    """
    ordered, index = logits.sort(-1, descending=True)
    probs = ordered.softmax(-1)
    rank = torch.arange(logits.shape[1], device=logits.device)
    out = (rules.top_k[:, None] > 0) & (rank >= rules.top_k[:, None])
    out |= (rules.top_p[:, None] < 1) & (probs.cumsum(-1) - probs >= rules.top_p[:, None])
    out |= probs < rules.min_p[:, None] * probs[:, :1]
    out[:, 0] = False
    return logits.masked_fill(torch.zeros_like(out).scatter(1, index, out), -torch.inf)


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """A number in [0, 1) for each (seed, position): the SplitMix64 generator (Steele et al. 2014) as a hash.

    Args:
        seed: ``[B]`` int64.
        position: ``[B]`` int64.

    Returns:
        ``[B]`` float64 with 53 random bits.
    """
    x = seed + (position + 1) * _GAMMA  # int64 arithmetic wraps around, as the generator wants
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    x = x ^ _shift(x, 31)
    return _shift(x, 11).double() * 2.0**-53


def _shift(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; int64's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


_GAMMA, _MIX_1, _MIX_2 = (
    n - (1 << 64) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # as signed 64-bit integers
