"""The records that flow from a task to a gradient: one vocabulary for the whole library.

A *step* is a token for a language model and a denoising step for a flow policy. Every per-step array is aligned with
the action that it describes: ``logprobs[t]`` belongs to ``actions[t]``. The shift by one that a causal model needs
happens inside the policy and nowhere else.

Axis letters in comments: ``B`` rows, ``T`` steps, ``G`` siblings, ``V`` vocabulary, ``D`` width, ``N`` selected steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, Any]
"""A chat message: ``{"role": "user", "content": "..."}``; content may be a list of parts (text, image, video)."""

Source = Literal["given", "policy", "forced"]
Stop = Literal["eos", "stop", "length", "error"]


@dataclass(frozen=True)
class Task:
    """One question, with what a verifier needs to judge an answer.

    Attributes:
        id: Stable across runs and hosts; the noise of sampling is keyed by it.
        prompt: Chat messages that end with the user's turn.
        answer: The reference answer, in whatever form the task's verifier reads. Never shown to the policy.
        meta: Anything else that a verifier, an environment or a log reads.
    """

    id: str
    prompt: Sequence[Message]
    answer: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """A run of consecutive steps of one origin, such as a reply that was sampled and will be trained on.

    ::

        Segment("response", "policy", actions=(284, 19, 2), logprobs=(-0.1, -2.3, -0.7), text="= 7", train=True)

    Attributes:
        name: What the steps are: "prompt", "response", "attempt", "reflection", "turn 3". Names make masks.
        source: "given" by the task, sampled by the "policy", or "forced" upon the sequence by a sampler's processor.
        actions: Token ids.
        logprobs: In nats, as sampled (after temperature and processors); empty unless source is "policy".
        text: The decoded actions, for verifiers and logs; never tokenised again.
        train: Whether these steps receive a gradient.
        reference_logprobs: Under the reference policy; filled by the trainer only where something reads them.
        entropies: In nats, of the distributions that the policy sampled from; empty where not recorded.
    """

    name: str
    source: Source
    actions: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    text: str = ""
    train: bool = False
    reference_logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Completion:
    """What a sampler returns for one context: the new segments, and why it stopped."""

    segments: tuple[Segment, ...]
    stop: Stop
    version: int

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True)
class Score:
    """A verdict. Either ``value`` is finite, or ``error`` says why there is none; an error is never a value of 0.

    Attributes:
        value: The reward, usually in [0, 1]; None if and only if there is an ``error``.
        parts: Named components for the logs (for a weighted combination, each one's own value).
        error: What went wrong in judging, with its type.
        answer: The final answer as the verifier read it, the same text for equal ones, which makes it a vote; or None.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    answer: str | None = None


@dataclass
class Trajectory:
    """One sequence, self-contained: ``segments`` runs from the first prompt token to the last step.

    Attributes:
        task: What was asked.
        segments: All segments in order, the context included.
        reward: As judged, after shaping; None while unjudged or when judging failed (see ``error``).
        scores: The parts of the reward, for logs.
        stop: Why the last sampling ended.
        version: Of the weights that sampled it (number of optimiser updates seen).
        advantage: Written once by the advantage, never over ``reward``; every trained step gets it.
        agent: Who played it, in an environment with several.
        error: Why there is no reward, when judging failed.
        verdict: The value of the first verdict, before an environment or a shaper made anything else of the reward.
        answer: The final answer as the verifier read it; see :class:`Score`.
    """

    task: Task
    segments: list[Segment]
    reward: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    stop: Stop = "eos"
    version: int = 0
    advantage: float | None = None
    agent: str = "policy"
    error: str | None = None
    verdict: float | None = None
    answer: str | None = None

    @property
    def response(self) -> str:
        """The text after the last given segment: what a verifier judges."""
        text = ""
        for segment in reversed(self.segments):
            if segment.source == "given":
                break
            text = segment.text + text
        return text

    @property
    def sampled(self) -> int:
        """Number of steps that the policy sampled."""
        return sum(len(segment) for segment in self.segments if segment.source == "policy")

    @property
    def generated(self) -> int:
        """Number of steps that sampling took: those, and what was forced upon them."""
        return sum(len(segment) for segment in self.segments if segment.source != "given")

    @property
    def trained(self) -> int:
        """Number of steps that receive a gradient."""
        return sum(len(segment) for segment in self.segments if segment.train)

    def judge(self, score: Score) -> None:
        """Record a verdict: the reward and its parts, or the error that prevented one."""
        self.reward, self.error = score.value, score.error
        self.scores.update(score.parts)
        if self.verdict is None:
            self.verdict = score.value
        if score.answer is not None:
            self.answer = score.answer

    def withdraw(self) -> None:
        """Keep the trajectory in its group (its reward counts for the baseline) but train on none of its steps."""
        self.segments = [replace(segment, train=False) for segment in self.segments]


@dataclass
class Group:
    """Trajectories that are compared with each other: siblings of one task, or the players of one game.

    Attributes:
        task: What was asked.
        trajectories: Those that are compared.
        aside: Others that were played to judge these: they are logged, and neither compared nor trained on.
        metrics: How it was played, by the name of the metric; a step logs the mean over its groups.
    """

    task: Task
    trajectories: list[Trajectory]
    aside: list[Trajectory] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def generated(self) -> int:
        """Number of steps that sampling took; a segment that several trajectories hold was made once."""
        held = {id(s): s for t in (*self.trajectories, *self.aside) for s in t.segments if s.source != "given"}
        return sum(map(len, held.values()))

    @property
    def rewards(self) -> list[float]:
        """The rewards of the judged trajectories, in order."""
        return [t.reward for t in self.trajectories if t.reward is not None]


@dataclass
class Branch:
    """Steps of a row that go on where another branch of it ends, or begin.

    Attributes:
        segments: Its own steps.
        parent: Place in the row of the branch that it continues; -1 if none.
        trajectory: Index within the update of the trajectory that it ends, after its last trained step; -1 if shared.
        group: Index of the group within the update.
        advantage: Of the trajectory.
    """

    segments: list[Segment]
    parent: int = -1
    trajectory: int = -1
    group: int = 0
    advantage: float = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.segments))


