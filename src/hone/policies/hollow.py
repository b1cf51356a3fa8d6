"""A policy without weights: what its model counts, computes and keeps for the backward pass, from shapes alone.

The model is made on torch's meta device, which counts weights exactly, and passes run over fake tensors, which have a
shape and a type and no memory: whatever autograd would keep, and each product that would be computed, is seen there.
So no formula of an architecture is written down here, and none can be out of date.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hone import masks
from hone.policies import layers, scores, tree
from hone.policies.chat import ChatRenderer
from hone.policies.weights import locate
from hone.seats import Row
from hone.types import Message

if TYPE_CHECKING:
    from hone.policies.causal_lm import CausalLM


@dataclass(frozen=True)
class Shape:
    """Numbers of a model; a weight that two modules share counts once.

    Attributes:
        parameters: All weights, adapters included.
        held: Bytes of them.
        trained: Those that learn.
        rounded: Of these, those that are kept in float32 elsewhere, since the model has them in another type.
        adapted: Modules that have an adapter.
        products: Multiplications for a token in the backbone's matrix products.
        pairs: FLOPs of attention for a query and a key, all layers together.
        head: Weights of the output embedding, also where it is tied.
        head_trained: Whether these learn.
        cache: Numbers that a token leaves in the key-value cache.
        layers: How many.
        largest_layer: Weights of the largest.
        outside: Weights in no layer: embeddings, the head, the last norm.
        vocabulary, width: Of a row of logits, and of a hidden state.
    """

    parameters: int
    held: int
    trained: int
    rounded: int
    adapted: int
    products: int
    pairs: int
    head: int
    head_trained: bool
    cache: int
    layers: int
    largest_layer: int
    outside: int
    vocabulary: int
    width: int


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps of a forward pass for the backward pass, weights left out.

    Attributes:
        total: Of the backbone.
        layer: Of the layer that keeps most.
        inputs: Of what enters the layers, which is kept even where layers are recomputed.
        outside: Of the backbone outside of its layers.
    """

    total: int
    layer: int
    inputs: int
    outside: int


