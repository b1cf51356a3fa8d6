"""Memory of a device by phase, in bytes, part by part as the code allocates them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hone.planning.hardware import Hardware
from hone.planning.work import MicroBatch, Work
from hone.policies import head
from hone.policies.hollow import Hollow, Kept
from hone.samplers.graphs import KEYS
from hone.samplers.slots import GROW, ROOM
from hone.seats import reads_reference
from hone.types import Branch, Row, Segment

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes of a trained weight: in float32, AdamW's two, and its gradient."""
FUSED = 0.55
"""The share of what layers keep for the backward pass that compiled ones do: of a 1.5B model on an H100."""


@dataclass(frozen=True)
class Layout:
    """How a run is spread over devices.

    Attributes:
        devices: How many.
        sharding: "none": each has all weights; "fsdp": each has a part of weights, gradients and moments, gathers a
            layer when it is computed, while the one before is still there, and samples from a whole copy.
    """

    devices: int = 1
    sharding: str = "none"

    @property
    def parts(self) -> int:
        """Into how many parts weights are cut."""
        return self.devices if self.sharding == "fsdp" else 1


@dataclass(frozen=True)
class Phase:
    """Bytes by what takes them, on the device, and beside a GPU on the host."""

    device: dict[str, float]
    host: dict[str, float]

    @property
    def total(self) -> float:
        """On the device."""
        return sum(self.device.values())