@dataclass
class Row:
    """What a policy encodes as one row: prefix trees, in which whatever trajectories have in common stands once.

    Attributes:
        branches: Each before all that continue it, and these right behind it, before anything else.
    """

    branches: list[Branch]

    def __len__(self) -> int:
        return sum(map(len, self.branches))


@dataclass
class Batch:
    """Rows of steps, ready for a policy. ``[B, T]`` tensors; only the policy opens ``inputs``.

    Attributes:
        inputs: Whatever the policy's ``encode`` made (token ids, positions, masks, pixels).
        mask: ``[B, T]`` bool: the steps that are trained.
        advantages: ``[B, T]`` float32, 0 outside the mask.
        sampled_logprobs: ``[B, T]`` float32, as the sampler saw them.
        trajectory: ``[B, T]`` int64: index of the step's trajectory within the update, -1 outside the mask.
        group: ``[B, T]`` int64: likewise for its group.
        temperature: Of sampling; the policy divides its logits by it.
        seed: Keys the draws of the optimiser step that the batch belongs to.
        processes: How many score it together, each a part of its steps; all of them call ``score`` then.
        fields: Values of step fields that were computed over the whole mini-batch, by the field's place.
        sampled_entropies: ``[B, T]`` float32, likewise; None where not recorded, or of other weights than the current.
        old_logprobs: ``[B, T]`` at the start of the update, by the trainer; None on-policy, where the ratio is 1.
        reference_logprobs: ``[B, T]`` under the reference policy; None where nothing reads them.
    """

    inputs: Mapping[str, Any]
    mask: Tensor
    advantages: Tensor
    sampled_logprobs: Tensor
    trajectory: Tensor
    group: Tensor
    temperature: float = 1.0
    seed: int = 0
    processes: int = 1
    fields: dict[str, Tensor] = field(default_factory=dict)
    sampled_entropies: Tensor | None = None
    old_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None


@dataclass
class Scores:
    """By the policy as it is now, in nats at the sampling temperature: ``[B, T]`` float32, 0 outside the mask."""

    logprobs: Tensor
    entropy: Tensor


@dataclass
class Loss:
    """A *sum* and its *weight*, divided once per optimiser step: micro-batches, packing and ranks change no gradient.

    Attributes:
        total: Scalar with a graph.
        weight: What ``total`` is to be divided by (steps, trajectories), over the whole mini-batch.
        metrics: Name to (sum, count); names that end in "/max" keep the largest sum instead.
    """

    total: Tensor
    weight: float
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
