"""What `hone serve` adds to the workers of a vLLM server, which import this file, and nothing else of hone's does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from hone.samplers.vllm_weights import unlike, words


class TakesWeights:
    """An extension of vLLM's worker: reads the weights that a trainer has written."""

    def take_weights(self, folder: str, check: bool) -> dict[str, Any]:
        """Take over the weights in a folder of safetensors, in place.

        Args:
            folder: Names in it are those of a checkpoint.
            check: Whether to compare what the model then holds.

        Returns:
            "unlike", the names of weights that differ, and "compared", the number of those that could be compared.
        """
        from safetensors import safe_open

        sent: dict[str, int] = {}

        def read() -> Iterator[tuple[str, Tensor]]:
            for path in sorted(Path(folder).glob("*.safetensors")):
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118  it is no mapping
                        weight = file.get_tensor(name)
                        if check:
                            sent.update(words(name, weight, self.model_config.dtype))
                        yield name, weight

        self.reload_weights(weights_iterator=read())
        alone = self.parallel_config.world_size == 1  # of several, each has a part of most weights
        model = self.model_runner.get_model()
        names, compared = unlike(model, sent, self.model_config.dtype) if check and alone else ([], 0)
        return {"unlike": names, "compared": compared}
