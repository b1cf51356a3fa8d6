"""The seats: what the trainer asks for, and nothing of who sits there.

An implementation is either a *settings class* (a class under :func:`settings`, whose fields are its settings) or a
plain function, whose keyword-only parameters are its settings. Both are named in YAML by the registry or an address,
and so is what fills a field annotated with a protocol of this file (``verifier: Verifier``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hone.params import Decoding, Refusal, SamplingParams, reads_reference, settings  # noqa: F401  seats use them
from hone.state import State
from hone.types import Batch, Completion, Group, Loss, Message, Row, Score, Scores, Segment, Task, Trajectory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Verify = Callable[[Task, Trajectory], Awaitable[Score]]
"""A verifier put behind worker processes: awaitable, and it answers within its time limit."""


@runtime_checkable
class TaskSource(Protocol):
    """An iterator of tasks with a resumable cursor. Finite or endless.

    One that plays others to make its tasks has ``bind(player)``, which is called once the weights are there, and
    ``make(report)``, which plays until all are made and returns what it did, under its ``command``. Never bound, it
    gives tasks and plays nothing. Where it plays in training, its ``follows_policy`` is true: nothing is played ahead.

    One that reads files may have ``fingerprint()``, which names them, each with a hash of what is in it: a run that is
    resumed on other data is refused.
    """

    def __iter__(self) -> Iterator[Task]: ...
    def __next__(self) -> Task: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Player(Protocol):
    """What a source that plays is given: the policy as it is now, its sampler, and the run's other parts.

    ``play`` samples and judges, in all processes together; the first tells ``finished`` of each group and its place.
    ``run`` awaits a coroutine where the sampler samples, in this process. ``fingerprint`` is a hash of the weights as
    they are now. ``sampled`` counts the tokens of ``play``; who samples by other ways adds to it.
    """

    policy: Policy
    sampler: Sampler
    environment: Environment
    verifier: Verifier
    sampling: SamplingParams
    sampled: int

    def play(
        self,
        tasks: Sequence[Task],
        n: int,
        params: SamplingParams,
        verifier: Verifier | None = None,
        environment: Environment | None = None,
        finished: Callable[[int, Group], None] | None = None,
    ) -> list[Group]: ...
    def run(self, work: Coroutine[Any, Any, Any]) -> Any: ...
    def fingerprint(self) -> str: ...


@runtime_checkable
class Writer(Protocol):
    """Writes a reply to chat messages, by whatever model; ``name`` says by which, for the record.

    It raises when there is none to be had: an outage is never an empty reply. ``bind`` is called before the first.
    """

    @property
    def name(self) -> str: ...
    def bind(self, player: Player) -> None: ...
    async def write(self, messages: Sequence[Message], *, seed: int) -> str: ...


@runtime_checkable
class Verifier(Protocol):
    """Judges a trajectory; runs in a worker process, so it must pickle and must not import torch.

    Wrong, empty or absurd answers score 0. Only a failure of the verifier itself may raise.
    """

    def __call__(self, task: Task, trajectory: Trajectory) -> Score: ...


@runtime_checkable
class Renderer(Protocol):
    """Chat messages to tokens and back, for one model; ``stop_tokens`` end a response.

    ``prompt`` opens a chat. ``turn`` goes on with one whose last reply is where ``after`` ends: it gives the steps that
    close the reply, unless it closed itself, and further messages up to where the assistant speaks again; what was
    sampled is never tokenised again. ``reply`` is an assistant's reply that was written elsewhere.
    """

    stop_tokens: frozenset[int]

    def prompt(self, messages: Sequence[Message]) -> Segment: ...
    def turn(self, messages: Sequence[Message], after: Sequence[Segment]) -> Segment: ...
    def reply(self, text: str) -> Segment: ...
    def decode(self, actions: Sequence[int]) -> str: ...


@runtime_checkable
class Sampler(Protocol):
    """Draws completions. ``sync`` binds or refreshes the weights; ``close`` frees what it holds.

    It may have ``fingerprint()``: :mod:`~hone.checksums` of the weights that it samples from, by the policy's names;
    ``rest()``, called when nothing is sampled until the next sync, or for long; and ``correction``, the weight that an
    objective is given if it has none that makes up for a sampler whose probabilities are not quite the policy's.
    ``copies = True`` says that ``sync`` copies weights; else a policy that learns meanwhile is given as its ``twin()``.
    """

    renderer: Renderer
    processors: list[Processor]

    async def sample(self, context: Sequence[Segment], params: SamplingParams) -> Completion: ...
    def sync(self, policy: Policy) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class Processor(Protocol):
    """Changes ``[B, V]`` logits, not divided by the temperature yet, before the draw: a row for each of ``rows``.

    One may also have ``replace(rows, drawn) -> {row: token}``: these take the places of the drawn tokens, and are
    "forced" in the completion; and ``bind(renderer)``, called before all else. One fit for training has ``training``:
    "exact" if all that it leaves is drawn as the policy has it, "weighted" if that takes an importance weight.
    """

    def __call__(self, rows: Sequence[Decoding], logits: Tensor) -> Tensor: ...


@runtime_checkable
class Environment(Protocol):
    """Plays a task n times and returns judged trajectories that may be compared with each other."""

    async def play_group(
        self, task: Task, n: int, *, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Group: ...


@runtime_checkable
class Policy(Protocol):
    """A model that can say how likely its steps were.

    ``encode`` lays rows out as tensors: the steps of a row follow each other branch by branch, padded at the end to
    ``[B, T]``. ``score`` gives log-probabilities and entropies of the batch's masked steps. ``shares_context`` says
    whether a row may hold more than one branch; ``packs``, whether several groups stand in a row at no other cost than
    that of their steps, and then rows come to ``encode`` one at a time. ``advance`` is called after each optimiser
    step: the updated ``parameters`` take effect and ``version`` counts one up. ``frozen_copy`` is the reference.
    For sampling meanwhile it has ``twin()``: a copy, whose ``follow(policy)`` takes weights and version, and gives it.
    Engines beside it want ``weights()``, all of them by the names of a checkpoint, and ``outline(folder)``, which
    writes configuration and tokenizer. One that scores a batch with several ``processes`` has ``spread(processes)``.

    One that can be sharded over processes takes ``load(device, shard)`` too: ``shard(module, blocks, score)`` shards a
    module in place, block by block, and gives what is to be called instead of ``score``. Its ``whole()`` is then a copy
    with all weights, brought up to date, which every process has to ask for; ``state_dict`` has values in the first.
    """

    renderer: Renderer
    version: int
    shares_context: bool
    packs: bool
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
class Engine(Protocol):
    """How the processes of a run share a policy: how it is loaded, and how their gradients come together.

    Each process adds up the gradients of its own micro-batches, of which all have the same number. ``reduce`` then sums
    them over the processes, where that has not happened yet. Nothing is averaged: the learner divides once.
    """

    def load(self, policy: Policy, device: torch.device) -> None: ...
    def reduce(self, parameters: Sequence[torch.nn.Parameter]) -> None: ...


@runtime_checkable
class Reference(Protocol):
    """A policy that no longer learns, until it takes over the trainable weights of another moment.

    Its state is empty while it is the initial policy, which is made anew from the same files.
    """

    def score(self, batch: Batch) -> Scores: ...
    def state_dict(self) -> Mapping[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


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
    """A number per step, ``[B, T]``: as a weight it multiplies the surrogate, as a penalty it is added to it.

    A field may also have ``measure(values, scores, batch)``, which gives metrics as (sum, count). One that has to see
    the whole mini-batch says so by ``pooled = True`` and has ``over(scores, batches) -> [values, ...]``: it is called
    once for an optimiser step, with the scores of all micro-batches, on every rank and also where there are none.
    ``corrects_sampling = True`` says of a weight that it makes up for steps drawn by other probabilities.
    """

    def __call__(self, scores: Scores, batch: Batch) -> Tensor: ...


@runtime_checkable
class Objective(Protocol):
    """Turns a micro-batch into a loss. ``reads_reference`` asks the trainer to keep a reference policy.

    ``reads_entropies = True`` asks the sampler to record the entropy of each draw, for ``batch.sampled_entropies``.

    If it has ``survey(policy, batches)``, that is called before each optimiser step with all of its micro-batches; and
    if it has ``follow(metrics)``, what follows from the means of an update's metrics is logged beside them.
    """

    @property
    def reads_reference(self) -> bool: ...
    def __call__(self, policy: Policy, batch: Batch) -> Loss: ...


@runtime_checkable
class Trigger(Protocol):
    """The reason to act, or None, from the metrics of the steps since it last did, the oldest first.

    It keeps nothing, so that a decision can be made again from the log.
    """

    def __call__(self, history: Sequence[Mapping[str, float]]) -> str | None: ...


@runtime_checkable
class Hook(Protocol):
    """Acts between steps: logs, evaluates, saves, resets. Called in the order of the list.

    One with the attribute ``reads_evaluations = True`` is called after the evaluations of the step. One may also have
    ``on_stop(state)``, called once if the run ends before its last step, for what it would have done on that; and
    ``before_update(state)``, called when the coming step's groups have their advantages; it may raise ``Refusal``.

    In a run of several processes all of them call it, and decide alike; what it writes to ``state.folder`` is kept in
    the first alone. One with ``looks_on = True`` only shows or records, and is called in the first process alone.
    """

    def on_start(self, state: State) -> None: ...
    def on_step(self, state: State) -> None: ...
    def on_end(self, state: State) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
