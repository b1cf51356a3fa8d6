"""Low-rank adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from hone.seats import settings


@settings
class LoRA:
    """Low-rank adapters by peft (arXiv 2106.09685): only these train, the base model is the implicit reference.

    Attributes:
        rank: Of the update matrices.
        alpha: The update is scaled by ``alpha / rank``.
        targets: Names of the modules that get an adapter; "all-linear" is every linear layer but the head.
        save: What a checkpoint holds: the "adapter", or the model with the adapter "merged" into it, or "both"
            (merged, with the adapter in a folder beside it). Each of them loads with ``from_pretrained``. What is
            merged is in float32, whatever the model computes in: see :func:`merged`.
    """

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: str | list[str] = "all-linear"
    save: Literal["merged", "adapter", "both"] = "both"

    def wrap(self, model: Any) -> Any:
        """Put fresh adapters into a transformers model; the rest of it is frozen.

        Raises:
            ValueError: If only one of two modules that share their weight would be adapted.
        """
        from peft import LoraConfig, get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=self.targets, task_type="CAUSAL_LM")
        wrapped = get_peft_model(model, config)
        ends = model.get_input_embeddings(), model.get_output_embeddings()
        if ends[0].weight is ends[1].weight and any(isinstance(end, BaseTunerLayer) for end in ends):
            raise ValueError(
                f"lora.targets: {self.targets} holds the embedding or the head, which are one weight in this model; an "
                "adapter on either could not be merged into it"
            )
        return wrapped

    def write(self, model: Any, folder: Path) -> None:
        """Write the adapted model as ``save`` asks."""
        if self.save != "merged":
            model.save_pretrained(folder if self.save == "adapter" else folder / "adapter")
        if self.save != "adapter":
            merged(model).save_pretrained(folder)


def merged(model: Any) -> Any:
    """A copy of an adapted model with the adapters in its weights: in float32, in the host's memory.

    The sum does not fit into a lower precision. A bfloat16 weight has 8 bits of mantissa, so of an update that is a
    thousandth of it nothing is left, and what was saved would be nearly the base model. The same befalls this copy if
    it is loaded in bfloat16: what computes in that should load the adapter, beside the base model.
    """
    held = {id(weight): _float32(weight) for weight in model.parameters()}  # one for two where they are tied
    held |= {id(buffer): buffer.detach().to("cpu", copy=True) for buffer in model.buffers()}
    return copy.deepcopy(model, held).merge_and_unload()


def _float32(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().to("cpu", torch.float32, copy=True), requires_grad=False)
