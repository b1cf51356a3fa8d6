"""Linear layers on a CPU, with weights laid out anew for products with few rows.

A decode step multiplies every weight by a few rows, and as a weight lies in a model, a CPU reads it far below the rate
of its memory. oneDNN knows a layout of blocks that it reads faster; what torch's compiler does with frozen weights is
done here for as long as the weights stay as they are. It costs a copy of them, which takes as long as a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from torch import Tensor, nn

ROWS = 64
"""That the layout is asked for; from 8 on it is the same for all."""


class Prepacked:
    """The linear layers of a model, prepacked. Where that gains nothing, there are none.

    Args:
        model: Its layers are looked at now; they stay as they are but under :meth:`used`.
        version: Of its weights.
    """

    def __init__(self, model: nn.Module, version: int) -> None:
        self._version = version
        modules = list(model.modules())
        compiled = any(hasattr(module, "is_fused") for module in modules)  # by a compiler that knows no such products
        layers = [] if compiled else [layer for layer in modules if type(layer) is nn.Linear and _can(layer)]
        self._seen = [(layer.weight, _state(layer.weight)) for layer in layers]
        self._forwards = [(layer.__dict__, _forward(layer)) for layer in layers]

    def fresh(self, version: int) -> bool:
        """Whether the weights, now of this version, are what they were.

        Torch counts what is written to a tensor, but for what its fused optimisers write.
        """
        return version == self._version and all(_state(weight) == state for weight, state in self._seen)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Meanwhile the layers multiply by prepacked weights, and know no gradient."""
        for attributes, forward in self._forwards:
            attributes["forward"] = forward
        try:
            yield
        finally:
            for attributes, _ in self._forwards:
                del attributes["forward"]


def _can(layer: nn.Linear) -> bool:
    plain = type(layer.weight) is nn.Parameter and "forward" not in layer.__dict__
    return plain and gains(layer.weight.dtype, layer.weight.device.type)


def gains(dtype: torch.dtype, device: str) -> bool:
    """Whether products are taken to be faster by prepacked weights.

    Where there are kernels for it, that is, and by the kind of processor: a measurement could come out otherwise in the
    next process, and a run that is resumed there would not go on to the same bits.
    """
    if device != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    return dtype in (torch.float32, torch.bfloat16) and _works(dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the functions, which are not public."""
    ones = torch.ones(16, 16, dtype=dtype)
    try:
        return bool((_product(_packed(ones), None, ones) == 16).all())
    except (AttributeError, RuntimeError):
        return False


def _forward(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    bias = None if layer.bias is None else layer.bias.detach()
    return partial(_product, _packed(layer.weight.detach()), bias)


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _product(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def _state(weight: Tensor) -> tuple[int, int]:
    """Which changes when the weight is written to, or is another."""
    return weight.data_ptr(), weight._version
