"""SynthRL's algorithm over a batch of tasks: select, and then write, screen, grade and verify, attempt by attempt.

Only writing, grading and answering cost anything, and these are in the journal. What follows from them is worked out
anew in every run, in the order of the tasks: a run that was interrupted comes to the same rewrites as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hone.keys import key
from hone.math import acceptance
from hone.seats import Player
from hone.synthesis import rewriting
from hone.synthesis.drafts import Draft, Seed
from hone.synthesis.journal import Journal
from hone.synthesis.overlap import Questions, similar
from hone.synthesis.provenance import described, digest, fingerprint
from hone.synthesis.replies import Replies
from hone.synthesis.rollouts import Rollouts, Tally
from hone.types import Task

if TYPE_CHECKING:
    from hone.papers.synthrl import SynthRL


@dataclass
class Known:
    """What earlier batches have dealt with: the seeds' hashes, and all questions so far."""

    seeds: set[str] = field(default_factory=set)
    questions: Questions = field(default_factory=Questions)


class Pipeline:
    """Makes rewrites.

    Args:
        settings: How.
        player: With which policy.
        journal: What was paid for.
        avoided: Questions that no rewrite may repeat.
    """

    def __init__(self, settings: SynthRL, player: Player, journal: Journal, avoided: Questions) -> None:
        self.settings, self._avoided = settings, avoided
        self._writer = Replies(player, journal, settings.writer, settings.seed)
        self._judge = Replies(player, journal, settings.judge, settings.seed) if settings.judge else None
        environment = settings.environment or player.environment
        sampling = replace(settings.sampling or player.sampling, seed=0)
        verifier = described(player.verifier)
        solver = player.fingerprint() if settings.solver is None else _fingerprint(settings.solver)
        paid_for = [solver, verifier, described(environment), described(sampling), settings.seed]
        self._rollouts = Rollouts(
            player=player,
            journal=journal,
            environment=environment,
            sampler=settings.solver_sampler,
            params=replace(sampling, seed=key("synthrl", settings.seed)),
            count=settings.rollouts,
            success=settings.success,
            replays=settings.replays,
            identity=paid_for,
        )
        judge = self._judge and self._judge.identity()
        self.provenance: dict[str, Any] = {
            "writer": settings.writer.name,
            "writer_hash": digest(self._writer.identity()),
            "judge": judge and judge["name"],
            "judge_hash": judge and digest(judge),
            "verifier": verifier,
            "verifier_hash": digest(verifier),
            "solver": solver,
            "prompt_hash": digest(settings.instruction, rewriting.GRADING if judge else None),
            "sampling": described(sampling),
            "rule_hash": digest({name: getattr(settings, name) for name in _RULE}),
        }

    def run(self, tasks: Sequence[Task], known: Known) -> list[Seed]:
        """Try every task as a seed; ``known`` grows by what was seen."""
        seeds = self._select(tasks, known)
        live = [seed for seed in seeds if seed.reason is None]
        for attempt in range(1, self.settings.attempts + 1):
            drafts = [Draft(seed, attempt, self._source(seed)) for seed in live]
            self._write(drafts)
            self._screen(drafts, known.questions)
            self._grade(drafts)
            self._verify(drafts)
            for draft in drafts:
                draft.seed.drafts.append(draft)
            if self.settings.choose == "first":
                live = [seed for seed in live if not seed.accepted]
        for seed in live if self.settings.choose == "hardest" else ():
            hardest = min(seed.accepted, key=lambda draft: draft.after.passes, default=None)
            for draft in seed.accepted:
                if draft is not hardest:
                    draft.reason = "not the hardest"
        return seeds

    def _select(self, tasks: Sequence[Task], known: Known) -> list[Seed]:
        """Measure the tasks; a seed is what the policy answers nearly always."""
        seeds = [Seed(task) for task in tasks]
        for seed in seeds:
            if seed.hash in known.seeds:
                seed.reason = "duplicate seed"
            elif not seed.question.strip():
                seed.reason = "no text"
            known.seeds.add(seed.hash)
            known.questions.add(seed.question)
        tried = [seed for seed in seeds if seed.reason is None]
        tallies = self._rollouts.tally({seed.hash: seed.task for seed in tried}, "select")
        for seed in tried:
            seed.before = tallies[seed.hash]
            if not seed.before.full:
                seed.reason = "unmeasured seed"
            elif not acceptance.is_seed(seed.before.passes, seed_passes=self.settings.seed_passes):
                seed.reason = "hard seed"
        return seeds

    def _source(self, seed: Seed) -> str:
        accepted = seed.accepted if self.settings.rewrite_from == "accepted" else []
        return accepted[-1].question if accepted else seed.question

    def _write(self, drafts: Sequence[Draft]) -> None:
        told = self.settings.instruction
        requests = {d.seed.hash: (rewriting.request(d.seed.task, told, d.source), d.attempt) for d in drafts}
        replies = self._writer.ask(requests)
        for draft in drafts:
            reply = replies[draft.seed.hash]
            if isinstance(reply, Exception):
                draft.reason, draft.detail = "writer failed", str(reply)
            elif (found := rewriting.found(reply)) is None:
                draft.reason, draft.detail = "no question", reply
            else:
                draft.question = found

    def _screen(self, drafts: Sequence[Draft], asked: Questions) -> None:
        """Reject what need not be answered to be rejected."""
        for draft in _open(drafts):
            new, old = draft.question, draft.seed.question
            if similar(new, old) or similar(new, draft.source):
                draft.reason = "unchanged"
            elif new in asked:
                draft.reason = "repeated"
            elif rewriting.places(new) != rewriting.places(old):
                draft.reason = "images changed"
            elif (other := self._avoided.similar(new) or self._avoided.overlapping(new, old)) is not None:
                draft.reason, draft.detail = "contaminated", other
            asked.add(new)

    def _grade(self, drafts: Sequence[Draft]) -> None:
        if self._judge is None:
            return
        graded = {d.name: d for d in _open(drafts)}
        requests = {
            name: (rewriting.request(d.seed.task, rewriting.GRADING, d.question), 0) for name, d in graded.items()
        }
        for name, reply in self._judge.ask(requests).items():
            draft = graded[name]
            if isinstance(reply, Exception):
                draft.reason, draft.detail = "judge failed", str(reply)
                continue
            draft.grade = rewriting.grade(reply)
            if draft.grade is None:
                draft.reason, draft.detail = "no grade", reply
            elif draft.grade < self.settings.quality:
                draft.reason = "low quality"

    def _verify(self, drafts: Sequence[Draft]) -> None:
        """Accept what the policy still solves, but less often."""
        self._measure(drafts, "after", lambda draft: draft.task, "select")
        for draft in _open(drafts):
            draft.reason = self._rule(draft.seed.before, draft.after)
        if self.settings.blind is not None:
            pictured = [d for d in _open(drafts) if rewriting.has_images(d.task)]
            self._measure(pictured, "blind", lambda d: rewriting.without_images(d.task, d.name), "select")
            for draft in _open(pictured):
                if not draft.blind.full or draft.blind.passes > self.settings.blind:
                    draft.reason = "solved blind"
        if self.settings.fresh != "off":
            self._measure_again(_open(drafts))

    def _measure_again(self, drafts: Sequence[Draft]) -> None:
        """With fresh noise: neither count had a part in the choice."""
        self._measure(drafts, "fresh", lambda draft: draft.task, "fresh")
        tallies = self._rollouts.tally({draft.seed.hash: draft.seed.task for draft in drafts}, "fresh")
        for draft in drafts:
            draft.seed.fresh = tallies[draft.seed.hash]
            if self.settings.fresh == "require" and self._rule(draft.seed.fresh, draft.fresh) is not None:
                draft.reason = "not confirmed"

    def _measure(self, drafts: Sequence[Draft], what: str, task: Callable[[Draft], Task], purpose: str) -> None:
        wanted = {draft.name: draft for draft in _open(drafts)}
        tallies = self._rollouts.tally({name: task(draft) for name, draft in wanted.items()}, purpose)
        for name, draft in wanted.items():
            setattr(draft, what, tallies[name])

    def _rule(self, before: Tally, after: Tally) -> str | None:
        """The reason to reject, by the passes of a seed and of its rewrite."""
        chosen = self.settings
        if not (before.full and after.full):
            return "unmeasured"
        if chosen.acceptance == "fixed":
            return acceptance.fixed(before.passes, after.passes, min_passes=chosen.min_passes, drop=chosen.drop)
        return acceptance.posterior(
            before.passes,
            after.passes,
            chosen.rollouts,
            min_passes=chosen.min_passes,
            confidence=chosen.confidence,
            margin=chosen.margin,
        )


_RULE = (
    *("rollouts", "seed_passes", "min_passes", "drop", "acceptance", "confidence", "margin", "attempts", "choose"),
    *("rewrite_from", "success", "fresh", "blind", "quality"),
)


def _open(drafts: Sequence[Draft]) -> list[Draft]:
    return [draft for draft in drafts if draft.reason is None]


def _fingerprint(policy: Any) -> str:
    return fingerprint(getattr(policy, "path", ""), policy.state_dict())
