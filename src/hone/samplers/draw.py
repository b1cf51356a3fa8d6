"""From logits to tokens, with noise that is keyed and not sequential."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hone.compiling import compiled
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

    def _columns(self) -> tuple[Tensor, ...]:
        return self.seed, self.temperature, self.top_p, self.top_k, self.min_p

    def spread(self, rows: int) -> Rules:
        """Of so many rows, of which all are greedy."""
        return replace(self, **{f.name: v.new_zeros(rows) for f, v in zip(fields(self), self._columns(), strict=False)})

    def take(self, other: Rules) -> None:
        """Take over the rules of the first rows, in place."""
        for own, new in zip(self._columns(), other._columns(), strict=True):
            own.zero_()[: len(new)].copy_(new)
        self.truncated, self.greedy, self.entropies = other.truncated, other.greedy, other.entropies

    def first(self, rows: int) -> Rules:
        """Those of the first rows, which stay where they are."""
        return replace(self, **{f.name: v[:rows] for f, v in zip(fields(self), self._columns(), strict=False)})


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
    size = logits.shape[1]
    likeliest = logits.argmax(-1) if rules.greedy else None
    drawn_from, heat = logits, temperature
    if rules.truncated:
        drawn_from, heat = truncate(logits.to(temperature) / temperature, rules), torch.ones_like(temperature)
    highest, sums, moment = compiled(_weigh, logits.device)(drawn_from, heat, rules.entropies)
    tokens, total = _invert(sums.double(), partial(_block, drawn_from, heat, highest), uniform(rules.seed, position))
    tokens = tokens.clamp(max=size - 1)  # of a row that is no distribution
    if likeliest is not None:
        tokens = torch.where(rules.temperature == 0, likeliest.to(tokens.device), tokens)
    chosen = logits.gather(-1, tokens[:, None].to(logits.device)).to(temperature) / temperature
    logprobs = (chosen - highest)[:, 0] - total.log().float()
    if moment is None:
        return Drawn(tokens, logprobs)
    return Drawn(tokens, logprobs, highest[:, 0] + total.log() - moment.double() / total / heat[:, 0])


def fetched(drawn: Drawn) -> tuple[list[int], list[float], list[float]]:
    """All on the host, in one transfer: the only time in a decode step that it waits for the device.

    Raises:
        FloatingPointError: If a row was no distribution.
    """
    numbers, values, *entropies = torch.stack([x.double() for x in drawn if x is not None]).tolist()  # exact for each
    check(values)
    return [int(number) for number in numbers], values, entropies[0] if entropies else []


def check(logprobs: Sequence[float]) -> None:
    """Refuse what was drawn from no distribution.

    Raises:
        FloatingPointError: If a log-probability is no number.
    """
    if not all(map(math.isfinite, logprobs)):
        raise FloatingPointError("sampler: the logits are NaN, infinite or all -inf; blame the weights or a processor")


def _weigh(logits: Tensor, temperature: Tensor, moments: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """What there is to know of ``[B, V]`` logits, in one pass where that can be compiled.

    Args:
        logits: Any float type; where the temperature is, or about to be taken there.
        temperature: ``[B, 1]`` float32.
        moments: Whether to return the last.

    Returns:
        The highest of the scaled logits, ``[B, 1]``; the sums of the weights exp(scaled - highest) over each block of
        tokens, ``[B, V / BLOCK]``; and those of weight times logit, ``[B]``. All float32.
    """
    rows, size = logits.shape
    scaled = temperature.new_empty(rows, size + -size % BLOCK)  # in place from here on: [B, V] in float32 is large
    scaled[:, :size], scaled[:, size:] = logits, -torch.inf
    scaled.div_(temperature)
    highest = scaled.amax(-1, keepdim=True)
    weights = scaled.sub_(highest).exp_()
    return highest, weights.unflatten(1, (-1, BLOCK)).sum(-1), _moment(logits, weights[:, :size]) if moments else None


def _moment(logits: Tensor, weights: Tensor) -> Tensor:
    """Sums of weight times logit. A CPU takes a few rows at a time: another ``[B, V]`` of new memory costs more there
    than all that is done with it.
    """  # fmt: skip
    lowest = torch.finfo(torch.float32).min  # 0 times -inf is no number
    few = ROWS if weights.device.type == "cpu" else len(logits)
    parts = zip(logits.split(few), weights.split(few), strict=True)
    return torch.cat([torch.linalg.vecdot(w, part.to(w, copy=True).clamp_(min=lowest)) for part, w in parts])


def _block(logits: Tensor, temperature: Tensor, highest: Tensor, block: Tensor) -> Tensor:
    """The weights of the tokens of one block a row, ``[B, BLOCK]``."""
    size = logits.shape[1]
    tokens = block * BLOCK + torch.arange(BLOCK, device=block.device)
    chosen = logits.gather(1, tokens.clamp(max=size - 1).to(logits.device)).to(temperature)
    return (chosen / temperature - highest).exp().masked_fill(tokens >= size, 0.0)


def _invert(sums: Tensor, weights: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """The token at which the cumulative weight passes ``u`` times the total: first the block of tokens, then in it.

    Two short cumulative sums in float64 are both faster and more exact than one over the whole vocabulary; only the
    sums of single blocks are float32, as the weights are.

    Args:
        sums: ``[B, blocks]`` float64, of the weights of each block.
        weights: From a block of each row, ``[B, 1]``, to those of its tokens, ``[B, BLOCK]``.
        u: ``[B]`` float64, in [0, 1).

    Returns:
        Tokens ``[B]`` int64 and the total weights ``[B]`` float64.
    """
    passed = sums.cumsum(-1)
    total = passed[:, -1]
    target = (u * total)[:, None]
    block = _first_beyond(passed, target)
    inside = weights(block).double().cumsum(-1)
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
