r"""SynthRL: harder questions with the same answers, verified by the model that will train on them.

Wu et al., "SynthRL: Scaling Visual Reasoning with Verifiable Data Synthesis", arXiv 2506.02096. Code read:
NUS-TRAIL/SynthRL.

Claim: questions that the model nearly always solves are rewritten by another model, which is not told the answer. Those
that the model still solves sometimes, with the *old* answer, but less often, are added to the data. With 3 380 of them
beside 8 072 questions, Qwen2.5-VL-7B gains 1.0 point on the average of five benchmarks over the questions alone; 1.7
and 1.6 on what is of medium and high difficulty, none on what is easy (one run, no error bars).

Equations (section 3). For a question Q with answer A, ``c(Q) = sum_{j=1..N} 1[A_j matches A]``, ``A_j ~ pi(. | Q)``,
N = 16 at temperature 1, pi being the policy before training. Seeds have ``c_ori >= 12``. A rewrite is accepted if
``T_min <= c_cand <= c_ori - Delta`` with T_min = 4 and Delta = 2. The first of up to 8 (the code's number).

What is accepted is *agreement*, not proof: the model may reach the old answer though the rewrite changed the true one,
above all where there are few answers to guess from. Read a sample of ``accepted.jsonl`` by hand.

Differs from the paper in:

* A rollout that could not be judged is none, and is played again; the code counts a failed call as a wrong answer, so
  that an outage makes questions look hard. Without a full set a question is not measured and not used.
* One verifier, one way of decoding and one environment for seeds and rewrites. The code has two different judges.
* The new question stands between two tags and is kept whole. The code cuts it at its first blank line and deletes its
  asterisks. A reply without the closing tag, having been cut off, holds no question.
* Near-copies, repetitions and questions of evaluations (``avoid``) are rejected before they cost rollouts.
* What is accepted is played again with fresh noise, as is its seed (``fresh``): counts by which something was chosen
  flatter the choice. That changes nothing of what is accepted unless it is set to "require".
* The quality judge is off unless one is given: the paper's main text has no threshold. 8 of 10 is the code's.
* Not in the paper: the rule by posteriors, the image-free check, refreshing while training.

Choices where paper and code differ, the paper's by default: ``choose`` (first or hardest) and ``rewrite_from``.

With other parts: only tasks change. Loss, KL and entropy pool see a rewritten task as any other. Pass counts are those
of ``environment``, which is the run's unless it is set; beside ``reflect_retry``, whose trajectories are second
attempts, set ``environment: single_turn``. In training with ``refresh``, the current policy solves (and writes, if it
is the writer), whatever ProRL did to reference or optimiser; for the initial policy give ``solver``. Tokens that
synthesis samples while training are in ``tokens/aside``, those of a writer of another model excepted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from hone import ranks
from hone.papers.synthrl_pipeline import Known, Pipeline
from hone.seats import Environment, Player, Policy, Sampler, SamplingParams, TaskSource, Writer, settings
from hone.synthesis.drafts import Seed, accepted_rows, rejected_rows
from hone.synthesis.journal import Journal
from hone.synthesis.overlap import Questions
from hone.synthesis.provenance import digest_of_file, digest_of_task
from hone.synthesis.reading import batches, once, peek
from hone.synthesis.replies import Outage
from hone.synthesis.rewriting import INSTRUCTION, SLOT, question
from hone.synthesis.store import Store, Tale
from hone.synthesis.union import Union
from hone.types import Task

log = logging.getLogger("hone")


@settings
class SynthRL:
    """The tasks of a source and harder rewrites of them, verified by the policy.

    ``hone synth`` looks at the first ``limit`` tasks of the source and writes the folder ``store``; in training the
    source's tasks come with the rewrites that the store holds of them. What was paid for is in the store's journal: an
    interrupted run goes on where it was, and a repeated one costs nothing. ``accepted.jsonl`` is also a data set of its
    own: ``files: {path: .../accepted.jsonl, prompt: "{prompt}", answer: "{answer}", id: "{id}"}``, with
    ``meta: {entry: "{meta.entry}"}`` for what the verifier reads.

    Attributes:
        source: Of the seeds.
        writer: Rewrites questions.
        store: Folder of the data set.
        judge: Grades rewrites from 0 to 10 before they are solved; None lets all pass.
        quality: Least grade.
        rollouts: N, answers by which a question is measured.
        seed_passes: Least passes of a seed.
        min_passes: T_min, least passes of a rewrite.
        drop: Delta, by how many passes at least a rewrite is harder than its seed; of acceptance "fixed".
        acceptance: "fixed" is the paper's rule. "posterior" asks instead that the pass rate dropped by more than
            ``margin`` with a probability of ``confidence``.
        confidence: Of acceptance "posterior".
        margin: Likewise, in [0, 1).
        attempts: Most rewrites of a seed.
        choose: Take the "first" accepted rewrite (the paper), or of all attempts the "hardest" (the code).
        rewrite_from: Every attempt starts from the "seed" (the paper), or from the last "accepted" rewrite (the code),
            which needs choose "hardest".
        success: Reward from which on an answer passes.
        fresh: Play accepted rewrites and their seeds once more: "record" notes the counts, "require" applies the rule
            to them too, "off" does not.
        blind: Most passes of an accepted rewrite without its images; None does not try. Tasks without images skip it.
        instruction: What the writer is told, with the question in place of {question}. Its reply holds the new question
            between <question> and </question>.
        avoid: Sources of evaluations, from whose questions rewrites are kept away.
        avoid_items: Number of tasks that are taken from each of these.
        sampling: How seeds and rewrites are answered; None is the run's.
        environment: How they are played; None is the run's.
        solver: The policy that answers them; None is the run's, as it is when it answers.
        solver_sampler: Its sampler.
        mix: "augment" adds rewrites to the tasks, "replace" puts them in the place of their seeds.
        refresh: In training, synthesise from every so many tasks of the source before they are handed out, with the
            policy as it then is; 0 reads the store only.
        batch: Tasks that are worked on together, and without ``refresh`` mixed with their rewrites.
        limit: Tasks of the source that ``hone synth`` looks at; None goes to where it ends, or repeats.
        replays: How often rollouts that could not be judged are played again.
        seed: Of writing, of answering and of mixing.
    """

    command: ClassVar[str] = "synth"

    source: TaskSource
    writer: Writer
    store: str = Field(min_length=1)
    judge: Writer | None = None
    quality: float = Field(8.0, ge=0, le=10)
    rollouts: int = Field(16, ge=1)
    seed_passes: int = Field(12, ge=0)
    min_passes: int = Field(4, ge=0)
    drop: int = Field(2, ge=0)
    acceptance: Literal["fixed", "posterior"] = "fixed"
    confidence: float = Field(0.95, gt=0, lt=1)
    margin: float = Field(0.0, ge=0, lt=1)
    attempts: int = Field(8, ge=1)
    choose: Literal["first", "hardest"] = "first"
    rewrite_from: Literal["seed", "accepted"] = "seed"
    success: float = 1.0
    fresh: Literal["off", "record", "require"] = "record"
    blind: int | None = Field(None, ge=0)
    instruction: str = INSTRUCTION
    avoid: list[TaskSource] = Field(default_factory=list)
    avoid_items: int = Field(1000, ge=1)
    sampling: SamplingParams | None = None
    environment: Environment | None = None
    solver: Policy | None = None
    solver_sampler: Sampler | None = None
    mix: Literal["augment", "replace"] = "augment"
    refresh: int = Field(0, ge=0)
    batch: int = Field(32, ge=1)
    limit: int | None = Field(None, ge=1)
    replays: int = Field(2, ge=0)
    seed: int = 0

    _player: Any = field(default=None, init=False, repr=False, compare=False)
    _journal: Any = field(default=None, init=False, repr=False, compare=False)
    _stored: Any = field(default=None, init=False, repr=False, compare=False)
    _avoided: Any = field(default=None, init=False, repr=False, compare=False)
    _solving: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._union = Union(
            self.source, self.refresh or self.batch, self.seed, self._rewrites, replace=self.mix == "replace"
        )
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.seed_passes > self.rollouts:
            raise ValueError(f"seed_passes = {self.seed_passes}: a seed cannot pass more often than rollouts")
        if self.acceptance == "fixed" and self.min_passes + self.drop > self.rollouts:
            raise ValueError(f"min_passes + drop > rollouts ({self.rollouts}): nothing can be accepted")
        if self.rewrite_from == "accepted" and self.choose == "first":
            raise ValueError("rewrite_from = 'accepted': needs choose: hardest; the first accepted rewrite ends a seed")
        if (self.solver is None) != (self.solver_sampler is None):
            raise ValueError("solver and solver_sampler: give both, for a sampler samples from one policy")
        if self.sampling is not None and self.sampling.temperature == 0:
            raise ValueError("sampling.temperature = 0: greedy rollouts are all alike, and count nothing")
        if SLOT not in self.instruction:
            raise ValueError(f"instruction: has no {SLOT} for the question to stand in")

    def bind(self, player: Player) -> None:
        """Take what plays: the policy that solves, and the sampler that a writer may write with."""
        self._player, self._stored, self._solving = player, None, False
        for part in (self.source, self.writer, self.judge):
            if hasattr(part, "bind"):
                part.bind(player)

    @property
    def follows_policy(self) -> bool:
        """Whether tasks are made in training, by the policy as it is."""
        return self.refresh > 0

    def make(self, report: Callable[[str], None]) -> dict[str, Any]:
        """Synthesise from the first ``limit`` tasks of the source; the store grows with each batch.

        Returns:
            :meth:`hone.synthesis.store.Tale.summary`.

        Raises:
            Outage: A writer is down. What was paid for is kept: run it again.
            ValueError: The source is not bound.
        """
        store, pipeline, known = Store(Path(self.store)), self._pipeline(), Known()
        store.write([], [])  # an earlier set is made again from the journal
        looked_at = accepted = 0
        for tasks in batches(once(self.source, self.limit), self.batch):
            seeds = self._run(pipeline, tasks, known)
            store.add(*_rows(seeds, pipeline))
            looked_at += len(tasks)
            accepted += sum(len(seed.accepted) for seed in seeds)
            report(f"{looked_at} tasks, {accepted} rewrites accepted")
        self._stored = None
        return ranks.first(lambda: Tale.of(store.folder).summary())

    def _run(self, pipeline: Pipeline, tasks: Sequence[Task], known: Known) -> list[Seed]:
        try:
            return pipeline.run(tasks, known)
        except Exception:
            self._journal = None  # to be read again: the first process may know more than the others
            raise

    def _pipeline(self) -> Pipeline:
        if self._player is None:
            raise ValueError("synthrl: bind(player) comes first; `hone synth` does so")
        if self.solver is not None and not self._solving:  # not before it is needed: a store may be all that is read
            self.solver.load(self._player.policy.device)
            self.solver_sampler.sync(self.solver)
            self._solving = True
        if self._journal is None:
            self._journal: Journal = Store(Path(self.store)).journal()
        if self._avoided is None:
            tasks = (task for source in self.avoid for task in peek(source, self.avoid_items))
            self._avoided = Questions(map(question, tasks))
        return Pipeline(self, self._player, self._journal, self._avoided)

    def _rewrites(self, tasks: Sequence[Task]) -> list[dict[str, str]]:
        """The rewrites of some tasks: those in the store, or with ``refresh`` those that are made now."""
        if self.refresh and self._player is not None:
            try:
                return self._refreshed(tasks)
            except Outage as error:
                log.warning("tasks.synthrl: no rewrites of %d tasks: %s", len(tasks), error)
                return []
        if self._stored is None:
            self._stored = Store(Path(self.store)).by_seed()
        return [
            {"seed": seed, **rewrite}
            for seed in dict.fromkeys(map(digest_of_task, tasks))
            for rewrite in self._stored.get(seed, ())
        ]

    def _refreshed(self, tasks: Sequence[Task]) -> list[dict[str, str]]:
        pipeline = self._pipeline()
        seeds = self._run(pipeline, tasks, Known())
        Store(Path(self.store)).add(*_rows(seeds, pipeline))
        return [
            {"seed": seed.hash, "name": draft.name, "question": draft.question}
            for seed in seeds
            for draft in seed.accepted
        ]

    def fingerprint(self) -> dict[str, str]:
        """The rewrites that are read, and a hash of them; nothing where training itself makes them."""
        read = Store(Path(self.store)).accepted
        return {str(read): digest_of_file(read)} if read.exists() and not self.refresh else {}

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        return self._union.take()

    def state_dict(self) -> dict[str, Any]:
        """How much was handed out, and of which tasks and rewrites; see :class:`~hone.synthesis.union.Union`."""
        return self._union.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the source that gave this state would have gone on."""
        self._union.restore(state)


def _rows(seeds: Sequence[Seed], pipeline: Pipeline) -> Iterator[list[dict[str, Any]]]:
    """The accepted and the rejected."""
    for kind in (accepted_rows, rejected_rows):
        yield [row for seed in seeds for row in kind(seed, pipeline.provenance)]
