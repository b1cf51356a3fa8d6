"""Seconds of a step's phases: for each part what bounds it, arithmetic or memory, at the rates that were achieved.

A pass takes as long as its products at the device's rate, or as moving its bytes, whichever is longer (where both are
alike, somewhat longer: the root of the sum of their squares), and what a layer costs beside. Nothing is hidden behind
anything else, and devices wait for each other.
"""

from __future__ import annotations

import math
from typing import Any

from hone.planning import flops
from hone.planning.hardware import Hardware
from hone.planning.memory import Layout, Memory
from hone.planning.work import Work

MOVED = 5.0
"""How often what is kept for the backward pass is moved: written, read, and its gradient likewise; casts beside."""
LOGIT = 45.0
"""Bytes that are moved for a trained logit, from its product to its gradient, in the passes of ``policies/head.py``."""
DRAWN = 30.0
"""And for one that is drawn from."""
ADAPTER = 0.5
"""What an adapter costs beyond its arithmetic, over a whole layer: two narrow products, casts, a scale and a sum."""
ADAM = 48.0
"""Bytes that an optimiser step moves for a weight: AdamW reads four numbers and writes three; before it the gradient is
divided, its norm taken, and clipped."""


class Speed:
    """How long phases take.

    Args:
        config: Of the run.
        memory: Has the model, the device and their layout.
    """

    def __init__(self, config: Any, memory: Memory) -> None:
        self.config, self.memory = config, memory
        self.shape, self.width = memory.shape, memory.width
        self.hardware: Hardware = memory.hardware
        self.layout: Layout = memory.layout
        self.rate = self.hardware.flops["bfloat16" if self.width == 2 else "float32"]

    def sampling(self, work: Work) -> dict[str, float]:
        """Of a step's sampling: prompts, and answers in waves of as many as there are slots."""
        shape, gear, achieved = self.shape, self.hardware, self.hardware.achieved
        slots = min(getattr(self.config.sampler, "max_sequences", 64), work.together)
        tokens = work.sequences * work.response
        passes = max(math.ceil(work.rounds) * work.longest_response, tokens / slots)
        rows = tokens / passes
        reading = 2.0 * shape.products * work.contexts / (self.rate * achieved.products)
        weights = shape.products + shape.head
        keys = work.contexts / max(1, work.prompts) + work.response / 2
        arithmetic = 2.0 * weights * rows / (self.rate * achieved.narrow)
        moving = weights * self.width / (gear.bandwidth * achieved.bandwidth)
        attention = rows * keys * shape.cache * self.width / (gear.bandwidth * achieved.bandwidth)
        drawing = rows * shape.vocabulary * DRAWN / (gear.bandwidth * achieved.elementwise)
        return {
            "prompts": reading + shape.layers * gear.layer,
            "weights": passes * math.hypot(arithmetic, moving),
            "cache": passes * attention,
            "drawing": passes * drawing,
            "layers": passes * self._beside(),
            "gathering": self._gathered(1),  # into the copy that is sampled from, once a step
        }

    def update(self, work: Work) -> dict[str, float]:
        """Of a step's update, and of the passes before it that a reference or old log-probabilities need."""
        shape, gear, policy = self.shape, self.hardware, self.config.model
        micros = [micro for mini in work.minibatches for micro in mini]
        if not micros:
            return {}
        further = self.memory.reads_reference + (not work.on_policy)
        recomputed = policy.gradient_checkpointing
        _, keep = self.memory.head_steps
        done = flops.update(shape, work, keep=keep, recomputed=recomputed, passes=further)
        largest = work.largest
        kept = self.memory.kept(largest).total / largest.tokens
        tokens, trained = (sum(getattr(m, name) for m in micros) for name in ("tokens", "trained"))
        moved = kept * tokens * (MOVED * work.epochs + (MOVED / 3) * (further + recomputed * work.epochs))
        logits = trained * shape.vocabulary * LOGIT * (work.epochs + further / 3)
        steps = len(work.minibatches) * work.epochs
        own = shape.trained / self.layout.parts
        passes = len(micros) * (3 * work.epochs + further + recomputed * work.epochs)
        slow = gear.bandwidth * gear.achieved.elementwise
        parts = 1.0 if gear.gpu else sum(micro.parts for micro in micros) / len(micros)
        return {
            "products": (done.products + done.head) / (self.rate * gear.achieved.products),
            "attention": done.attention / (self.rate * gear.achieved.narrow),
            "activations": moved / slow,
            "logits": logits / slow,
            "gradients": len(micros) * work.epochs * shape.trained * (8 + 2 * self.width) / gear.bandwidth,
            "optimiser": steps * own * (ADAM + self.width) / gear.bandwidth,
            "layers": passes * self._beside(parts),
            "gathering": self._gathered(len(micros) * (2 * work.epochs + further)) + self._reduced(steps),
        }

    def _beside(self, parts: float = 1.0) -> float:
        """Seconds that layers of a pass cost beyond their arithmetic, where attention goes over so many parts."""
        return self.hardware.layer * (self.shape.layers * parts + ADAPTER * self.shape.adapted)

    def _gathered(self, passes: float) -> float:
        """Seconds in which every device gets the weights that others have."""
        parts = self.layout.parts
        return passes * self.shape.parameters * self.width * (1 - 1 / parts) / self.hardware.interconnect

    def _reduced(self, steps: int) -> float:
        """Seconds in which gradients are summed over devices: a ring moves each twice, one that shards once."""
        devices = self.layout.devices
        times = 1 if self.layout.sharding == "fsdp" else 2
        return steps * times * self.shape.trained * 4 * (1 - 1 / devices) / self.hardware.interconnect
