"""The seats: what the trainer asks for, and nothing of who sits there.

An implementation is either a *settings class* (a class under :func:`settings`, whose fields are its settings) or a
plain function, whose keyword-only parameters are its settings. Both are named in YAML by the registry or by a dotted
path. A field annotated with a protocol of this file (``verifier: Verifier``, ``weights: list[StepField]``) is itself
filled from YAML by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, dataclass_transform, runtime_checkable

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from hone.keys import key
from hone.types import Batch, Completion, Group, Loss, Message, Score, Scores, Segment, Task, Trajectory

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass_transform(kw_only_default=True)
def settings(cls: type) -> type:
    """Make a class a validated dataclass whose fields are its settings: keyword-only, unknown names refused."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True)
    return validated(cls, config=config, kw_only=True)


@settings
class SamplingParams:
    """How tokens are drawn.

    ``seed`` is a key, not a setting: environments derive one per sample with :meth:`keyed`.

    Attributes:
        temperature: Divides the logits; 0 is greedy.
        top_p: Keep the smallest set of tokens whose probability reaches this.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        min_p: Keep tokens at least this fraction as likely as the likeliest.
        stop: Strings that end a sample; the string itself is kept.
        max_tokens: Most tokens per sample.
    """

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, lt=1)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    max_tokens: int = Field(256, ge=1)
    seed: int = 0

    def keyed(self, *parts: int | str) -> SamplingParams:
        """The same parameters with a seed derived from this seed and ``parts`` (task id, sibling, turn)."""
        return replace(self, seed=key(self.seed, *parts))

    @property
    def truncated(self) -> bool:
        """Whether some tokens can never be drawn, so that sampled log-probabilities are of another distribution."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def reads_reference(part: Any) -> bool:
    """Whether a part, possibly a function with its settings bound, reads the reference's log-probabilities.

    A part says so with an attribute ``reads_reference``; without it, or with a ``coefficient`` of 0, no reference
    policy is kept for its sake.
    """
    if isinstance(part, partial) and part.keywords.get("coefficient") == 0:
        return False
    return bool(getattr(part.func if isinstance(part, partial) else part, "reads_reference", False))


Verify = Callable[[Task, Trajectory], Awaitable[Score]]
"""A verifier put behind worker processes: awaitable, and it answers within its time limit."""


@runtime_checkable
class TaskSource(Protocol):
    """An iterator of tasks with a resumable cursor. Finite or endless."""

    def __iter__(self) -> Iterator[Task]: ...
    def __next__(self) -> Task: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Verifier(Protocol):
    """Judges a trajectory; runs in a worker process, so it must pickle and must not import torch.

    Wrong, empty or absurd answers score 0. Only a failure of the verifier itself may raise.
    """

    def __call__(self, task: Task, trajectory: Trajectory) -> Score: ...


@runtime_checkable
class Renderer(Protocol):
    """Chat messages to tokens and back, for one model; ``stop_tokens`` end a response."""

    stop_tokens: frozenset[int]

    def prompt(self, messages: Sequence[Message]) -> Segment: ...
    def decode(self, actions: Sequence[int]) -> str: ...


@runtime_checkable
class Sampler(Protocol):
    """Draws completions. ``sync`` binds or refreshes the weights; ``close`` frees what it holds."""

    renderer: Renderer
    processors: list[Processor]

    async def sample(self, context: Sequence[Segment], params: SamplingParams) -> Completion: ...
    def sync(self, policy: Policy) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class Processor(Protocol):
    """Changes logits before the draw: ``history`` holds the tokens sampled so far, ``logits`` is ``[B, V]``."""

    def __call__(self, history: list[list[int]], logits: Tensor) -> Tensor: ...


@runtime_checkable
class Environment(Protocol):
    """Plays a task n times and returns judged trajectories that may be compared with each other."""

    async def play_group(
        self, task: Task, n: int, *, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Group: ...


@dataclass
class Row:
    """What a policy encodes as one row: a context, and the branches that continue it independently.

    Attributes:
        context: Segments that all branches share.
        branches: For each trajectory its segments after ``context``, cut after the last trained step.
        trajectories: Index of each branch's trajectory within the update.
        group: Index of the group within the update.
        advantages: Of each branch's trajectory.
    """

    context: list[Segment]
    branches: list[list[Segment]]
    trajectories: list[int]
    group: int
    advantages: list[float]

    def __len__(self) -> int:
        return sum(map(len, self.context)) + sum(len(s) for branch in self.branches for s in branch)


@runtime_checkable
class Policy(Protocol):
    """A model that can say how likely its steps were.

    ``encode`` lays rows out as tensors: the steps of a row follow each other as context, branch 0, branch 1, ...,
    padded at the end to ``[B, T]``. ``score`` gives log-probabilities and entropies of the batch's masked steps.
    ``shares_context`` says whether a row may hold more than one branch. ``advance`` is called after each optimiser
    step: the updated ``parameters`` take effect and ``version`` counts one up. ``frozen_copy`` is the reference.
    """

    renderer: Renderer
    version: int
    shares_context: bool
    device: torch.device

    def load(self, device: torch.device) -> None: ...
    def encode(self, rows: Sequence[Row]) -> Mapping[str, Any]: ...
    def score(self, batch: Batch) -> Scores: ...
    def parameters(self) -> list[torch.nn.Parameter]: ...
    def advance(self) -> None: ...
    def frozen_copy(self) -> Reference: ...
    def save(self, folder: Path) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class Reference(Protocol):
    """A policy that no longer learns."""

    def score(self, batch: Batch) -> Scores: ...


@runtime_checkable
class Advantage(Protocol):
    """Writes ``advantage`` on every judged trajectory of the groups of one update."""

    def __call__(self, groups: Sequence[Group]) -> None: ...


@runtime_checkable
class Gate(Protocol):
    """Whether a group carries signal and is kept for the update."""

    def __call__(self, group: Group) -> bool: ...


@runtime_checkable
class Shaper(Protocol):
    """Changes what the update sees of kept groups: adds to a reward (and names the part), or withdraws steps."""

    def __call__(self, groups: Sequence[Group]) -> None: ...


@runtime_checkable
class Surrogate(Protocol):
    """The policy-gradient loss of each step, ``[B, T]``, from the log ratio of current to old probabilities."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor, batch: Batch) -> Tensor: ...


