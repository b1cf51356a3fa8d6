"""AlphaOne for vLLM: one adapter for each of its two model runners, over the state machine of ``alphaone.py``.

::

    LLM(model, logits_processors=["hone.papers.alphaone_vllm:AlphaOneV1"])       # the V1 runner
    LLM(model, logits_processors=["hone.papers.alphaone_vllm:AlphaOneV2"])       # the newer model runner, V2
    SamplingParams(seed=7, extra_args={"alphaone": {"n_think": 1700}})           # a request that uses it

The settings are those of :class:`~hone.papers.alphaone.AlphaOne`; a request without them is left alone. Its ``seed`` is
required, for the coins are keyed by it. What was imposed is found again from the tokens by ``AlphaOne.marks``.

The interfaces are those of ``vllm/v1/sample/logits_processor/interface.py`` and of
``vllm/v1/worker/gpu/sample/logits_processor/interface.py`` (documented with vLLM 0.32). Both run before temperature
and truncation; V1 applies penalties behind custom processors, and with those the probabilities are not exact.

Both have been run in vLLM 0.32's CPU build (``tests/engines``). The kernels of V2 are Triton's; on a CPU they were
interpreted, since that build brings no compiler for them. **On a GPU neither has been run.** The tests also drive the
methods of both with streams of updates made by hand: preemption and speculation have been seen only there.

Traps, and what is done about them:

- Under asynchronous scheduling the lists of V1 hold -1 for tokens that are not known yet. vLLM fills them in before it
  applies processors that were registered with the engine, so they are read then and not in ``update_state``; one that
  is left is an error.
- A preempted request comes back as a new one that has tokens already, with V2 in another slot: its state is made anew
  from them.
- V2 recycles slots and reorders rows at each step, and with speculative decoding has a row for each draft token. Its
  tokens are on the device: reading them waits for it, once a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hone.papers.alphaone import AlphaOne, Course

if TYPE_CHECKING:
    from torch import Tensor

KEY = "alphaone"
"""Of the settings, in ``SamplingParams.extra_args``."""


class _Adapter:
    """What both have in common: requests' settings, and the tokenizer."""

    _tokenizer: Any

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request with wrong settings when it arrives.

        Raises:
            ValueError: It says which.
        """
        _settings(sampling_params)

    def _start(self, params: Any) -> tuple[AlphaOne, Course] | None:
        settings = _settings(params)
        if settings is None:
            return None
        alphaone = _bound(settings, self._tokenizer)
        return alphaone, alphaone.begin(params, mass=True)

    def _write(self, courses: Mapping[int, tuple[AlphaOne, Course]], logits: Tensor) -> Tensor:
        """Each request's own settings: those of the same are written at once."""
        from hone.papers.alphaone_logits import write

        for each in {id(alphaone): alphaone for alphaone, _ in courses.values()}.values():
            logits = write(each, {row: course for row, (own, course) in courses.items() if own is each}, logits)
        return logits


