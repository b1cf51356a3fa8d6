"""AlphaOne: slow thinking up to a moment, fast thinking after it, by decoding alone.

J. Zhang et al., "AlphaOne: Reasoning Models Thinking Slow and Fast at Test Time", EMNLP 2025 (arXiv 2505.24863).

Claim: a reasoning model answers better, and often shorter, if it is made to think slowly first and fast later: until
the alpha moment ``T_m = alpha N_think`` the word "Wait" is put behind paragraph breaks at random, less and less often;
from then on every "Wait" becomes the end of thinking. Nothing is trained.

With t the tokens of the response so far, imposed ones included (sections 3.2 and 3.3)::

    t <= T_m, behind a paragraph break:   the next token is "Wait" with probability S(t), else it is sampled
    t >  T_m:                             a sampled "Wait" is replaced by "</think>"

    S(t) = 1 - t / T_m   (linear_anneal),   t / T_m   (linear_increase),   exp(-gamma t)   (exponential),   p (constant)

Differs from the paper in:

- Nothing is imposed once thinking has ended; the authors' code goes on to put "Wait" into the answer until T_m.
- Both happen token by token; the authors' code ends a generation at "Wait" and edits its text, which also hits
  "Waiting". Here the word has to begin and end with a token. (A tokenizer that writes "Waiting" as "Wait" and "ing"
  cannot be told from one that waits.) A word of several tokens is replaced at its last.
- A paragraph break is text that ends in "\\n\\n", of whatever tokens. The code has a list of ten strings, and of one
  that is no single token each piece counts.
- The coin is keyed by (seed, t); in the code it is the process's own, so that there a sample depends on its neighbours.
- T_m is at most ``max_tokens``, with a warning: then there is no second part. The code's T_m is rounded up, and it
  leaves t < 2 alone.
- The unit of t in ``exponential`` is not stated; in tokens it is over after fifteen of them. Here it is T_m.
- The defaults are the paper's alpha and schedule, and the code's "Wait" ("Wait," in the paper's table 4).

Together with other parts:

- ``imposed: forced`` (default): what is imposed is ``forced`` in the completion, and does not train. All other tokens
  are drawn as without this method, and have their log-probability by the policy.
- ``imposed: trained``: it trains, with the exact probability of having it: ``mu(Wait) = S + (1 - S) pi(Wait)`` and
  ``mu(x) = (1 - S) pi(x)`` behind a break, ``mu(</think>) = pi(</think>) + pi(Wait)`` after T_m. The ratio needs an
  importance weight, and a configuration without one is refused. What pi gives to "Wait" after T_m, mu never draws: that
  much bias no weight can mend. Of words of several tokens this holds for the first; the others follow it, forced.
- Several turns, reflections: each time the sampler is asked, t begins at 0.
- Greedy rows, in an evaluation: by replacement, also under ``trained``, for mu has no argmax to speak of.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from pydantic import Field

from hone.keys import key
from hone.papers.thinking import Spotter, Thought, Words, measure_thinking
from hone.seats import Decoding, Player, SamplingParams, Task, settings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("hone")

Schedule = Literal["linear_anneal", "linear_increase", "exponential", "constant"]


@dataclass(slots=True)
class Course(Thought):
    """A thought under AlphaOne.

    Attributes:
        seed: Keys its coins.
        temperature: Of its sampling.
        moment: T_m.
        coin: Whether "Wait" is put in by a coin, or by mixing it into the distribution.
        mass: Whether the end of thinking comes by mass that is moved to it, or by replacing what was drawn.
    """

    seed: int = 0
    temperature: float = 1.0
    moment: float = 0.0
    coin: bool = True
    mass: bool = False


@settings
class AlphaOne:
    """Slow thinking, then fast: a processor.

    ::

        sampler: {native: {processors: [{alphaone: {n_think: 1700}}]}}

    Attributes:
        alpha: T_m over N_think; the paper's 1.4.
        n_think: N_think: tokens for which the model thinks by itself, on average. `hone calibrate` estimates it.
        schedule: S, the probability of waiting, over time.
        gamma: Of the schedule "exponential", the paper's 0.3; t counts in units of T_m.
        probability: Of the schedule "constant"; with less than 0.1, the paper says, it is much like s1.
        wait: What is put behind paragraph breaks.
        slow: Words that after T_m become ``end``, also in lower case.
        end: What ends thinking.
        delimiters: Ends of text behind which a wait may come.
        until_end: Whether the part after T_m takes place; the paper's ablation does without.
        imposed: Whether what is imposed is left out of training, or trains with its exact probability.
    """

    alpha: float = Field(1.4, gt=0)
    n_think: float | None = Field(None, gt=0)
    schedule: Schedule = "linear_anneal"
    gamma: float = Field(0.3, ge=0)
    probability: float = Field(0.1, ge=0, le=1)
    wait: str = Field("Wait", min_length=1)
    slow: list[str] = Field(default_factory=lambda: ["Wait"], min_length=1)
    end: str = Field("</think>", min_length=1)
    delimiters: list[str] = Field(default_factory=lambda: ["\n\n"], min_length=1)
    until_end: bool = True
    imposed: Literal["forced", "trained"] = "forced"

    vllm: ClassVar[tuple[str, str]] = ("alphaone", "hone.papers.alphaone_vllm:AlphaOneV1")

    words: Words | None = field(default=None, init=False, repr=False, compare=False)
    waits: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)
    slows: Spotter | None = field(default=None, init=False, repr=False, compare=False)
    _courses: Any = field(default_factory=WeakKeyDictionary, init=False, repr=False, compare=False)
    _warned: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not all(self.delimiters) or not all(self.slow):
            raise ValueError("delimiters and slow: an empty text is behind and in everything")

    @property
    def training(self) -> str:
        """What training with it needs; see :class:`~hone.seats.Processor`."""
        return "exact" if self.imposed == "forced" else "weighted"

    def calibrate(self, player: Player, tasks: Sequence[Task]) -> dict[str, float]:
        """N_think of a player that samples without this, and of how many answers; see :func:`measure_thinking`."""
        return measure_thinking(player, tasks, self.end)

    # The state machine

    def bind(self, renderer: Any) -> None:
        """Take a model's renderer, as a sampler does at each sync. See :meth:`read`."""
        if self.words is None or not self.words.are_of(renderer):
            self.read(Words.of(renderer, self.end, self._reach))

    def read(self, words: Words) -> None:
        """Take a tokenizer's words.

        Raises:
            ValueError: If N_think is not known, or the tokenizer has no tokens for the texts.
        """
        if self.n_think is None:
            raise ValueError(
                "alphaone.n_think: required; `hone calibrate CONFIG` estimates it for a model and its tasks"
            )
        self.words, self.waits, self.slows = words, words.tokens(self.wait), Spotter(words, self.slow)
        self._courses = WeakKeyDictionary()

    @property
    def _reach(self) -> int:
        return 1 + max(map(len, [*self.delimiters, *self.slow]))

    def begin(self, params: SamplingParams, *, mass: bool = False) -> Course:
        """The state before the first token.

        Args:
            params: Their ``seed``, ``temperature`` and ``max_tokens`` are read; the last may be None, for no limit.
            mass: Whether only logits can be changed, and nothing that was drawn be replaced.
        """
        moment = round(self.alpha * self.n_think, 6)  # 1.1 * 10 is 11 tokens
        if params.max_tokens is not None and moment >= params.max_tokens:
            if not self._warned:
                log.warning(
                    "alphaone: alpha * n_think = %g is not below sampling.max_tokens = %d: it never comes to the part "
                    "after the alpha moment",
                    moment, params.max_tokens,
                )  # fmt: skip
            self._warned, moment = True, float(params.max_tokens)
        mixing = self.imposed == "trained" and params.temperature > 0
        return Course(
            seed=params.seed, temperature=params.temperature, moment=moment, coin=not mixing, mass=mass or mixing
        )

    def see(self, course: Course, token: int) -> None:
        """Count the next token in."""
        self.imposes(course)  # it may be the first of several
        follows: tuple[int, ...] = ()
        if not course.coin and token == self.waits[0] and self.chance(course):
            follows = self.waits[1:]
        elif course.mass and token == self.words.ends[0] and self.is_late(course):
            follows = self.words.ends[1:]
        self.words.see(course, token)
        course.pending = course.pending or follows

    def chance(self, course: Course) -> float:
        """S(t) if a wait may come next, else 0."""
        if course.ended or course.pending or course.t > course.moment or not course.t:
            return 0.0
        return self.rate(course.t / course.moment) if course.tail.endswith(tuple(self.delimiters)) else 0.0

    def rate(self, time: float) -> float:
        """The schedule S, of t / T_m in [0, 1]."""
        return {
            "linear_anneal": 1 - time,
            "linear_increase": time,
            "exponential": exp(-self.gamma * time),
            "constant": self.probability,
        }[self.schedule]

    def is_late(self, course: Course) -> bool:
        """Whether the next slow word ends thinking."""
        return self.until_end and course.t > course.moment and not course.ended and not course.pending

    def imposes(self, course: Course) -> int | None:
        """The token that comes next whatever is drawn, or None."""
        if course.pending:
            return course.pending[0]
        if course.coin and key(course.seed, "alphaone", course.t) < self.chance(course) * 2.0**63:
            return course.impose(self.waits)
        return None

    def ends(self, course: Course, drawn: int) -> bool:
        """Whether ``drawn`` is a wait after the alpha moment."""
        return self.is_late(course) and (self.slows.alone(drawn) or self.slows.joined(course, drawn))

    def marks(self, tokens: Sequence[int], params: SamplingParams) -> list[bool]:
        """Which tokens were imposed where only logits could be changed, as by vLLM.

        There, an end of thinking after the alpha moment cannot be told from a wait that became one: it counts as
        imposed, unless it is trained as what it is.
        """
        course, marks = self.begin(params, mass=True), []
        for token in tokens:
            imposed = self.imposes(course) is not None
            marks.append(imposed or (course.coin and self.is_late(course) and token == self.words.ends[0]))
            self.see(course, token)
        return marks

    # The native sampler

    def __call__(self, rows: Sequence[Decoding], logits: Tensor) -> Tensor:
        """Write what is imposed into the ``[B, V]`` logits, in place, of the rows where it trains."""
        courses = {i: course for i, row in enumerate(rows) if (course := self._course(row)).mass}
        if not courses:
            return logits
        from hone.papers.alphaone_logits import write

        return write(self, courses, logits)

    def replace(self, rows: Sequence[Decoding], drawn: Sequence[int]) -> dict[int, int]:
        """The tokens that are put in the place of the drawn ones, by row."""
        found = {}
        for i, (row, token) in enumerate(zip(rows, drawn, strict=True)):
            course = self._course(row)
            imposed = self.imposes(course)
            if imposed is None and not course.mass and self.ends(course, token):
                imposed = course.impose(self.words.ends)
            if imposed is not None:
                found[i] = imposed
        return found

    def _course(self, row: Decoding) -> Course:
        course = self._courses.get(row)
        if course is None:
            course = self._courses[row] = self.begin(row.params)
        for token in row.tokens[course.t :]:
            self.see(course, token)
        return course
