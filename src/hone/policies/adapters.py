"""Low-rank adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hone.seats import settings


@settings
class LoRA:
    """Low-rank adapters by peft (arXiv 2106.09685): only these train, the base model is the implicit reference.

    Attributes:
        rank: Of the update matrices.
        alpha: The update is scaled by ``alpha / rank``.
        targets: Names of the modules that get an adapter; "all-linear" is every linear layer but the head.
        save: What a checkpoint holds: the "adapter", or the model with the adapter "merged" into it, or "both"
            (merged, with the adapter in a folder beside it). Each of them loads with ``from_pretrained``.
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
            copy.deepcopy(model).merge_and_unload().save_pretrained(folder)