class V1Adapter(_Adapter):
    """vLLM's V1 runner: rows are indices of a persistent batch, of which ``update_state`` tells the changes.

    Args:
        vllm_config: Its ``model_config`` names the tokenizer.
        device: Unused: the logits say where they are.
        is_pin_memory: Unused.
    """

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._tokenizer = _tokenizer(vllm_config)
        self._requests: dict[int, tuple[AlphaOne, Course, Sequence[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """It changes what is likeliest."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the batch: what was removed, then what was added, then what was moved."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._requests.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._requests.pop(index, None)
            if started := self._start(params):
                self._requests[index] = (*started, output)  # the list itself: it grows
        for source, target, direction in batch_update.moved:
            moved, displaced = self._requests.pop(source, None), self._requests.pop(target, None)
            if moved is not None:
                self._requests[target] = moved
            if displaced is not None and direction.name == "SWAP":
                self._requests[source] = displaced

    def apply(self, logits: Tensor) -> Tensor:
        """Write what is imposed into the ``[B, V]`` logits, in place.

        Raises:
            RuntimeError: If a token before the one to be sampled is not known yet.
        """
        courses = {}
        for index, (alphaone, course, output) in self._requests.items():
            for token in output[course.t :]:
                if token < 0:
                    raise RuntimeError(
                        "alphaone: vLLM has not filled in the token before this one; start the engine with "
                        "async_scheduling=False"
                    )
                alphaone.see(course, token)
            courses[index] = alphaone, course
        return self._write(courses, logits)


class V2Adapter(_Adapter):
    """vLLM's model runner V2: requests have slots, and rows of logits are told anew at each step.

    Args:
        vllm_config: Its ``model_config`` names the tokenizer.
        req_states: The runner's own buffers, which are read.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._tokenizer, self._states = _tokenizer(vllm_config), req_states
        self._requests: dict[int, tuple[AlphaOne, Course]] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take a request into a slot, whatever was in it; returns whether its logits are changed."""
        self._requests.pop(req_idx, None)
        if started := self._start(sampling_params):
            self._requests[req_idx] = started
        return req_idx in self._requests

    def apply_staged_writes(self) -> None:
        """There are none."""

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Write what is imposed into the ``[rows, V]`` logits, in place."""
        slots = [slot for slot in dict.fromkeys(ctx.idx_mapping_np.tolist()) if slot in self._requests]
        if not slots:
            return logits
        self._catch_up(slots)
        rows, drafts = ctx.expanded_idx_mapping.tolist(), ctx.expanded_local_pos.tolist()
        inputs = ctx.input_ids.tolist() if any(drafts) else []
        courses, ahead = {}, {}
        for row, slot in enumerate(rows):
            if slot not in self._requests:
                continue
            alphaone, course = self._requests[slot]
            if drafts[row]:  # as if the draft token that was fed here had been accepted
                course = copy(ahead[slot])
                alphaone.see(course, inputs[row])
            ahead[slot] = course
            courses[row] = alphaone, course
        return self._write(courses, logits)

    def _catch_up(self, slots: Sequence[int]) -> None:
        """Read the committed tokens that are new; there is one, or all of a request that is."""
        import torch

        total = self._states.total_len.gpu[slots].tolist()
        seen = [int(self._states.prompt_len.np[slot]) + self._requests[slot][1].t for slot in slots]
        width = max(end - start for start, end in zip(seen, total, strict=True))
        if width <= 0:
            return
        held = self._states.all_token_ids.gpu
        place = torch.tensor(seen, device=held.device)[:, None] + torch.arange(width, device=held.device)
        place.clamp_(max=held.shape[1] - 1)
        for slot, start, end, new in zip(slots, seen, total, held[slots].gather(1, place).tolist(), strict=True):
            alphaone, course = self._requests[slot]
            for token in new[: max(0, end - start)]:
                alphaone.see(course, token)


def _settings(params: Any) -> str | None:
    """The settings of a request, checked, as JSON; None if it has none."""
    given = (params.extra_args or {}).get(KEY)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(f"extra_args.{KEY} = {given!r}: should be a mapping of the settings of alphaone")
    if AlphaOne(**given).n_think is None:
        raise ValueError(f"extra_args.{KEY}.n_think: required")
    if params.seed is None:
        raise ValueError(f"seed: required with extra_args.{KEY}, for the draws of alphaone are keyed by it")
    return json.dumps(given, sort_keys=True)


@cache
def _bound(settings: str, tokenizer: Any) -> AlphaOne:
    made = AlphaOne(**json.loads(settings))

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode(list(tokens), skip_special_tokens=True)

    made.bind(SimpleNamespace(reply=lambda text: SimpleNamespace(actions=encode(text)), decode=decode))
    return made


def _tokenizer(vllm_config: Any) -> Any:
    from transformers import AutoTokenizer

    model = vllm_config.model_config
    return AutoTokenizer.from_pretrained(
        model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=model.trust_remote_code
    )


@cache
def _subclass(name: str) -> type:
    """The adapter as a subclass of vLLM's own interface, which the engine asks for."""
    if name == "AlphaOneV1":
        from vllm.v1.sample.logits_processor import LogitsProcessor

        return type(name, (V1Adapter, LogitsProcessor), {"__module__": __name__, "__doc__": V1Adapter.__doc__})
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

    return type(name, (V2Adapter, LogitsProcessor), {"__module__": __name__, "__doc__": V2Adapter.__doc__})


def __getattr__(name: str) -> type:
    """``AlphaOneV1`` and ``AlphaOneV2``: made when they are asked for, so that vLLM need not be installed before."""
    if name in ("AlphaOneV1", "AlphaOneV2"):
        return _subclass(name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
