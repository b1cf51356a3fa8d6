"""Decode steps one after the other, of which the host only hears when a sequence has ended.

A step's tokens are the next one's inputs, and stay on the device; so do the sequences' positions, seeds and limits. The
host launches the next step while the device works on the one before, looks at one flag, and collects what was drawn
when it has to. What it does for a step does not grow with the number of sequences.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from hone.samplers.decode import Decoder
from hone.samplers.draw import Rules, check, draw
from hone.samplers.graphs import shape

STEPS = 32
"""Most steps between two times that all is collected: whoever has given up on a sequence waits so long."""


class Collected(NamedTuple):
    """What a sequence was given since it was looked at last."""

    tokens: list[int]
    logprobs: list[float]
    entropies: list[float]


class Burst:
    """The running sequences, as the device knows them.

    Args:
        decoder: Of the slots that they are in; it has graphs.
        stops: Tokens that end a sequence.
    """

    def __init__(self, decoder: Decoder, stops: Collection[int]) -> None:
        self.decoder, self.stops = decoder, frozenset(stops)
        count, device = decoder.slots.count, decoder.policy.device
        self._stops = torch.tensor(sorted(stops), dtype=torch.int64, device=device)
        # Newest token, its place in the cache, tokens so far, the most there may be, and 1 while it is under way.
        self._state = torch.zeros(5, count, dtype=torch.int64, device=device)
        self._ended = torch.zeros(1, dtype=torch.int64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._drawn = torch.zeros(STEPS, 3, count, dtype=torch.float64, device=device)  # exact for tokens, too
        self._told = torch.zeros(2, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._events = [torch.cuda.Event() for _ in range(2)] if device.type == "cuda" else []
        self._rules: Rules | None = None
        self._sequences: list[Any] = []
        self._longest = self.steps = 0
        self._watched = False

    def load(self, requests: Sequence[Any]) -> Rules:
        """Take over sequences as they are, the first slots', and forget what was not collected; their rules."""
        self._sequences, self.steps = list(requests), 0
        self._at.zero_()
        self._ended.zero_()
        params = [request.params for request in requests]
        self._watched = any(p.stop for p in params)
        rows = [
            [request.tokens[-1] for request in requests], [request.length for request in requests],
            [len(request.tokens) for request in requests], [p.max_tokens for p in params], [1] * len(requests),
        ]  # fmt: skip
        self._state.zero_()
        self._state[:, : len(requests)].copy_(torch.tensor(rows))
        rules = Rules.stack(params, self._state.device)
        if self._rules is None:
            self._rules = rules.spread(self._state.shape[1])
        self._rules.take(rules)
        self._longest = max(rows[1])
        return self._rules

    def step(self) -> None:
        """Launch the next step of all."""
        rows, width = shape(len(self._sequences), self._longest + 1, self.decoder.slots)
        rules = self._rules.first(rows)
        key = ("burst", rows, width, rules.truncated, rules.greedy, rules.entropies)
        state = (self._state, self._ended, self._at)
        self.decoder.graphs(key, partial(self._step, rows, width, rules), state)
        self._told[self.steps % 2].copy_(self._ended[0], non_blocking=True)
        if self._events:
            self._events[self.steps % 2].record()
        self.steps, self._longest = self.steps + 1, self._longest + 1

    def _step(self, rows: int, width: int, rules: Rules) -> None:
        tokens, positions, sampled, most, alive = self._state[:, :rows]
        drawn = draw(self.decoder.forward(tokens, positions, width), rules, sampled)
        values = [x.double() for x in drawn if x is not None]
        self._drawn[:, : len(values), :rows].index_copy_(0, self._at, torch.stack(values)[None])
        self._at.add_(1)
        sampled.add_(alive)
        over = (drawn.tokens[:, None] == self._stops).any(1) | (sampled >= most) | ~drawn.logprobs.isfinite()
        over = over & alive.bool()
        tokens.copy_(drawn.tokens)
        alive.masked_fill_(over, 0)
        positions.add_(alive)  # of those that have ended no further, for the model may have no more
        self._ended.add_(over.any())

    def look(self) -> bool:
        """Whether there is something to look at: of the step before the last, so that the device goes on meanwhile.

        Stop strings are looked for after each step.
        """
        if self._watched or self.steps < 2:
            return self._watched
        before = self.steps % 2
        if self._events:
            self._events[before].synchronize()
        return self.steps == STEPS or bool(self._told[before])

    def collect(self) -> list[Collected]:
        """What each sequence was given since the last time, up to its end, in the order in which they were loaded.

        Raises:
            FloatingPointError: If there was no distribution to draw from.
        """
        steps, self.steps = self.steps, 0
        tokens, *values = self._drawn[:steps, :, : len(self._sequences)].permute(1, 2, 0).tolist()
        self._at.zero_()
        self._ended.zero_()
        found = []
        for row, request in enumerate(self._sequences):
            own = list(map(int, tokens[row]))
            ends = self._end(own, request.params.max_tokens - len(request.tokens))
            logprobs, entropies = (each[row][:ends] for each in values)
            check(logprobs)
            found.append(Collected(own[:ends], logprobs, entropies if self._rules.entropies else []))
        return found

    def _end(self, tokens: list[int], room: int) -> int:
        """How many of the tokens there are until the sequence ends."""
        tokens = tokens[:room]
        if self.stops.isdisjoint(tokens):
            return len(tokens)
        return next(i for i, token in enumerate(tokens, start=1) if token in self.stops)
