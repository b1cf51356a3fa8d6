"""A run as one object, from YAML or from Python; the keys of the YAML are the fields of :class:`Config`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from hone import document, fitting, seats
from hone.build import build, describe, describe_settings, make
from hone.changes import changed
from hone.registry import DOTTED, ConfigError, is_name, suggest
from hone.seats import SamplingParams
from hone.sections import (
    CheckpointConfig,
    EvalConfig,
    LimitsConfig,
    OptimizerConfig,
    UpdateConfig,
    VerificationConfig,
)

log = logging.getLogger("hone")

_NEED_SIBLINGS = {"zscore", "centred", "leave_one_out", "batch_whitened", "informative"}
"""Advantages and gates that compare a trajectory with others of its group."""
Name = Annotated[str, Field(pattern=r"^\w[\w+-]*$")]


def _named(room: str, name: str) -> Any:
    """A default that is built when it is needed, so that nothing is imported for it before."""
    return Field(default_factory=lambda: build(room, name), json_schema_extra={"default": name})


class Config(BaseModel):
    """A run. Every part may be given as an object or as in YAML: a name, or a mapping of a name to settings.

    Building one is cheap: weights and data are loaded by the trainer. Relative paths in it are relative to the working
    directory, not to the file.

    Attributes:
        model: What is trained. A folder or hub name means ``{causal_lm: {path: ...}}``.
        engine: How several processes share it.
        tasks: Where questions come from.
        verifier: Judges the answers.
        environment: How a task is played.
        sampler: Draws completions.
        sampling: How training samples.
        steps: Rounds of sampling and updating.
        prompts: Groups that a step trains on.
        siblings: Trajectories per group.
        max_rounds: Rounds of sampling in which a step may replace groups that the gate dropped (DAPO's dynamic
            sampling); 1 trains on what the first one gave.
        max_staleness: Most updates by which the weights that sample may be older than those that are trained; 0
            samples and updates in turn, and with k the next k steps are sampled while a step is trained on
            (:mod:`hone.ahead`). An objective without an importance weight is given one.
        advantage: Gives credit to trajectories from their rewards.
        gate: Which groups are kept.
        shapers: Change rewards or withdraw trajectories of kept groups, in this order.
        objective: The loss.
        optimizer: AdamW.
        update: How the groups of a step become optimiser steps.
        verification: Worker processes for the verifiers.
        limits: When something hangs.
        stages: Settings that change on the way: ``{200: {siblings: 32, sampling.max_tokens: 1024}}`` holds from the
            step on that follows the 200th. Only what a step reads anew can change (see ``STAGED``).
        eval: Evaluations by name.
        hooks: Further actions between steps, in this order; ``guard``, ``log`` or ``live`` among them replace the
            usual ones.
        checkpoint: When the whole run is saved.
        folder: Of the run; by default a new ``runs/<name of the file>-<n>``.
        seed: Of sampling and of the update; task sources have a seed of their own.
        device: "auto", "cpu", "cuda", "cuda:1", "mps"; of several processes each takes the GPU of its place.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: seats.Policy
    tasks: seats.TaskSource
    verifier: seats.Verifier
    engine: seats.Engine = _named("engine", "ddp")
    environment: seats.Environment = _named("environment", "single_turn")
    sampler: seats.Sampler = _named("sampler", "native")
    sampling: SamplingParams = Field(default_factory=SamplingParams)
    steps: int = Field(100, ge=0)
    prompts: int = Field(8, ge=1)
    siblings: int = Field(8, ge=1)
    max_rounds: int = Field(1, ge=1)
    max_staleness: int = Field(0, ge=0)
    advantage: seats.Advantage = _named("advantage", "zscore")
    gate: seats.Gate = _named("gate", "informative")
    shapers: list[seats.Shaper] = Field(default_factory=list)
    objective: seats.Objective = _named("objective", "policy_gradient")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    update: UpdateConfig = Field(default_factory=UpdateConfig)
    verification: VerificationConfig = Field(default_factory=VerificationConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    stages: dict[Annotated[int, Field(ge=1)], dict[str, Any]] = Field(default_factory=dict)
    eval: dict[Name, EvalConfig] = Field(default_factory=dict)
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    hooks: list[seats.Hook] = Field(default_factory=list)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    folder: str | None = None
    seed: int = 0
    device: str = "auto"

    _source: Path | None = PrivateAttr(None)
    _stages: dict[int, Config] = PrivateAttr(default_factory=dict)
    _variants: dict[str, Config] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **values: Any) -> None:
        if "model" in values:
            values["model"] = _long_model(values["model"])
        make(type(self), values, construct=super().__init__)
        self.objective = fitting.corrected(self.objective, self.sampler, stale=self.max_staleness > 0)
        if conflicts := list(self._conflicts()):
            raise ConfigError(conflicts)
        self.eval = dict(self._with_sampling(values.get("eval")))
        self._build_changes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.__dict__ == other.__dict__  # wherever the two were read from

    def at(self, step: int) -> Config:
        """The configuration that holds after ``step`` steps: this one, with the changes of its stages until then."""
        begun = [first for first in self._stages if first <= step]
        return self._stages[max(begun)] if begun else self

    def every_variant(self) -> dict[str, Config]:
        """Itself, without a name, and its variants by name: the same weights and tasks, answered in other ways."""
        return {"": self, **self._variants}

    def every_stage(self) -> list[Config]:
        """Itself and the configurations of its stages, in order."""
        return [self, *self._stages.values()]

    def dump(self) -> str:
        """YAML of all settings, defaults included; it loads to an equal config."""
        return document.write(describe_settings(self))

    def run_folder(self) -> Path:
        """Where a new run writes: ``folder``, or else the first ``runs/<name of the file>-<n>`` that is free."""
        if self.folder is not None:
            return Path(self.folder)
        stem = self._source.stem if self._source else "run"
        return next(path for n in count(1) if not (path := Path("runs", f"{stem}-{n}")).exists())

    def run_hooks(self) -> list[seats.Hook]:
        """Every hook of the run, in the order of their calls.

        Those of ``hooks`` come first, for they may add metrics or stop the run. The evaluations follow, and the hooks
        that read them, then the guard, the log, which writes down what all of these measured, the checkpoints, which
        must not be ahead of it, and the view.
        """
        evaluations = [build("hook", {"evaluate": {"name": name, **vars(part)}}) for name, part in self.eval.items()]
        saving = {"every": self.checkpoint.every, "at_end": self.checkpoint.at_end, "best": self.checkpoint.best}
        usual = [build("hook", spec) for spec in ("guard", "log", {"checkpoint": saving}, "live")]
        given = {type(hook): hook for hook in self.hooks}
        others = [hook for hook in self.hooks if type(hook) not in map(type, usual)]
        late = [hook for hook in others if getattr(hook, "reads_evaluations", False)]
        early = [hook for hook in others if hook not in late]
        return [*early, *evaluations, *late, *(given.get(type(hook), hook) for hook in usual)]

    def _with_sampling(self, written: Any) -> Iterator[tuple[str, EvalConfig]]:
        """The evaluations, with what a mapping of ``sampling`` leaves open: as in training, and greedy."""
        greedy = replace(self.sampling, temperature=0.0)
        for name, part in self.eval.items():
            sampling = part.sampling or greedy
            spec = written[name].get("sampling") if isinstance(written[name], Mapping) else None
            if isinstance(spec, Mapping):
                sampling = replace(greedy, **{str(field): getattr(sampling, str(field)) for field in spec})
                if sampling.truncated and not sampling.temperature:
                    log.warning("eval.%s.sampling: top_p, top_k and min_p do nothing without a temperature", name)
            yield name, replace(part, sampling=sampling)

    def _build_changes(self) -> None:
        """Every stage as a configuration of its own, that goes on from the one before it; and every variant."""
        problems: list[str] = []
        self._stages, self._variants = {}, {}
        for first, changes in sorted(self.stages.items()):
            with _added(problems):
                self._stages[first] = changed(self.at(first), changes, f"stages.{first}")
        for name, changes in self.variants.items():
            with _added(problems):
                self._variants[name] = changed(self, changes, f"variants.{name}")
        if problems:
            raise ConfigError(problems)

    def _conflicts(self) -> Iterator[str]:
        """What is wrong between fields, though each is right by itself."""
        sampling = self.sampling
        if sampling.temperature == 0:
            yield "sampling.temperature = 0: greedy siblings are all alike and teach nothing; only eval may be greedy"
        if sampling.seed:
            yield f"sampling.seed = {sampling.seed}: is derived for each sample; set seed, that of the run"
        if sampling.truncated:
            yield (
                "sampling: top_p, top_k and min_p bias the ratio of training, whose probabilities are of the whole "
                "vocabulary; set them only in the sampling of eval"
            )
        yield from fitting.unfit_processors(self.objective, self.sampler)
        if self.max_staleness:
            yield from fitting.unfit_ahead(self.model, [self.tasks, *(part.tasks for part in self.eval.values())])
        for field in ("advantage", "gate"):
            spec = describe(getattr(self, field))
            name = spec if isinstance(spec, str) else next(iter(spec))
            if self.siblings < 2 and name in _NEED_SIBLINGS:
                yield f"siblings = {self.siblings}: {field} {name} compares siblings, so it needs at least 2"
        if self.update.minibatches > self.prompts:
            yield f"update.minibatches = {self.update.minibatches}: should be at most prompts ({self.prompts})"
        best = self.checkpoint.best or ""
        if (evaluation := re.match("-?eval/([^/]+)/", best)) and evaluation[1] not in self.eval:
            yield f"checkpoint.best = {best!r}: there is no such evaluation; {suggest(evaluation[1], self.eval)}"
        for name, part in self.eval.items():
            if part.tasks is self.tasks:
                yield f"eval.{name}.tasks: is the very object that training reads from; build another"
            for variant, changes in self.variants.items():
                if part.environment and any(path.partition(".")[0] == "environment" for path in changes):
                    yield f"variants.{variant}.environment: would do nothing in eval.{name}, which has one of its own"