class Memory:
    """What each phase takes.

    Args:
        config: Of the run.
        hollow: Its model.
        hardware: A device.
        layout: How many of them.
    """

    def __init__(self, config: Any, hollow: Hollow, hardware: Hardware, layout: Layout) -> None:
        self.config, self.hollow, self.hardware, self.layout = config, hollow, hardware, layout
        self.policy, self.shape = config.model, hollow.shape
        self.width = 2 if hardware.dtype(self.policy.dtype) == "bfloat16" else 4

    def phases(self, work: Work) -> dict[str, Phase]:
        """By name, in the order of a step: load, sample, reference, update."""
        found = {"load": self._phase({"reading a layer": self.shape.largest_layer * self.width}, moments=False)}
        found["sample"] = self._phase(self._sampling(work))
        largest = work.largest
        if largest is None:
            return found
        kept = self.kept(largest)
        if self.reads_reference or not work.on_policy:
            scored = {"a layer": float(kept.layer), **self._head(largest, learns=False)}
            found["reference" if self.reads_reference else "old log-probabilities"] = self._phase(scored)
        several = any(len(mini) > 1 for mini in work.minibatches)
        found["update"] = self._phase(*self._update(largest, kept, several))
        if self.ahead:
            beside = self._sampling(work)
            later = {name: phase for name, phase in found.items() if name not in ("load", "sample")}
            return found | {name: Phase(phase.device | beside, phase.host) for name, phase in later.items()}
        if not self.hardware.gpu:
            return self._with_leftovers(found)
        stays = {"cache": found["sample"].device.get("cache", 0.0)} if self._keeps_slots else {}
        return {n: p if n in ("load", "sample") else Phase(p.device | stays, p.host) for n, p in found.items()}

    @property
    def _keeps_slots(self) -> bool:
        """Whether the sampler's slots stay where they are between rounds, all of them."""
        return self.hardware.gpu and getattr(self.config.sampler, "graphs", False)

    def _with_leftovers(self, found: dict[str, Phase]) -> dict[str, Phase]:
        """On a CPU, the C library keeps the small blocks of an update, so they are resident while the next samples."""
        update, sample = found["update"].device, found["sample"]
        own = sum(sample.device.values()) - sum(self._held(True)[0].values())
        left = update.get("activations", 0.0) / (1 + self.hardware.slack) + update.get("logits", 0.0)
        device = sample.device | {"left by the update": max(0.0, left - own)}
        return found | {"sample": Phase(device, sample.host)}

    def kept(self, micro: MicroBatch) -> Kept:
        """What the backbone keeps of a micro-batch for the backward pass."""
        kept = self.hollow.kept(_row(micro), packed=not self.hardware.gpu)
        fused = FUSED if self.hardware.gpu and self.policy.compile is not False else 1.0
        shares = {"total": fused, "layer": fused, "outside": fused, "inputs": 1.0}
        return replace(kept, **{kind: round(getattr(kept, kind) * of / micro.processes) for kind, of in shares.items()})

    @property
    def head_steps(self) -> tuple[int, int]:
        """Steps of a piece of the head, and steps whose logits are kept."""
        kind = "cuda" if self.hardware.gpu else "cpu"
        return head.budget(self.shape.vocabulary, self.width, self.policy.head_memory_mb, kind, self.hardware.gpu)

    @property
    def masters(self) -> int:
        """Weights that are kept in float32 beside those of the model."""
        return self.shape.trained if self.policy.offload else self.shape.rounded

    @property
    def reads_reference(self) -> bool:
        """Whether a part of the run reads a reference policy."""
        stages = self.config.every_stage()
        return any(reads_reference(part) for stage in stages for part in (stage.objective, *stage.shapers))

    @property
    def ahead(self) -> int:
        """Steps that are sampled while one is trained on."""
        return self.config.max_staleness

    @property
    def _copies(self) -> float:
        """Bytes of the weights, as they were, that are sampled from, or wait until the sampler takes them."""
        copies = self.ahead - bool(getattr(self.config.sampler, "copies", False))
        rounded = self.shape.rounded
        return max(0, copies) * (rounded * self.width + (self.shape.trained - rounded) * MASTER)

    @property
    def _engine(self) -> float:
        """Bytes of which an engine in this process takes hold: on a GPU that is not sampled on meanwhile it gives them
        back for an update."""
        share = 0.0 if hasattr(self.config.sampler, "urls") else getattr(self.config.sampler, "memory", 0.0)
        return share * self.hardware.memory

    def _phase(self, own: dict[str, float], host: dict[str, float] | None = None, moments: bool = True) -> Phase:
        held, beside = self._held(moments)
        return Phase(held | own, beside | (host or {}))

    def _held(self, moments: bool) -> tuple[dict[str, float], dict[str, float]]:
        """Weights and what belongs to them: there from the first optimiser step to the end."""
        shape, parts = self.shape, self.layout.parts
        held = {"libraries": self.hardware.reserve, "weights": shape.held / parts}
        if self.layout.sharding == "fsdp":
            held["gathered layers"] = (2 * shape.largest_layer + shape.outside) * self.width
            held["whole copy, to sample from"] = shape.held
        if self.reads_reference and not self.policy.lora:
            held["reference"] = shape.held / parts
        if self._copies and moments:
            held["older weights"] = self._copies
        if self._engine and moments and not (self.hardware.gpu and not self.ahead):
            held["engine"] = self._engine
        host: dict[str, float] = {}
        if moments and getattr(self.config.sampler, "way", "folder") != "folder":  # for servers that come late
            (host if self.hardware.gpu else held)["copy for servers"] = shape.held
        masters = {"moments": shape.trained * MOMENTS / parts} if moments else {}
        if self.masters:
            masters["master weights"] = self.masters * MASTER / parts
        return (held, masters | host) if self.policy.offload else (held | masters, host)

    def _sampling(self, work: Work) -> dict[str, float]:
        """The cache of the slots, and what a pass over them needs besides."""
        shape, sampler = self.shape, self.config.sampler
        if hasattr(sampler, "urls"):  # servers have devices of their own
            return {}
        if self._engine:
            return {"engine": self._engine} if self.hardware.gpu and not self.ahead else {}
        slots = getattr(sampler, "max_sequences", 64)
        slots = slots if self._keeps_slots else min(slots, work.together)
        read = min(getattr(sampler, "prefill_tokens", 4096), work.contexts)
        contexts = min(work.contexts, work.longest * -(-slots // self.config.siblings))
        most = self.config.sampling.max_tokens
        length = cache_length(work.longest, work.longest_response, most, ROOM if self._keeps_slots else GROW)
        length = -(-length // KEYS) * KEYS if self._keeps_slots else length
        prepacked = 0 if self.hardware.gpu else shape.products + shape.head
        return {
            "prepacked weights": float(prepacked * self.width),
            "cache": float(slots * length * shape.cache * self.width),
            "cached prompts": float(contexts * shape.cache * self.width),
            "drawing": float(slots * shape.vocabulary * (self.width + 4)),
            "reading prompts": self._pass(read),
        }

    def _pass(self, tokens: int) -> float:
        """A pass without gradients holds about what one layer keeps of one with them."""
        row = Row([Branch([Segment("prompts", "given", range(tokens))])])
        return float(self.hollow.kept(row, packed=False).layer)

    def _update(self, micro: MicroBatch, kept: Kept, several: bool) -> tuple[dict[str, float], dict[str, float]]:
        """The peak: as a backward pass begins, with the gradients of earlier ones; or as the only one ends."""
        gradients = self.shape.trained * GRADIENT / self.layout.parts
        recomputed = self.policy.gradient_checkpointing
        every = kept.inputs + kept.outside + kept.layer if recomputed else kept.total
        activations = every * (1 + self.hardware.slack)
        logits = self._head(micro, learns=True)
        begins = activations + sum(logits.values())
        host = {"gradients": gradients} if self.policy.offload else {}
        on_device = 0.0 if self.policy.offload else gradients
        if several or begins >= on_device + kept.layer:
            made = on_device if several else self._embedding()
            return {"activations": activations, **logits, "gradients": made}, host
        return {"gradients": on_device, "a layer": float(kept.layer)}, host

    def _embedding(self) -> float:
        """Its gradient comes last: on a CPU the C library keeps the activations until then, a GPU reuses them."""
        if self.hardware.gpu or not self.shape.head_trained:
            return 0.0
        moved = GRADIENT / self.layout.parts if self.masters and not self.policy.offload else 0
        return float(self.shape.outside * (2 * self.width + moved))

    def _head(self, micro: MicroBatch, *, learns: bool) -> dict[str, float]:
        """Logits, worked on and kept; the gradient of the head: the sum in float32, that of a piece, and rounded."""
        shape, steps = self.shape, micro.trained
        chunk, keep = self.head_steps
        widened = 0 if self.hardware.gpu else min(head.ROWS, steps) * 4 * head.COPIES  # compiled, nothing is
        worked = widened + 2 * min(chunk, steps) * self.width
        found = {"logits": float(worked * shape.vocabulary)}
        if learns:
            found["logits"] += min(keep, steps) * shape.vocabulary * self.width
            copies = GRADIENT + self.width * (1 + (self.width != GRADIENT))
            found["gradient of the head"] = float(shape.head * copies) if shape.head_trained else 0.0
        return found


def cache_length(context: int, response: int, most: int, grow: int = GROW) -> int:
    """Steps that a slot of the cache has room for when its longest sequence ends.

    Args:
        context: Tokens of the longest prompt.
        response: Of the longest answer; the last is not written any more.
        most: ``sampling.max_tokens``.
        grow: Steps by which slots grow.
    """
    length = context + min(most, grow)
    return length + max(0, -(-(context + response - 1 - length) // grow)) * grow


def _row(micro: MicroBatch) -> Row:
    """The rows of a micro-batch end to end."""
    made = Row([])
    for row in micro.rows:
        start = len(made.branches)
        made.branches += [Branch(b.segments, b.parent + start if b.parent >= 0 else -1) for b in row.branches]
    return made
