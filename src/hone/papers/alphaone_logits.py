"""AlphaOne where only logits can be changed: what it imposes, as probability that is moved (see alphaone.py)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hone.math.mass import force, mix, move
from hone.papers.alphaone import AlphaOne, Course


def write(alphaone: AlphaOne, courses: Mapping[int, Course], logits: Tensor) -> Tensor:
    """Write what is imposed on some rows into the logits.

    Args:
        alphaone: Bound to the model's tokenizer.
        courses: By row, the state before the token that comes next.
        logits: ``[B, V]``, not divided by the temperature; changed in place.

    Raises:
        ValueError: If no single token is a slow word: then there is no mass to move.
    """

    def integers(values: list[int]) -> Tensor:
        return torch.tensor(values, device=logits.device)

    def reals(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(logits.device, torch.float32)

    imposed = {row: token for row, c in courses.items() if (token := alphaone.imposes(c)) is not None}
    free = [row for row in courses if row not in imposed]
    chances = {row: s for row in free if not courses[row].coin and (s := alphaone.chance(courses[row]))}
    late = [row for row in free if alphaone.is_late(courses[row])]
    if imposed:
        logits = force(logits, integers(list(imposed)), integers(list(imposed.values())))
    if chances:
        warm = reals([courses[row].temperature for row in chances])
        logits = mix(logits, integers(list(chances)), alphaone.waits[0], reals(list(chances.values())), warm)
    if late:
        warm = reals([courses[row].temperature for row in late])
        slow = integers(alphaone.slows.tokens(logits.shape[1]))
        logits = move(logits, integers(late), slow, alphaone.words.ends[0], warm)
    return logits