def load_config(
    path: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Read a YAML file.

    Args:
        path: The file.
        overrides: ``"sampling.temperature=0.7"`` with a value in YAML, or a mapping of such paths to values.
        defaults: What the file need not say.

    Raises:
        ConfigError: With every problem, each with its YAML path.
    """
    try:
        data = {**(defaults or {}), **document.read_mapping(path)}
        for where, value in document.pairs(overrides):
            if where.startswith("model."):
                data["model"], where = _long_model(data.get("model")), _long_path(where)
            document.put(data, where, value)
        config = Config(**data)
    except ConfigError as error:
        error.source = path
        raise
    config._source = Path(path)
    return config


def overridden(overrides: Sequence[str]) -> list[str]:
    """The paths of the settings that overrides set, in full."""
    return [_long_path(where) if where.startswith("model.") else where for where, _ in document.pairs(overrides)]


@contextmanager
def _added(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def _long_model(spec: Any) -> Any:
    """A path alone, or causal_lm's settings alone, as the spec of a causal_lm."""
    if isinstance(spec, str) and not is_name("policy", spec):
        return {"causal_lm": {"path": spec}}
    return {"causal_lm": spec} if isinstance(spec, Mapping) and "path" in spec else spec


def _long_path(where: str) -> str:
    """``model.lora.rank`` as ``model.causal_lm.lora.rank``."""
    rest = where.removeprefix("model.")
    named = DOTTED.match(rest) or is_name("policy", rest.partition(".")[0])
    return where if named else f"model.causal_lm.{rest}"
