"""Every name of vLLM that hone relies on, and the releases that have them.

What is here was run with vLLM 0.32 in its CPU build; a further release is added by trying it and moving the range, here
and in the extra ``vllm`` of ``pyproject.toml``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from hone.samplers.vllm_weights import unlike

SUPPORTED = ">=0.32,<0.33"
PACKAGES = ("vllm", "vllm-cpu")
"""The build for accelerators, and that for the CPU, of the same releases."""

OWN = {
    "model": "model.path", "tokenizer": "model.path", "dtype": "model.dtype", "load_format": "model.path",
    "max_num_seqs": "sampler's max_sequences", "max_model_len": "sampler's context",
    "gpu_memory_utilization": "sampler's memory", "logits_processors": "sampler's processors",
}  # fmt: skip
"""Arguments of the engine that other settings make."""
FIXED = (
    "logprobs_mode", "generation_config", "skip_tokenizer_init", "enable_sleep_mode", "seed", "worker_extension_cls",
    "trust_remote_code", "hf_token",
)  # fmt: skip
"""Arguments of the engine that are what hone needs them to be."""


GENERATE, HEALTH, WEIGHTS = "/inference/v1/generate", "/health", "/inference/hone/weights"
"""Paths of a server: tokens to tokens; whether the engine lives; hone's own, in ``vllm_endpoints.py``."""
SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""The module that is a server; the command `vllm` does not start in the CPU build."""
TRANSFER, EXCHANGE, KEY, SCRATCH = "HONE_TRANSFER", "HONE_EXCHANGE", "HONE_API_KEY", "HONE_SCRATCH"
"""Environment: how a server's weights come, and in which folder; the key that they ask for; what to remove then."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A finished request: token ids, one log-probability in nats each, and vLLM's reason to stop."""

    id: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str
    cached: int = 0
    """Tokens of the context that another request had computed."""


def require() -> None:
    """Refuse to go on without a vLLM that is known to work.

    Raises:
        ImportError: There is none, or another release; it says what to install.
    """
    from packaging.specifiers import SpecifierSet

    mend = f'pip install "vllm{SUPPORTED}" (or hone-rl[vllm]); for a CPU alone: scripts/setup-vllm-cpu'
    found = next(filter(None, map(_installed, PACKAGES)), None)
    if found is None:
        raise ImportError(f"sampler: vLLM is not installed; {mend}")
    if not SpecifierSet(SUPPORTED).contains(found, prereleases=True):
        raise ImportError(f"sampler: vLLM {found} is installed, and hone knows {SUPPORTED}; {mend}")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def refuse_unknown(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments of the engine that vLLM does not have, or that are not to be set here.

    Raises:
        ValueError: For the first of them; it names the setting.
    """
    from vllm.engine.arg_utils import EngineArgs

    known = sorted({field.name for field in dataclasses.fields(EngineArgs)} - OWN.keys() - set(FIXED))
    for name in arguments:
        if name in OWN:
            raise ValueError(f"{where}.{name}: is set by {OWN[name]}")
        if name in FIXED:
            raise ValueError(f"{where}.{name}: is what hone needs it to be")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ValueError(f"{where}.{name}: vLLM's engine has no such argument" + f"; {near[0]}?" * bool(near))