class Hollow:
    """A policy's model without its weights.

    Args:
        policy: Not loaded, and left as it is; its ``path`` must lead to a ``config.json``.
        dtype: In which it would compute.
    """

    def __init__(self, policy: CausalLM, dtype: torch.dtype) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(locate(policy.path), trust_remote_code=False)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft asks it
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            model = policy.lora.wrap(model) if policy.lora else model
        self._fakes = FakeTensorMode()
        with self._fakes:
            weights = {id(w): nn.Parameter(_fake(w), w.requires_grad) for w in model.parameters()}
            weights |= {id(buffer): _fake(buffer) for buffer in model.buffers()}
        self.policy = copy.copy(policy)
        self.policy.model, self.policy.device = copy.deepcopy(model, weights).eval(), torch.device("cpu")
        self._way = self.policy.causal_lm.config._attn_implementation
        self.packs = policy.share_context and self._way == "sdpa"
        self._kept: dict[Any, Kept] = {}
        self.shape = self._shape()

    def _shape(self) -> Shape:
        model, policy = self.policy.model, self.policy
        head = policy.causal_lm.get_output_embeddings().weight
        inside = [sum(w.numel() for w in layer.parameters()) for layer in layers.blocks(model)]
        every = sum(w.numel() for w in model.parameters())
        trained = [w for w in model.parameters() if w.requires_grad]
        one, two = self._flops(1), self._flops(2)
        pairs = (two - 2 * one) // 2  # of n tokens: 2 products * n + pairs * n * n
        return Shape(
            parameters=every,
            held=sum(w.numel() * w.element_size() for w in model.parameters()),
            trained=sum(w.numel() for w in trained),
            rounded=sum(w.numel() for w in trained if w.dtype != torch.float32),
            adapted=len(trained) // 2 if policy.lora else 0,
            products=(one - pairs) // 2,
            pairs=pairs,
            head=head.numel(),
            head_trained=head.requires_grad,
            cache=self._cache(),
            layers=len(inside),
            largest_layer=max(inside, default=0),
            outside=every - sum(inside),
            vocabulary=head.shape[0],
            width=head.shape[1],
        )

    def kept(self, row: Row, *, packed: bool) -> Kept:
        """What an update of a row keeps.

        Args:
            row: Its segments' actions may be ranges.
            packed: Whether its branches are attended to one by one, as on a CPU, which copies the keys that they
                share; else as one long row, which keeps what flex_attention does.
        """
        packed = packed and self.packs
        seen = packed, *((len(branch), branch.parent) for branch in row.branches)
        if seen not in self._kept:
            self._kept[seen] = self._keeping(row, packed)
        return self._kept[seen]

    def _keeping(self, row: Row, packed: bool) -> Kept:
        way = masks.TREE if packed else self._way
        with self._attending(way), _Keeping(self.policy.model) as keeping:
            if packed:
                inputs = self._inputs(row)
                with self._fakes:
                    scores.hidden(self.policy, inputs)
            else:
                with self._fakes:
                    self.policy.backbone(input_ids=torch.zeros(1, len(row), dtype=torch.int64), use_cache=False)
        return keeping.found()

    def lengths(self, asked: Sequence[Sequence[Message]]) -> list[int]:
        """Tokens of prompts, as the policy's tokenizer and its template make them of messages."""
        from transformers import AutoTokenizer

        renderer = ChatRenderer(AutoTokenizer.from_pretrained(locate(self.policy.path), trust_remote_code=False))
        return [len(renderer.prompt(messages)) for messages in asked]

    def _inputs(self, row: Row) -> dict[str, Any]:
        """The row as the policy lays it out, in fake tensors."""
        self.policy.packs = True
        inputs = self.policy.encode([row])
        held = {name: self._fakes.from_tensor(v) for name, v in inputs.items() if isinstance(v, Tensor)}
        held["tree"] = tree.Tree(inputs["tree"].siblings, held["end"][0], held["position_ids"][0])
        return held

    def _flops(self, tokens: int) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        with self._attending("eager"), self._fakes, torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.policy.backbone(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=False)
        return counter.get_total_flops()

    def _cache(self) -> int:
        with self._fakes, torch.no_grad():
            made = self.policy.backbone(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True)
        cache = made["cache"] if "cache" in made else made["past_key_values"]
        return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)

    @contextmanager
    def _attending(self, way: str) -> Iterator[None]:
        if way == masks.TREE:
            tree.use(self.policy.causal_lm)
        else:
            self.policy.causal_lm.set_attn_implementation(way)
        try:
            yield
        finally:
            self.policy.causal_lm.set_attn_implementation(self._way)


class _Keeping:
    """Sees what autograd keeps, and in which layer; the same memory counts once, and the model's own not at all."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._own = {_place(w) for w in (*model.parameters(), *model.buffers())}
        self._seen: dict[int, Any] = {}
        self._total, self._inputs, self._layers = 0, 0, []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def __enter__(self) -> _Keeping:
        self._handles = [
            handle
            for layer in layers.blocks(self.model)
            for handle in (layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave))
        ]
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _keep(self, tensor: Tensor) -> Tensor:
        if (place := _place(tensor)) not in self._own and place not in self._seen:
            self._seen[place] = tensor  # held, so that its place stays its own
            self._total += tensor.untyped_storage().nbytes()
        return tensor

    def _enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inputs += inputs[0].numel() * inputs[0].element_size()
        self._layers.append(-self._total)

    def _leave(self, *_: object) -> None:
        self._layers[-1] += self._total

    def found(self) -> Kept:
        """The sums."""
        return Kept(self._total, max(self._layers, default=0), self._inputs, self._total - sum(self._layers))


def _fake(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device="cpu")


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
