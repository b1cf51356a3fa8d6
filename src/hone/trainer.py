"""The loop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from hone import checkpoint, runtime
from hone.collect import Collector, Interrupted
from hone.learner import Learner
from hone.report.run import Run
from hone.seats import Hook, State, reads_reference
from hone.types import Group

log = logging.getLogger("hone")


class Trainer:
    """Trains a policy: plays groups, gives credit, updates, and tells its hooks.

    Args:
        config: A :class:`hone.Config`, read from YAML or made from Python objects.

    Example::

        config = hone.load_config("configs/quickstart.yaml", ["steps=5"])
        run = hone.Trainer.from_config(config).fit()
        run.metrics[-1]["reward/mean"]
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.policy, self.sampler, self.tasks = config.model, config.sampler, config.tasks
        self.hooks = config.run_hooks()
        self.params = replace(config.sampling, seed=config.seed)
        self.folder = config.run_folder()
        self.collector = self.reference = None
        self._interrupted = False

    @classmethod
    def from_config(cls, config: Any) -> Trainer:
        """The trainer that a configuration describes; nothing is loaded before :meth:`fit`."""
        return cls(config)

    def fit(self, *, resume: bool = False) -> Run:
        """Train to the last step, or until Ctrl-C, which saves a checkpoint and ends cleanly.

        Args:
            resume: Go on from the newest checkpoint in the run's folder.

        Raises:
            FileExistsError: If the folder holds another run.
            FileNotFoundError: If there is nothing to resume.
        """
        self._interrupted = False
        self._claim_folder(resume)
        with ExitStack() as closing, self._graceful_interrupt():
            closing.push(self._give_back_folder)
            self._load(resume, closing)
            self._write_config()
            self._tell("on_start")
            while self.state.step < self.config.steps and not (self.state.stop or self._interrupted):
                cursor = self.tasks.state_dict()
                try:
                    self._step()
                except Interrupted:
                    if not self._interrupted:
                        raise
                    self.tasks.load_state_dict(cursor)  # as if the step had not begun
                    break
                self._tell("on_step")
            if self._interrupted:
                self._save()
            if self.state.stop:
                log.info("stopped at step %d: %s", self.state.step, self.state.stop)
        return Run(self.folder)

    def _step(self) -> None:
        started = time.perf_counter()
        groups, kept, seconds = self._collect()
        metrics = _describe(groups, kept)
        chosen = [group for group, keep in zip(groups, kept, strict=True) if keep]
        if chosen:
            self._credit(chosen)
        metrics["tokens/trained"] = sum(t.trained for group in chosen for t in group if t.reward is not None)
        updating = time.perf_counter()
        metrics |= self.learner.update(chosen, self.state.step)
        self.sampler.sync(self.policy)
        ended = time.perf_counter()
        seconds |= {"update": ended - updating, "step": ended - started}
        self.state.step += 1
        self.state.groups, self.state.kept = groups, kept
        self.state.metrics = metrics | {f"time/{name}": value for name, value in seconds.items()}

    def _collect(self) -> tuple[list[Group], list[bool], dict[str, float]]:
        """Play groups until enough pass the gate, at most ``max_rounds`` times (DAPO's dynamic sampling)."""
        config, groups, kept = self.config, [], []
        seconds = {"sample": 0.0, "verify": 0.0}
        for turn in range(config.max_rounds):
            wanted = config.prompts - sum(kept)
            tasks = list(islice(self.tasks, wanted))
            if not tasks:
                break
            params = self.params.keyed("train", self.state.step, turn)
            played = self.collector.play(tasks, config.siblings, params)
            groups += played
            kept += [config.gate(group) for group in played]
            seconds = {name: total + self.collector.seconds[name] for name, total in seconds.items()}
        if len(tasks) < wanted:
            self.state.stop = "the task source has no more tasks"
        return groups, kept, seconds

    def _credit(self, groups: Sequence[Group]) -> None:
        """From rewards to advantages."""
        if self.reference is not None:
            self.learner.annotate(groups, self.reference)
        for shape in self.config.shapers:
            shape(groups)
        self.config.advantage(groups)

    def _load(self, resume: bool, closing: ExitStack) -> None:
        """Bring up workers, weights and optimiser, and take over a checkpoint."""
        config = self.config
        for source in (self.tasks, *(part.tasks for part in config.eval.values())):
            closing.callback(source.load_state_dict, source.state_dict())  # a second run reads the same tasks
        closing.callback(self.sampler.close)
        verification = config.verification
        self.collector = Collector(
            config.environment,
            self.sampler,
            config.verifier,
            workers=verification.workers,
            timeout=verification.timeout,
            memory_gb=verification.memory_gb,
            on_error=verification.on_error,
        )
        closing.callback(self.collector.close)
        self.policy.load(runtime.device(config.device))
        self.policy.version = 0
        self.sampler.sync(self.policy)
        if any(map(reads_reference, (config.objective, *config.shapers))):
            self.reference = self.policy.frozen_copy()
        self.learner = Learner(
            self.policy,
            config.objective,
            config.optimizer,
            config.update,
            steps=config.steps,
            temperature=config.sampling.temperature,
            seed=config.seed,
        )
        self.state = State(0, config.steps, self.folder, self.policy, play=self.collector.play, save=self._save)
        for hook in reversed(self.hooks):
            closing.callback(self._call, hook, "on_end")
        if resume:
            self._resume(checkpoint.latest(self.folder))

    def _resume(self, path: Path) -> None:
        saved = checkpoint.load(path)
        self.policy.load_state_dict(saved["policy"])
        self.policy.version = saved["version"]
        self.learner.load_state_dict(saved["learner"])
        self.tasks.load_state_dict(saved["tasks"])
        for name, hook in _named(self.hooks):
            if name in saved["hooks"]:  # else it is new to the run
                hook.load_state_dict(saved["hooks"][name])
        self.state.step = saved["step"]
        self.sampler.sync(self.policy)
        log.info("resumed from %s", path)

    def _save(self) -> Path:
        """Write a checkpoint of the run as it was after the last whole step."""
        state = {
            "step": self.state.step,
            "version": self.policy.version,
            "policy": self.policy.state_dict(),
            "learner": self.learner.state_dict(),
            "tasks": self.tasks.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in _named(self.hooks)},
        }
        return checkpoint.save(self.folder, self.state.step, self.policy, state, keep=self.config.checkpoint.keep)

    def _claim_folder(self, resume: bool) -> None:
        claim = self.folder / "metrics.jsonl"
        if resume and checkpoint.latest(self.folder) is None:
            raise FileNotFoundError(f"there is no checkpoint to resume from in {self.folder / 'checkpoints'}")
        if claim.exists() and self.config.folder is None and not resume:
            self.folder = self.config.run_folder()  # another run was faster
            claim = self.folder / "metrics.jsonl"
        if not resume and (self.folder / "config.yaml").exists() and not claim.exists():
            raise FileExistsError(f"{self.folder / 'config.yaml'} would be overwritten; give another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            claim.touch(exist_ok=resume)
        except FileExistsError:
            raise FileExistsError(f"{self.folder} holds a run; resume it, or give another folder") from None
        self._wrote_config = False

    def _give_back_folder(self, failure: type[BaseException] | None, *_: object) -> None:
        """What failed before its first line was no run: it may start again in the same folder."""
        claim = self.folder / "metrics.jsonl"
        if failure and not claim.stat().st_size and checkpoint.latest(self.folder) is None:
            claim.unlink()
            if self._wrote_config:
                (self.folder / "config.yaml").unlink()
            with suppress(OSError):
                self.folder.rmdir()  # if there is nothing else in it

    def _write_config(self) -> None:
        scratch = self.folder / ".config.yaml.partial"
        scratch.write_text(self.config.dump(), encoding="utf-8")
        scratch.replace(self.folder / "config.yaml")
        self._wrote_config = True

    def _tell(self, event: str) -> None:
        """Call every hook, also those after one whose evaluation Ctrl-C cut short."""
        for hook in self.hooks:
            self._call(hook, event)

    def _call(self, hook: Hook, event: str) -> None:
        try:
            getattr(hook, event)(self.state)
        except Interrupted:
            self._interrupted = True

    @contextmanager
    def _graceful_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C ends the run after what cannot be interrupted; the second ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(*_: object) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, before)
            if self.collector is not None:
                self.collector.cancel()
            print("\nstopping: saving a checkpoint (Ctrl-C again to stop at once)", file=sys.stderr)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _named(hooks: Sequence[Hook]) -> Iterator[tuple[str, Hook]]:
    """The hooks by the names of their classes, counted where there are several: a resumed run may have others too."""
    seen: Counter[str] = Counter()
    for hook in hooks:
        name = type(hook).__qualname__
        seen[name] += 1
        yield f"{name} {seen[name]}", hook


def _describe(groups: Sequence[Group], kept: Sequence[bool]) -> dict[str, float]:
    """What was sampled in a step, dropped groups included; the rewards are those before any shaping."""
    played = [trajectory for group in groups for trajectory in group]
    rewards = [trajectory.reward for trajectory in played if trajectory.reward is not None]
    metrics = {
        "groups/kept": sum(kept),
        "groups/dropped": len(kept) - sum(kept),
        "tokens/sampled": sum(trajectory.sampled for trajectory in played),
        "verify/errors": sum(trajectory.error is not None for trajectory in played),
    }
    if rewards:
        metrics |= {"reward/mean": fmean(rewards), "reward/std": pstdev(rewards)}
    if played:
        metrics["length/mean"] = fmean(trajectory.sampled for trajectory in played)
        metrics["length/truncated"] = fmean(trajectory.stop == "length" for trajectory in played)
    return metrics
