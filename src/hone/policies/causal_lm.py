"""Any decoder-only language model of transformers as a policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hone import compiling
from hone.checksums import checksums
from hone.policies import copies, handover, layers, layout, parity, precision, scores, sequence, tree
from hone.policies.adapters import LoRA
from hone.policies.chat import ChatRenderer
from hone.policies.master import MasterWeights
from hone.policies.reference import FrozenLM
from hone.policies.weights import locate
from hone.seats import Row, settings
from hone.types import Batch, Scores

Shard = Callable[[nn.Module, Iterable[nn.Module], Callable[..., Any]], Callable[..., Any]]
"""``(module, blocks, score) -> score``: shards a module in place."""
if TYPE_CHECKING:
    from hone.policies.hollow import Hollow


@settings
class CausalLM:
    """A causal language model from transformers, fully fine-tuned or with LoRA.

    Attributes:
        path: A folder, a hub name, or "smollm2-135m".
        dtype: Of computation. Trainable weights are kept in float32 beside it; "auto" is bfloat16 where the device
            multiplies faster in it than in float32, which on a CPU is measured.
        lora: Adapters instead of a full fine-tune.
        gradient_checkpointing: Recompute each layer in the backward pass: less memory, a third more time.
        offload: Keep the float32 weights, and with them gradients and what the optimiser knows, in the host's memory,
            and step there: of 18 bytes a weight 16 leave the GPU, for the time that gradients and weights then travel.
        share_context: Compute a context once for all siblings (a tree mask); falls back by itself for models that do
            not honour such a mask.
        compile: Fuse layers by torch.compile; by default on a GPU, where head and attention always are compiled.
        head_memory_mb: Memory for logits, in MiB: half for the piece that is worked on, half for those that are kept
            for the backward pass; what does not fit is computed twice. By default 512, on a GPU 2048.
        random_weights: Ignore the saved weights and draw some on the device, from this seed (for tests and benchmarks).
    """

    path: str
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    lora: LoRA | None = None
    gradient_checkpointing: bool = False
    offload: bool = False
    share_context: bool = True
    compile: bool | None = None
    head_memory_mb: int | None = Field(None, ge=1)
    random_weights: int | None = None

    model: Any = field(default=None, init=False, repr=False, compare=False)
    renderer: Any = field(default=None, init=False, repr=False, compare=False)
    device: Any = field(default=None, init=False, repr=False, compare=False)
    version: int = field(default=0, init=False, repr=False, compare=False)
    takes_masks: bool = field(default=False, init=False, repr=False, compare=False)
    packs: bool = field(default=False, init=False, repr=False, compare=False)
    masters: Any = field(default=None, init=False, repr=False, compare=False)
    _shard: Shard | None = field(default=None, init=False, repr=False, compare=False)
    _score: Callable[..., Any] | None = field(default=None, init=False, repr=False, compare=False)
    _whole: CausalLM | None = field(default=None, init=False, repr=False, compare=False)

    def load(self, device: torch.device, shard: Shard | None = None) -> None:
        """Load weights and tokenizer onto ``device``, and check that this model computes as hone expects.

        Args:
            device: Where to compute.
            shard: Spreads a model over processes, see :class:`~hone.seats.Policy`. The whole one stays beside it.

        Raises:
            FileNotFoundError: If the weights are not here.
            ValueError: If the model changes its logits in a way that hone does not know.
        """
        from transformers import AutoTokenizer

        where = locate(self.path)
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.random_weights or 0)  # of adapters too, so that a run can be repeated
            self.model = self._read(where, torch.device("cpu") if shard else self.device)
            if self.lora:
                self.model = self.lora.wrap(self.model)
        generation = getattr(self.model, "generation_config", None)
        stop = getattr(generation, "eos_token_id", None)
        stop = [] if stop is None else stop if isinstance(stop, list) else [stop]
        self.renderer = ChatRenderer(AutoTokenizer.from_pretrained(where, trust_remote_code=False), stop)
        self.model.eval()
        layers.fuse(self.model, compiling.works(self.device.type) if self.compile is None else self.compile)
        if self.gradient_checkpointing:
            layers.recompute(self.model)
        self._shard, self._score, self._whole = shard, None, None
        if shard is None:
            self.model.to(self.device)
        else:
            self._whole = copy.copy(self)
            self._whole.model = copy.deepcopy(self.model).to(self.device)
            parity.find_ways(self._whole)
            self.split()
        self.masters = MasterWeights(self.model, self.offload)
        parity.check_head(self.whole())
        parity.find_ways(self)

    def split(self) -> None:
        """Leave a part of the model in this process, where the policy is sharded."""
        if self._shard is not None:
            self._score = self._shard(self.model, layers.blocks(self.model), self._scored)

    def twin(self) -> CausalLM:
        """A policy with a model of its own that has the same weights, all of them here, and does not learn."""
        twin = copy.copy(self)
        twin.masters = twin._whole = twin._score = None
        twin.model = copies.copied(self.whole().model)
        return twin

    def follow(self, policy: CausalLM) -> CausalLM:
        """Take over the weights that another trains, as they are now, where this one is its copy."""
        copies.refresh(self.model, policy.model)
        self.version = policy.version
        return self

    def whole(self) -> CausalLM:
        """The policy with all weights in this process: itself, or its copy, brought up to date.

        Every process has to call it.
        """
        if self._whole is None:
            return self
        return self._whole if self._whole.version == self.version else self._whole.follow(self)

    def _read(self, where: str, device: torch.device) -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        dtype = precision.dtype(self.dtype, self.device)
        if self.random_weights is None:
            return AutoModelForCausalLM.from_pretrained(where, dtype=dtype, trust_remote_code=False)
        with device:
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
            return AutoModelForCausalLM.from_config(config, dtype=dtype)

    def miniature(self, folder: Path) -> CausalLM:
        """The same architecture and tokenizer with two layers of random weights, written to ``folder``."""
        from transformers import AutoConfig, AutoTokenizer

        where = locate(self.path)
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        text = config.get_text_config()
        text.num_hidden_layers = min(2, text.num_hidden_layers)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: text.num_hidden_layers]
        config.save_pretrained(folder)
        AutoTokenizer.from_pretrained(where, trust_remote_code=False).save_pretrained(folder)
        return replace(self, path=str(folder), random_weights=0, dtype="float32")

    def hollow(self, dtype: str) -> Hollow:
        """The model without weights, as it would compute in ``dtype``, for those who plan."""
        from hone.policies.hollow import Hollow

        return Hollow(self, getattr(torch, dtype))

    @property
    def shares_context(self) -> bool:
        """Whether a row may hold several branches behind one context."""
        return self.share_context and self.takes_masks

    @property
    def causal_lm(self) -> nn.Module:
        """The transformers model, inside the adapters if there are any."""
        return self.model.get_base_model() if self.lora else self.model

    @property
    def backbone(self) -> nn.Module:
        """Everything below the head."""
        return self.causal_lm.get_decoder()

    @property
    def text_config(self) -> Any:
        """The configuration of the text model."""
        return self.causal_lm.config.get_text_config()

    def logits(self, hidden: Tensor) -> Tensor:
        """``[N, D] -> [N, V]``: the head, with the scaling and soft-capping that some models put behind it."""
        output = self.causal_lm.get_output_embeddings()
        logits = output(hidden.to(output.weight.dtype))
        config = self.text_config
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if scaling := getattr(config, "logits_scaling", None):
            logits = logits / scaling
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits.float() / cap)
        return logits

    def encode(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Lay rows out as ``[B, T]`` tensors; see :mod:`hone.policies.layout`. A packed one brings its tree."""
        inputs = layout.encode(rows, self.device)
        if not self.packs:
            return inputs
        [row] = rows
        return {**inputs, "tree": tree.Tree.of(row, inputs["end"][0], inputs["position_ids"][0])}

    def score(self, batch: Batch) -> Scores:
        """Log-probabilities and entropies of the batch's masked steps, by the weights as they are now."""
        found = (self._score or self._scored)(batch.inputs, batch.mask, batch.temperature, batch.processes)
        empty = found.new_zeros(batch.mask.shape)
        return Scores(*(empty.index_put(batch.mask.nonzero(as_tuple=True), values) for values in found))

    def _scored(self, inputs: Mapping[str, Any], mask: Tensor, temperature: float, processes: int) -> Tensor:
        return scores.scored(self, inputs, mask, temperature, processes)

    def spread(self, processes: int) -> None:
        """Make ready to score rows that lie over so many processes; see :func:`hone.policies.sequence.prepare`."""
        sequence.prepare(self, processes)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights in float32."""
        return self.masters.parameters()

    def advance(self) -> None:
        """Put updated weights into effect."""
        self.masters.publish()
        self.version += 1

    @property
    def tolerance(self) -> float:
        """Nats by which log-probabilities that are computed in two ways may differ."""
        return parity.tolerance(self)

    def fingerprint(self) -> dict[str, int]:
        """Checksums of the trained weights, rounded as the model must hold them."""
        own = ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)
        return checksums(self.masters.rounded() if self.masters else own)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights as the model computes with them; see :func:`hone.policies.handover.weights`."""
        return handover.weights(self.causal_lm)

    def outline(self, folder: Path) -> None:
        """Write configuration and tokenizer to ``folder``, without weights, of which none need be loaded."""
        from transformers import AutoConfig, AutoTokenizer

        if self.model is not None:
            handover.outline(self.causal_lm.config, folder, type(self.causal_lm))
            self.renderer.tokenizer.save_pretrained(folder)
        else:
            where = locate(self.path)
            handover.outline(AutoConfig.from_pretrained(where, trust_remote_code=False), folder)
            AutoTokenizer.from_pretrained(where, trust_remote_code=False).save_pretrained(folder)

    def frozen_copy(self) -> FrozenLM:
        """The policy as it is now; with LoRA, the base model, which costs no memory."""
        return FrozenLM(self)

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights in float32; where they are sharded, the first process has them."""
        return self.masters.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over trainable weights."""
        self.masters.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer`` load as it is.

        A full fine-tune is written in the precision that it computes in: bit for bit the model that was sampled from
        and evaluated. The float32 weights behind it are in :meth:`state_dict`. How adapters are, :class:`LoRA` says.
        """
        if self._whole is not None:
            return self._whole.save(folder)
        self.renderer.tokenizer.save_pretrained(folder)
        if self.lora:
            self.lora.write(self.model, folder)
        else:
            self.model.save_pretrained(folder)
