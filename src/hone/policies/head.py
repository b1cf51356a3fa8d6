"""Log-probability and entropy without ever holding full logits.

``[N, V]`` logits are the largest tensor of RL post-training: 8192 steps of a 150k vocabulary are 5 GB in fp32, several
times over. Here the head runs on a few steps at a time. What fits into the memory that was granted is kept for the
backward pass, and the rest is computed there again, for those steps alone that a gradient comes back for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hone.compiling import compiled

Logits = Callable[[Tensor], Tensor]
ROWS = 8
"""Steps that a CPU works on together: as few as its caches hold, for memory is slower than the work."""
WEIGHTS = 1024
"""Rows of a head's weight whose gradients are added together, likewise."""
PIECE_MB = 48
"""Of a piece's logits on a CPU, at most: beyond that a product takes up to twice as long a step."""
COPIES = 4
"""Float32 tensors of as many logits, at most, while these are worked on."""
MEMORY_MB = {"cpu": 512, "cuda": 2048}
"""Granted where nothing else is said, by the kind of device: where products are fast they want more rows."""


def log_prob_and_entropy(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of the distribution ``softmax(logits / temperature)``, in float32 or better, and nats.

    Args:
        logits: ``[N, V]``.
        targets: ``[N]`` int64.
        temperature: Above 0.

    Returns:
        The log-probability of each target and the entropy of each distribution, both ``[N]``.
    """
    log_prob, entropy, _ = _read(logits, targets, temperature)
    return log_prob, entropy


def _read(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probability and entropy, and what is to be taken off the scaled logits for log-probabilities; ``[3, N]``."""
    few, read = _together(logits), compiled(_read_some, logits.device)
    parts = zip(logits.split(few), targets.split(few), strict=True)
    return torch.cat([read(some, wanted, temperature) for some, wanted in parts], 1)


def _read_some(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """With w = exp(x - max x) and Z its sum, the entropy is log Z - sum w (x - max x) / Z."""
    scaled = _wide(logits) / temperature
    highest = scaled.detach().amax(-1, keepdim=True)
    scaled = scaled.sub_(highest)
    weights = scaled.exp()
    total = weights.sum(-1)
    expected = torch.linalg.vecdot(weights, scaled) / total
    log_total = total.log()
    log_prob = scaled.gather(-1, targets[:, None])[:, 0] - log_total
    return torch.stack([log_prob, log_total - expected, highest[:, 0] + log_total])


def chunked(
    logits: Logits,
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    parameters: Sequence[Tensor],
    chunk: int,
    keep: int = 0,
) -> tuple[Tensor, Tensor]:
    """:func:`log_prob_and_entropy` of ``logits(hidden)``, at most ``chunk`` steps at a time.

    Args:
        logits: ``[n, D] -> [n, V]``: the head, with whatever the model does after it.
        hidden: ``[N, D]``.
        targets: ``[N]`` int64.
        temperature: Above 0.
        parameters: Those of the head that are trained.
        chunk: Steps per piece.
        keep: Steps whose logits may be kept for the backward pass.

    Returns:
        Log-probabilities and entropies, both ``[N]`` float32, with gradients to ``hidden`` and the parameters.
    """
    made = _Pieces.apply(logits, hidden, targets, temperature, chunk, keep, *parameters)
    return made[0], made[1]


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Logits, hidden: Tensor, targets: Tensor, temperature: float, chunk: int, keep: int,
                *parameters: Tensor) -> Tensor:  # fmt: skip
        keep = keep if any(ctx.needs_input_grad) else 0
        found, ctx.kept = [], {}
        for start in range(0, len(targets), chunk):
            piece = slice(start, start + chunk)
            part = hidden[piece].detach()
            if start + len(part) <= keep:
                ctx.kept[start] = made = _with_graph(logits, part)
                values = made[1].detach()
            else:
                values = logits(part)
            found.append(_read(values, targets[piece], temperature))
        read = torch.cat(found, 1) if found else _wide(hidden.new_zeros(3, 0))
        ctx.save_for_backward(hidden, targets, read, *parameters)
        ctx.settings = logits, temperature, chunk
        return read[:2].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, read, *parameters = ctx.saved_tensors
        _, temperature, _ = ctx.settings
        wanted = [p for p, needed in zip(parameters, ctx.needs_input_grad[6:], strict=True) if needed]
        to_hidden, sums = torch.zeros_like(hidden), list[Tensor]()
        to_entropy = bool(gradient[1].any())
        for steps, part, values in _pieces(ctx, hidden, gradient):
            given = values.detach(), targets[steps], read[:, steps], gradient[:, steps]
            upstream = _gradient(*given, temperature, to_entropy)
            to_part, *rest = torch.autograd.grad(values, [part, *wanted], upstream)
            to_hidden[steps] = to_part
            sums = [_sum(total, each) for total, each in zip(sums, rest, strict=True)] if sums else rest
        given = (total.to(p.dtype) for total, p in zip(sums or map(torch.zeros_like, wanted), wanted, strict=True))
        to_parameters = [next(given) if needed else None for needed in ctx.needs_input_grad[6:]]
        return None, to_hidden, None, None, None, None, *to_parameters


def _pieces(ctx: Any, hidden: Tensor, gradient: Tensor) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Steps with a gradient, their hidden states and their logits: kept ones where most of a piece has one."""
    logits, _, chunk = ctx.settings
    alive = (gradient != 0).any(0)
    rest = []
    for start in range(0, len(alive), chunk):
        steps = torch.arange(start, min(start + chunk, len(alive)), device=alive.device)
        some = steps[alive[steps]]
        if start in ctx.kept and 2 * len(some) > len(steps):
            yield slice(start, start + len(steps)), *ctx.kept.pop(start)
        else:
            rest.append(some)
    if rest:
        for steps in torch.cat(rest).split(chunk):
            if len(steps):
                yield steps, *_with_graph(logits, hidden[steps].detach())


def _with_graph(logits: Logits, hidden: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        hidden.requires_grad_()
        return hidden, logits(hidden)


def _gradient(
    logits: Tensor, targets: Tensor, read: Tensor, upstream: Tensor, temperature: float, to_entropy: bool
) -> Tensor:
    """The gradient to logits, ``[n, V]`` in their type, of the two that :func:`_read` gives first.

    With p the distribution and H its entropy, that of log p_target is (onehot - p), and of H is -p (log p + H).
    """
    of_some, few = compiled(_off_target, logits.device), _together(logits)
    if few == len(logits):
        found = of_some(logits, read, upstream, temperature, to_entropy)
    else:
        found = torch.empty_like(logits)
        given = zip(logits.split(few), read.split(few, 1), upstream.split(few, 1), strict=True)
        for place, some in zip(found.split(few), given, strict=True):
            place.copy_(of_some(*some, temperature, to_entropy))
    log_prob, entropy, _ = read
    of_log_prob, of_entropy = upstream
    on_target = of_log_prob - log_prob.exp() * (of_log_prob + of_entropy * (log_prob + entropy))
    found[torch.arange(len(targets), device=targets.device), targets] = (on_target / temperature).to(found.dtype)
    return found


def _off_target(logits: Tensor, read: Tensor, upstream: Tensor, temperature: float, to_entropy: bool) -> Tensor:
    _, entropy, off = read[..., None]
    of_log_prob, of_entropy = upstream[..., None]
    log_probs = (_wide(logits) / temperature).sub_(off)
    found = log_probs.exp()
    if to_entropy:
        found.mul_(log_probs.add_(entropy).mul_(of_entropy).add_(of_log_prob))
    else:
        found.mul_(of_log_prob)
    return found.div_(-temperature).to(logits.dtype)


def _sum(total: Tensor, more: Tensor) -> Tensor:
    """In float32, as over micro-batches; by parts, for of what has another type torch makes a copy first."""
    total = _wide(total)
    for some, each in zip(total.split(WEIGHTS), more.split(WEIGHTS), strict=True):
        some.add_(each)
    return total


def _together(logits: Tensor) -> int:
    """Of how many steps these logits are worked on together."""
    return ROWS if logits.device.type == "cpu" else max(1, len(logits))


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def budget(vocabulary: int, width: int, memory_mb: int | None, device: str, fused: bool) -> tuple[int, int]:
    """Steps per piece, and steps whose logits are kept, such that either takes half of ``memory_mb`` MiB.

    Args:
        vocabulary: ``V``.
        width: Bytes of a logit as the model makes it.
        memory_mb: In all; None is that of :data:`MEMORY_MB`.
        device: Its kind. A CPU works on few steps of a piece together; of the others there are logits and gradients.
        fused: Whether another device works on logits in compiled kernels, which make no float32 tensor of them.
    """
    half = (memory_mb or MEMORY_MB.get(device, MEMORY_MB["cpu"])) * 2**19
    worked, held = 4 * COPIES * vocabulary, 2 * width * vocabulary
    on_cpu = min(half - ROWS * worked, PIECE_MB * 2**21) // held
    elsewhere = half // (held if fused else worked)
    return max(1, on_cpu if device == "cpu" else elsewhere), half // (width * vocabulary)