def quietly() -> None:
    """Defaults of the environment, for a process that has more to do than to run vLLM; what is set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer's threads are in the same process


class Engine:
    """vLLM's engine in this process, without a process or a thread of its own: whoever calls :meth:`step` computes.

    It is not safe for threads. It starts with arbitrary weights: call :meth:`load` before anything is sampled.

    Args:
        folder: With a model's configuration and tokenizer.
        arguments: Of vLLM's ``EngineArgs``, beside those that hone needs.
        joined: Whether this is one of several processes that have joined, in torchrun's environment. All of them have
            to start an engine at once, for vLLM makes its groups with them; then each is by itself.
    """

    def __init__(self, folder: str, arguments: Mapping[str, Any], joined: bool = False) -> None:
        quietly()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if arguments.get("logits_processors"):
            os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the interface for processors that is tried is V1's
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        own = {"model": folder, "load_format": "dummy", "seed": 0, "disable_log_stats": True}
        own |= {"logprobs_mode": "processed_logprobs", "generation_config": "vllm"} | _platform()
        if joined:
            own["distributed_executor_backend"] = "external_launcher"  # each engine has the device of LOCAL_RANK
            _spare_the_run()
        self._engine = LLMEngine.from_engine_args(EngineArgs(**{**own, **arguments}))
        self._live: set[str] = set()

    @property
    def longest(self) -> int:
        """Most tokens of a context and its continuation together."""
        return self._engine.model_config.max_model_len

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished."""
        return bool(self._live)

    def add(self, name: str, context: Sequence[int], asked: Mapping[str, Any]) -> None:
        """Take a request; ``asked`` are fields of vLLM's ``SamplingParams``."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(**asked, output_kind=RequestOutputKind.FINAL_ONLY)
        self._engine.add_request(name, tokens_input(list(context)), params)
        self._live.add(name)

    def step(self) -> list[Answer]:
        """Compute once for every request; the answers of those that it finishes."""
        answers = []
        for output in self._engine.step():
            if output.finished:
                made = output.outputs[0]
                chosen = [step[token].logprob for step, token in zip(made.logprobs, made.token_ids, strict=True)]
                answers.append(
                    Answer(
                        output.request_id, tuple(made.token_ids), tuple(chosen), made.finish_reason,
                        output.num_cached_tokens or 0,
                    )
                )  # fmt: skip
        self._live.difference_update(answer.id for answer in answers)
        return answers

    def keep(self, names: Collection[str]) -> None:
        """Drop all other requests."""
        if dropped := self._live.difference(names):
            self._engine.abort_request(sorted(dropped))
            self._live -= dropped

    def load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Take weights, by the names of a checkpoint, and forget what was computed with others.

        Raises:
            RuntimeError: If what was computed before cannot be dropped.
        """
        self.keep(())
        self._engine.engine_core.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("sampler: vLLM did not clear its prefix cache, which is of earlier weights")

    def unlike(self, sent: Mapping[str, int]) -> tuple[list[str], int]:
        """See :func:`unlike`."""
        model = self._engine.model_executor.driver_worker.model_runner.get_model()
        return unlike(model, sent, self._engine.model_config.dtype)

    def sleep(self) -> None:
        """Give the memory of weights and cache back, keeping the weights in the host's; on a CPU this does nothing."""
        self._engine.sleep(level=1)

    def wake(self) -> None:
        """Take it again."""
        self._engine.wake_up()

    def close(self) -> None:
        """Give everything back, so that another engine can start in this process."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        self._engine = None
        cleanup_dist_env_and_memory()


def _spare_the_run() -> None:
    """Have vLLM, wherever it ends an engine, take down the groups that it made, and not the one that it has found."""
    from vllm.distributed import parallel_state

    def destroy() -> None:
        if parallel_state._WORLD is not None:
            parallel_state._WORLD.destroy()
        parallel_state._WORLD = parallel_state._NODE_COUNT = None

    parallel_state.destroy_distributed_environment = destroy


def serving(
    folder: str, arguments: Mapping[str, Any], taking: Mapping[str, str], host: str, port: int
) -> tuple[list[str], dict[str, str]]:
    """The command that starts vLLM's server with hone's endpoints, and what it needs of the environment.

    Args:
        folder: With a model's configuration and tokenizer.
        arguments: Of vLLM's ``EngineArgs``.
        taking: ``TRANSFER``, and ``EXCHANGE`` where weights come in a folder, else ``SCRATCH``.
        host: To bind to.
        port: Likewise.
    """
    flags = {"host": host, "port": port, "load_format": "dummy", "generation_config": "vllm", "seed": 0}
    flags |= {"logprobs_mode": "processed_logprobs", "enable_scale_out": True, "disable_uvicorn_access_log": True}
    flags |= {"worker_extension_cls": "hone.samplers.vllm_worker.TakesWeights", **_platform(), **arguments}
    command = [sys.executable, "-m", SERVER, "--model", folder]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            command += [f"--{flag}", *map(str, value)]
        else:
            command += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    environment = {**taking, "VLLM_PLUGINS": "hone", "VLLM_NO_USAGE_STATS": "1"}
    if key := os.environ.get(KEY):
        environment["VLLM_API_KEY"] = key
    if arguments.get("logits_processors"):
        environment["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    return command, environment


def _platform() -> dict[str, Any]:
    """On a CPU a context is computed in one pass: behind a part of one, vLLM fails on requests that have a seed."""
    from vllm.platforms import current_platform

    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def workers(config: Any) -> dict[str, Any]:
    """Of a server's configuration the number of its workers, and the kind of device that they have."""
    return {"workers": config.parallel_config.world_size_across_dp, "device": config.device_config.device_type}


def free_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of a device's memory that are free, and all of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total
