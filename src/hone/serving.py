"""``hone serve``: a vLLM server for the sampler ``vllm_server`` of a configuration."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import NoReturn

import torch

from hone.config import Config
from hone.samplers import vllm_compat
from hone.samplers.vllm_meeting import is_loopback


def serve(config: Config, host: str, port: int) -> NoReturn:
    """Become vLLM's server, with hone's endpoints and without weights: the first come from a trainer.

    Args:
        config: Its sampler is ``vllm_server``.
        host: To bind to.
        port: Likewise.

    Raises:
        ImportError: If there is no vLLM that hone knows.
        ValueError: If the configuration has another sampler or leaves the type of the weights open, or others could
            reach the server without a key.
    """
    sampler, model = config.sampler, config.model
    if not hasattr(sampler, "exchange"):
        raise ValueError("sampler: should be vllm_server, whose settings the server has")
    if not hasattr(model, "outline"):
        raise ValueError("model: should be one that writes its outline, such as causal_lm")
    if not is_loopback(host) and not os.environ.get(vllm_compat.KEY):
        raise ValueError(f"--host {host}: others reach it; set a key in {vllm_compat.KEY}, here and for the trainer")
    if getattr(model, "dtype", None) == "auto":
        raise ValueError(
            "model.dtype: auto: trainer and server would each choose for themselves; set bfloat16 or float32"
        )
    if sampler.way == "ipc" and not torch.cuda.is_available():
        raise ValueError("sampler.vllm_server.transfer: ipc goes through a GPU's memory, and there is none here")
    vllm_compat.require()
    vllm_compat.refuse_unknown(sampler.engine, "sampler.vllm_server.engine")
    taking = {vllm_compat.TRANSFER: sampler.way}
    if sampler.exchange is None:
        outline = Path(tempfile.mkdtemp(prefix="hone-model-"))
        taking[vllm_compat.SCRATCH] = str(outline)  # this process becomes another, which removes it
    else:
        taking[vllm_compat.EXCHANGE] = sampler.exchange
        outline = Path(sampler.exchange, f"model-{platform.node()}-{port}").absolute()
        outline.mkdir(parents=True, exist_ok=True)
    model.outline(outline)
    arguments = sampler.arguments(getattr(model, "dtype", "auto"))
    command, environment = vllm_compat.serving(str(outline), arguments, taking, host, port)
    os.execvpe(command[0], command, {**os.environ, **environment})
