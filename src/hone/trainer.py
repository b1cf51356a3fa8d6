"""The loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hone import checkpoint, folder, origin, peaks, ranks, runtime, snapshot
from hone.ahead import Ahead
from hone.collect import Interrupted, described
from hone.guards import rewards
from hone.hangs import HangError
from hone.interrupt import graceful
from hone.judging import VerificationError, refuse_without_verdict
from hone.learner import Learner
from hone.recovery import Recovery
from hone.report.run import Run
from hone.seats import Hook, Reference, Refusal, State, reads_reference
from hone.session import Session
from hone.types import Group

log = logging.getLogger("hone")


class Trainer:
    """Trains a policy: plays groups, gives credit, updates, and tells its hooks.

    Args:
        config: A :class:`hone.Config`, read from YAML or made from Python objects.

    Attributes:
        interrupted: Whether Ctrl-C ended the last :meth:`fit`.
        leads: Whether this is the first process of the run, which writes its folder.

    Example::

        config = hone.load_config("configs/quickstart.yaml", ["steps=5"])
        run = hone.Trainer.from_config(config).fit()
        run.metrics[-1]["reward/mean"]
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.hooks = config.run_hooks()
        self.session = Session(config)
        self.policy, self.sampler = config.model, config.sampler
        self.reference: Reference | None = None
        self.leads = True
        self.interrupted = self._asked = False

    @classmethod
    def from_config(cls, config: Any) -> Trainer:
        """The trainer that a configuration describes; nothing is loaded before :meth:`fit`."""
        return cls(config)

    def fit(self, *, resume: bool = False, allow: Sequence[str] = ()) -> Run:
        """Train to the last step, or until Ctrl-C, which saves a checkpoint and ends cleanly.

        Args:
            resume: Go on from the newest whole checkpoint in the run's folder; a run that was killed before it had one
                begins anew.
            allow: What may differ from the run that is resumed: paths of settings, "settings" for any, "data".

        Raises:
            ValueError: If settings or data differ that may not, or every checkpoint is damaged.
            FileExistsError: If the folder holds another run.
            FileNotFoundError: If there is nothing to resume.
            VerificationError: If nothing at all of a step could be judged; the steps before it are saved.
            Refusal: If a hook, such as the guard, refuses an update; likewise.
            HangError: If something takes longer than ``limits`` allow; likewise, while sampling.
        """
        self.interrupted = self._asked = False
        with ExitStack() as closing, graceful(self._stop):
            closing.enter_context(runtime.joined(self.config.device, *runtime.limits(self.config)))
            self.leads = not ranks.index()
            self.folder = closing.enter_context(folder.claimed(self.config, resume=resume))
            self._desk = closing.enter_context(folder.desk(self.folder))
            self.origin = origin.agreed(origin.described(self.config))
            start = ranks.first(lambda: checkpoint.newest_whole(self.folder)) if resume else None
            changed = start is not None and origin.accept(start, self.origin, allow)
            if start is None:
                folder.write_settings(self.folder, self.config.dump())
            closing.enter_context(self.session)
            self._load()
            closing.callback(self.ahead.close)
            for hook in reversed(self.hooks):
                closing.callback(self._call, hook, "on_end")
            if start is not None:
                snapshot.restore(self, start)
                self.session.publish()
                folder.write_settings(self.folder, self.config.dump())
            self._tell("on_start")
            checkpoint.refuse_unfit(snapshot.parts(self))  # not after hours
            if start is not None and (changed or self.state.metrics) and not self.interrupted:
                self._save()  # an evaluation was made up for, or other settings accepted: not another time
            while self.state.step < self.config.steps and not (self.state.stop or self.interrupted):
                if not self._attempt():
                    break
                self._tell("on_step")
                self.ahead.publish()  # a hook may have changed the weights
            if self.state.stop:
                self._tell("on_stop")
            if self.interrupted:
                self._save()
            if self.state.stop:
                log.info("stopped at step %d: %s", self.state.step, self.state.stop)
        return Run(self.folder)

    def _attempt(self) -> bool:
        """Make a step, or leave everything as if it had not begun; whether it was made."""
        self.enter_stage()
        try:
            return self._step()
        except (Interrupted, VerificationError, Refusal, HangError) as error:
            if self.recovery.updating:
                raise  # the weights are of no whole step
            self.ahead.undo()
            self.interrupted = any(ranks.each(lambda: self.interrupted or self._asked))
            if not isinstance(error, Interrupted):
                kept = f"saved in {self._save()}" if self.state.step else "there are none"
                raise type(error)(f"step {self.state.step + 1}: {error}. The steps before: {kept}") from None
            if not self.interrupted:
                raise
        except FloatingPointError as error:  # of the sampler, whose logits are no numbers
            self.ahead.undo()
            if self.recovery.updating or not self.recovery.follow(str(error), self.state, self.stage.update.on_bad):
                raise
            self.session.publish()  # the weights that it went back to
            return self._attempt()
        return False

    def _step(self) -> bool:
        """One round of sampling and updating; False if there was nothing left to play."""
        started, aside, _ = time.perf_counter(), self.session.sampled, peaks.peak()
        coming = self.ahead.take()
        groups, kept, seconds = coming.groups, coming.kept, coming.seconds
        if coming.ended:
            self.state.stop = "the task source has no more tasks"
        if not groups:
            return False
        if self.state.step == 0 or len(groups) >= max(2, self.stage.prompts):  # one, or a few at the end, may be bad
            refuse_without_verdict(groups)
        metrics = described(groups, kept) | {"memory/sample": max(ranks.each(peaks.peak))}
        if self.session.sampled > aside:
            metrics["tokens/aside"] = self.session.sampled - aside
        chosen = [group for group, keep in zip(groups, kept, strict=True) if keep]
        self.state.groups, self.state.kept, self.state.version = groups, kept, coming.version
        self.state.rewards = [[t.reward for t in group] for group in groups]
        if odd := rewards.finite(self.state.rewards):
            raise Refusal(str(odd))
        if chosen:
            self._credit(chosen)
        self._tell("before_update")
        metrics["tokens/trained"] = sum(t.trained for group in chosen for t in group if t.reward is not None)
        updating = time.perf_counter()
        metrics |= self.recovery.update(chosen, self.state, self.stage.update.on_bad)
        self.ahead.trained()
        seconds |= {"update": (ended := time.perf_counter()) - updating, "step": ended - started}
        seconds = ranks.first(lambda: seconds)
        self.state.step += 1
        metrics |= {"memory/update": max(ranks.each(peaks.peak))} | self.ahead.told(coming, metrics)
        self.state.metrics = metrics | {f"time/{name}": value for name, value in seconds.items()}
        return True

    def _credit(self, groups: Sequence[Group]) -> None:
        """From rewards to advantages."""
        if self.reference is not None:
            self.learner.annotate(groups, self.reference)
        for shape in self.stage.shapers:
            shape(groups)
        self.stage.advantage(groups)

    def enter_stage(self) -> None:
        """Take the settings that hold from the coming step on."""
        self.stage = self.config.at(self.state.step)
        learner = self.learner
        learner.objective, learner.settings = self.stage.objective, self.stage.update
        learner.temperature = self.stage.sampling.temperature
        self.state.verifier = self.stage.verifier

    def _load(self) -> None:
        """Bring up the learner, the reference, and what hooks see."""
        config = self.config
        stages = config.every_stage()
        if any(reads_reference(part) for stage in stages for part in (stage.objective, *stage.shapers)):
            self.reference = self.policy.frozen_copy()
        course = {"steps": config.steps, "temperature": config.sampling.temperature, "seed": config.seed}
        self.learner = Learner(
            self.policy, config.objective, config.optimizer, config.update, **course, engine=config.engine
        )
        self.state = State(
            0,
            config.steps,
            self._desk,
            self.policy,
            reference=self.reference,
            save=self._save,
            anchor=self._anchor,
            restart=self.learner.restart,
            session=self.session,
            learner=self.learner,
        )
        for stage in stages:  # what cannot be is refused now, and not after hours
            self.learner.settings = stage.update
        self.ahead = Ahead(config, self.session, self.state)
        self.state.play = self.ahead.play
        self.recovery = Recovery(self.learner, config.limits.update, self.ahead.drop)
        self.enter_stage()

    def _anchor(self, weights: Mapping[str, Any] | None = None) -> None:
        """Make the policy as it is now, or the given trainable weights, the reference."""
        if self.reference is None:
            raise ValueError(
                "there is no reference to move: no part of this run reads one (objective.penalties, shapers)"
            )
        self.reference.load_state_dict(self.policy.state_dict() if weights is None else weights)

    def _save(self) -> Path:
        return snapshot.save(self)

    def _tell(self, event: str) -> None:
        """Call every hook, also those after one whose evaluation Ctrl-C cut short.

        Behind each all processes know of Ctrl-C in one of them, and of a reason to stop; or all have its error.
        """
        for hook in self.hooks:
            told = ranks.each(partial(self._call, hook, event))
            self.interrupted = any(interrupted for interrupted, _ in told)
            self.state.stop = next((stop for _, stop in told if stop), None)

    def _call(self, hook: Hook, event: str) -> tuple[bool, str | None]:
        """Call one, but for those that look on in other processes than the first; whether and why to stop."""
        act = getattr(hook, event, None)  # on_stop may be missing
        if act and (self.leads or not getattr(hook, "looks_on", False)):
            try:
                act(self.state)
            except Interrupted:
                self.interrupted = True
        return self.interrupted or self._asked, self.state.stop

    def _stop(self) -> None:
        """End the run after what cannot be interrupted: this process is asked to, and tells the others."""
        self._asked = True
        if self.session.collector is not None:
            self.session.collector.cancel()