@runtime_checkable
class Reduction(Protocol):
    """Sums per-step losses ``[B, T]`` over the mask; returns the sum and the weight to divide it by."""

    def __call__(self, losses: Tensor, batch: Batch) -> tuple[Tensor, float]: ...


@runtime_checkable
class StepField(Protocol):
    """A number per step, ``[B, T]``: as a weight it multiplies the surrogate, as a penalty it is added to it."""

    def __call__(self, scores: Scores, batch: Batch) -> Tensor: ...


@runtime_checkable
class Objective(Protocol):
    """Turns a micro-batch into a loss. ``reads_reference`` asks the trainer to keep a reference policy."""

    @property
    def reads_reference(self) -> bool: ...
    def __call__(self, policy: Policy, batch: Batch) -> Loss: ...


@dataclass
class State:
    """What hooks see of a run, and the only way for them to act on it.

    Attributes:
        step: Steps completed; 0 before the first.
        steps: Steps that the run will do.
        folder: The run's folder.
        metrics: Of this step; hooks may add to it, and those that come later in the list see it.
        groups: All groups played in this step, dropped ones included; ``kept`` says which were trained on.
        play: ``play(tasks, n, params, verify=None) -> groups``: samples and judges, outside of training.
        save: ``save() -> Path``: writes a checkpoint of the whole run now.
        stop: Set to a reason to end the run after this step.
    """

    step: int
    steps: int
    folder: Path
    policy: Policy
    metrics: dict[str, float] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    play: Callable[..., list[Group]] | None = None
    save: Callable[[], Path] | None = None
    stop: str | None = None


@runtime_checkable
class Hook(Protocol):
    """Acts between steps: logs, evaluates, saves, resets. Called in the order of the list."""

    def on_start(self, state: State) -> None: ...
    def on_step(self, state: State) -> None: ...
    def on_end(self, state: State) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
