"""Names for YAML: which implementation sits behind ``verifier: math``, and in which room.

The only file that knows the implementations' addresses, and it knows them as strings: a module is imported when its
name is asked for. What is not listed here is named by its own address, ``my_module:MyVerifier``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from operator import attrgetter
from typing import Any

from hone import seats

SEATS: dict[str, type] = {
    "policy": seats.Policy,
    "engine": seats.Engine,
    "sampler": seats.Sampler,
    "processor": seats.Processor,
    "tasks": seats.TaskSource,
    "environment": seats.Environment,
    "verifier": seats.Verifier,
    "advantage": seats.Advantage,
    "gate": seats.Gate,
    "shaper": seats.Shaper,
    "surrogate": seats.Surrogate,
    "reduction": seats.Reduction,
    "field": seats.StepField,
    "objective": seats.Objective,
    "hook": seats.Hook,
    "trigger": seats.Trigger,
    "writer": seats.Writer,
}
"""The protocol that everything in a room satisfies."""

REGISTRY: dict[str, dict[str, str]] = {
    "policy": {"causal_lm": "hone.policies.causal_lm:CausalLM"},
    "engine": {"ddp": "hone.engines.ddp:DDP", "fsdp": "hone.engines.fsdp:FSDP"},
    "sampler": {
        "native": "hone.samplers.native:NativeSampler",
        "vllm": "hone.samplers.vllm_engine:VLLMSampler",
        "vllm_server": "hone.samplers.vllm_server:VLLMServers",
    },
    "processor": {
        "alphaone": "hone.papers.alphaone:AlphaOne",
        "budget_forcing": "hone.papers.budget_forcing:BudgetForcing",
    },
    "tasks": {
        "files": "hone.tasks.files:Files",
        "hub": "hone.tasks.files:Hub",
        "inline": "hone.tasks.files:Inline",
        "reasoning_gym": "hone.tasks.reasoning_gym:ReasoningGym",
        "mixture": "hone.tasks.mixture:Mixture",
        "failures": "hone.tasks.failures:Failures",
        "synthrl": "hone.papers.synthrl:SynthRL",
    },
    "environment": {
        "single_turn": "hone.envs.single_turn:SingleTurn",
        "reflect_retry": "hone.papers.reflect_retry:ReflectRetry",
    },
    "verifier": {
        "math": "hone.verifiers.mathematics:MathVerifier",
        "choice": "hone.verifiers.choice:ChoiceVerifier",
        "exact": "hone.verifiers.exact:ExactVerifier",
        "countdown": "hone.verifiers.countdown:CountdownVerifier",
        "function_call": "hone.verifiers.function_call:FunctionCallVerifier",
        "grid": "hone.verifiers.grid:GridVerifier",
        "ifeval": "hone.verifiers.ifeval:IFEvalVerifier",
        "format": "hone.verifiers.format:FormatVerifier",
        "reasoning_gym": "hone.verifiers.reasoning_gym:ReasoningGymVerifier",
        "code": "hone.verifiers.code:CodeVerifier",
        "combine": "hone.verifiers.combine:Combine",
    },
    "advantage": {
        "zscore": "hone.math.advantages:zscore",
        "centred": "hone.math.advantages:centred",
        "leave_one_out": "hone.math.advantages:leave_one_out",
        "batch_whitened": "hone.math.advantages:batch_whitened",
        "raw": "hone.math.advantages:raw",
    },
    "gate": {"informative": "hone.math.gates:informative", "everything": "hone.math.gates:everything"},
    "shaper": {
        "overlong": "hone.math.shaping:overlong",
        "mask_truncated": "hone.math.shaping:mask_truncated",
        "kl_reward": "hone.math.shaping:kl_reward",
        "stop_properly": "hone.math.shaping:stop_properly",
        "cosine_length": "hone.math.shaping:cosine_length",
    },
    "surrogate": {
        "ppo_clip": "hone.math.surrogate:ppo_clip",
        "gspo": "hone.math.surrogate:gspo",
        "cispo": "hone.math.surrogate:cispo",
        "reinforce": "hone.math.surrogate:reinforce",
    },
    "reduction": {
        "token_mean": "hone.math.reduce:token_mean",
        "sequence_mean": "hone.math.reduce:sequence_mean",
        "constant": "hone.math.reduce:constant",
    },
    "field": {
        "kl_penalty": "hone.math.divergence:kl_penalty",
        "entropy_bonus": "hone.math.divergence:entropy_bonus",
        "truncated_importance": "hone.math.mismatch:truncated_importance",
        "masked_importance": "hone.math.mismatch:masked_importance",
        "high_entropy": "hone.papers.high_entropy:HighEntropy",
    },
    "objective": {"policy_gradient": "hone.objectives.policy_gradient:PolicyGradient"},
    "hook": {
        "evaluate": "hone.hooks.evaluate:Evaluate",
        "log": "hone.hooks.log:Log",
        "checkpoint": "hone.hooks.checkpoint:Checkpoint",
        "live": "hone.hooks.live:Live",
        "budget": "hone.hooks.budget:Budget",
        "guard": "hone.guards.guard:Guard",
        "prorl": "hone.papers.prorl:ProRL",
    },
    "trigger": {
        "at": "hone.math.triggers:at",
        "every": "hone.math.triggers:every",
        "plateau": "hone.math.triggers:plateau",
        "spike": "hone.math.triggers:spike",
    },
    "writer": {"policy": "hone.writers.policy:PolicyWriter", "openai": "hone.writers.openai:OpenAIWriter"},
}
"""Room -> name -> address. A new implementation costs one line here."""

DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""An address: ``package.module:attribute``."""


class ConfigError(ValueError):
    """What is wrong with a configuration: every problem found, each with its YAML path and what would be right."""

    def __init__(self, problems: str | Sequence[str], source: object = None):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.source}: {self.problems[0]}" if self.source else self.problems[0]
        count = f"{len(self.problems)} problems"
        return "\n  ".join([f"{self.source}: {count}" if self.source else count, *self.problems])


def find(room: str, name: str) -> Any:
    """Import and return what a name of the room, or an address, stands for.

    Raises:
        ConfigError: There is no such name or address; the nearest valid name is in the message.
    """
    names = REGISTRY[room]
    if is_name(room, name):
        return _imported(names.get(name, name))
    raise ConfigError(f"no {room} has this name; {suggest(name, names)}, or an address such as my_module:my_{room}")


def is_name(room: str, name: str) -> bool:
    """Whether the name is registered in the room, or is an address."""
    return name in REGISTRY[room] or DOTTED.fullmatch(name) is not None


def name_of(implementation: Any) -> str:
    """The registered name of a class or function, or its address."""
    address = f"{implementation.__module__}:{implementation.__qualname__}"
    registered = {home: name for room in REGISTRY.values() for name, home in room.items()}
    return registered.get(address, address)


def suggest(name: str, valid: Iterable[str]) -> str:
    """The nearest valid name and the list of all, for the end of an error message."""
    valid = sorted(valid)
    nearest = get_close_matches(name, valid, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}valid: {', '.join(valid) or 'none'}"


def _imported(address: str) -> Any:
    module, _, attribute = address.partition(":")
    # A console script does not search the working directory, where a user's module lies. It goes last, so that no
    # stray file there can stand before an installed package, and it stays, for worker processes inherit the path.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        home = import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import {module}: {error}") from error
    try:
        return attrgetter(attribute)(home)
    except AttributeError as error:
        raise ConfigError(f"{module} has no {attribute}; {suggest(attribute, _public(home))}") from error


def _public(module: Any) -> list[str]:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in own if not name.startswith("_")]
