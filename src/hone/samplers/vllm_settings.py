"""What is alike for vLLM in this process and for its servers: settings, and what is known of the weights they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar

from pydantic import Field

from hone.math.mismatch import truncated_importance
from hone.seats import Processor, StepField, settings


@settings
class VLLMSettings:
    """An engine, and how its samples are trained on.

    Attributes:
        max_sequences: Most sequences decoded together; the others wait.
        context: Most tokens of a context and its continuation; None for as many as the model has positions.
        memory: Fraction of a device's memory, of the host's on a CPU, for the weights and cache of each engine.
        engine: Further arguments of vLLM's ``EngineArgs``, as they are: ``enforce_eager``, ``kv_cache_dtype``,
            ``kv_cache_memory_bytes``, ``max_num_batched_tokens``, ``speculative_config``, ``quantization``; of a server
            ``tensor_parallel_size`` too.
        correction: The weight that training multiplies by where its objective has none that corrects sampling; None
            for none.
        check_every: Syncs between comparisons of the engine's weights with what it was sent; the first is compared.
        patience: Seconds for the engine to start, and for it to take weights; None for no limit.
        processors: Those that have an adapter for vLLM, such as ``alphaone``.
    """

    copies: ClassVar[bool] = True

    max_sequences: int = Field(256, ge=1)
    context: int | None = Field(None, ge=2)
    memory: float = Field(0.4, gt=0, le=1)
    engine: dict[str, Any] = Field(default_factory=dict)
    correction: StepField | None = truncated_importance
    check_every: int = Field(10, ge=1)
    patience: float | None = Field(600.0, gt=0)
    processors: list[Processor] = field(default_factory=list)

    renderer: Any = field(default=None, init=False, repr=False, compare=False)
    _version: int = field(default=0, init=False, repr=False, compare=False)
    _given: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _syncs: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        adapters(self.processors)

    def accept(self, policy: Any) -> None:
        """Go no further with what cannot work.

        Raises:
            ValueError: If the policy cannot give its weights.
        """
        if not hasattr(policy, "weights"):
            raise ValueError("sampler: vLLM needs a policy that gives its weights, such as causal_lm")

    @property
    def _due(self) -> bool:
        """Whether the weights that are given now are compared with what arrives."""
        return self._syncs % self.check_every == 0

    def _took(self, policy: Any) -> None:
        """Remember whose weights are there now."""
        self._version, self._syncs = policy.version, self._syncs + 1
        self._given = policy.fingerprint() if hasattr(policy, "fingerprint") else {}

    def fingerprint(self) -> dict[str, int]:
        """The policy's own checksums, as they were when its weights were taken."""
        return self._given

    def arguments(self, dtype: str) -> dict[str, Any]:
        """These settings as arguments of vLLM's ``EngineArgs``."""
        own = {"dtype": dtype, "max_num_seqs": self.max_sequences, "gpu_memory_utilization": self.memory}
        if self.context is not None:
            own["max_model_len"] = self.context
        if self.processors:
            own["logits_processors"] = adapters(self.processors)
        return own | self.engine


def adapters(processors: Sequence[Processor]) -> list[str]:
    """Addresses of the processors' adapters for vLLM.

    Raises:
        ValueError: For one that has none.
    """
    for place, processor in enumerate(processors):
        if not hasattr(processor, "vllm"):
            name = getattr(processor, "__name__", type(processor).__name__)
            raise ValueError(f"processors.{place}: {name} has no adapter for vLLM; the native sampler takes it")
    return [processor.vllm[1] for processor in processors]
