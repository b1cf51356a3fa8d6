"""A policy that plays: its weights, its sampler, and the workers of its verifiers, without a learner."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

from hone import ranks, runtime
from hone.collect import Collector
from hone.seats import Environment, SamplingParams, TaskSource, Verifier
from hone.synthesis.provenance import fingerprint
from hone.types import Group, Score, Task, Trajectory

_bound: WeakValueDictionary[int, TaskSource] = WeakValueDictionary()
"""Every source that was ever bound, by its identity: asked for a task, it may play."""


class Session:
    """A :class:`~hone.seats.Player`: everything that a configuration needs to play. A context manager.

    On entry every source is looked into, the weights are loaded, and the sources that play others are bound; at the end
    every source is where it was before, so that a second run reads the same tasks.

    Args:
        config: A :class:`hone.Config`.

    Attributes:
        collector: Plays groups.
        sampled: Tokens sampled by :meth:`play`, for sources and whoever else is given the session as a player.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.policy, self.sampler = config.model, config.sampler
        self.environment, self.verifier, self.sampling = config.environment, config.verifier, config.sampling
        self.collector: Collector | None = None
        self.sampled = 0
        self._closing = ExitStack()
        self._published: int | None = None
        self._copy: Any = None
        """What the sampler has instead of the policy itself, once it is detached."""
        self._fingerprint: tuple[int, str] | None = None

    def __enter__(self) -> Session:
        with ExitStack() as closing:  # if loading fails, what was begun is undone
            self._load(closing)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self._copy = None

    def _load(self, closing: ExitStack) -> None:
        config, limits = self.config, self.config.verification
        named = list(sources(config))
        every = [found for _, source in named for found in within(source)]
        for source in every:
            closing.callback(source.load_state_dict, source.state_dict())
        for name, source in named:
            _look_into(source, name)
        closing.callback(self.sampler.close)
        self.collector = Collector(
            config.environment,
            self.sampler,
            config.verifier,
            on_error=limits.on_error,
            patience=config.limits.sampling,
            **limits.pool,
        )
        closing.callback(self.collector.close)
        config.engine.load(self.policy, runtime.device(config.device))
        self.policy.version = 0
        self._published = self._copy = None
        self.publish()
        for source in every:
            if hasattr(source, "bind"):
                source.bind(self)
                _bound[id(source)] = source

    def publish(self, policy: Any = None) -> None:
        """Give the sampler the weights as they are, or as a copy of the policy has them, if it has others."""
        policy = policy or self.policy
        if policy.version != self._published:
            self.sampler.sync(self._copy.follow(policy) if self._copy else policy)
            self._published = policy.version

    def detach(self) -> None:
        """Have the sampler sample from weights of its own, which the policy's update leaves as they are."""
        if not getattr(self.sampler, "copies", False):
            self._copy, self._published = self.policy.twin(), None
            self.publish()

    def up_to_date(self) -> bool:
        """Whether the sampler has the weights as they are."""
        return self.policy.version == self._published

    def rest(self) -> None:
        """Tell the sampler that nothing is sampled for a while."""
        if rest := getattr(self.sampler, "rest", None):
            rest()

    def play(
        self,
        tasks: Sequence[Task],
        n: int,
        params: SamplingParams,
        verifier: Verifier | None = None,
        environment: Environment | None = None,
        finished: Callable[[int, Group], None] | None = None,
    ) -> list[Group]:
        """Play each task ``n`` times; see :meth:`hone.collect.Collector.play`."""
        groups = self.collector.play(tasks, n, params, verifier, environment, finished)
        self.sampled += sum(group.generated for group in groups)
        return groups

    def judge(self, trajectories: Sequence[Trajectory], verifier: Verifier | None = None) -> list[Score]:
        """Judge what was played again; see :meth:`hone.collect.Collector.judge`."""
        return self.collector.judge(trajectories, verifier)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await a coroutine where the sampler samples; see :meth:`hone.collect.Collector.run`."""
        return self.collector.run(work)

    def fingerprint(self) -> str:
        """A hash of the trainable weights as they are now, and of the model's name; all processes ask together."""
        version = self.policy.version
        if self._fingerprint is None or self._fingerprint[0] != version:
            weights = self.policy.state_dict()  # of sharded ones the first process has all
            name = getattr(self.policy, "path", "")
            self._fingerprint = version, ranks.first(lambda: fingerprint(name, weights))
        return self._fingerprint[1]


def make(config: Any, command: str, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Have every source of a configuration that answers to ``command`` play until its data set is whole.

    Of several processes that a launcher has started all call it; the first reports, and writes.

    Raises:
        ValueError: If there is none.
    """
    makers = [source for source in within(config.tasks) if getattr(source, "command", None) == command]
    if not makers:
        raise ValueError(f"tasks: there is no source here for `hone {command}`")
    with runtime.joined(config.device, *runtime.limits(config)), Session(config):
        return [source.make((lambda told: None) if ranks.index() else report) for source in makers]


def calibrate(config: Any, questions: int) -> list[dict[str, Any]]:
    """Have every processor that measures the model as it is without it do so, on the first tasks.

    Where the configuration has none, those of its first variant that has some do.

    Raises:
        ValueError: If there is none.
    """
    for chosen in config.every_variant().values():
        processors = getattr(chosen.sampler, "processors", [])
        if measuring := [processor for processor in processors if hasattr(processor, "calibrate")]:
            break
    else:
        raise ValueError("sampler.processors: there is none that is calibrated, such as alphaone")
    chosen.sampler.processors = [processor for processor in processors if processor not in measuring]
    try:
        with Session(chosen) as session:
            tasks = list(islice(chosen.tasks, questions))
            return [processor.calibrate(session, tasks) for processor in measuring]
    finally:
        chosen.sampler.processors = processors


def within(source: TaskSource) -> Iterator[TaskSource]:
    """A source, and the sources that it draws from."""
    yield source
    for value in getattr(source, "__dict__", {}).values():
        held = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
        for inner in held:
            if isinstance(inner, TaskSource) and inner is not source:
                yield from within(inner)


def sources(config: Any) -> Iterator[tuple[str, TaskSource]]:
    """The sources that a configuration names, each once, with its place."""
    named = [("tasks", config.tasks)]
    named += [(f"stages.{first}.tasks", config.at(first).tasks) for first in config.stages]
    named += [(f"eval.{name}.tasks", part.tasks) for name, part in config.eval.items()]
    for i, (name, source) in enumerate(named):
        if not any(source is other for _, other in named[:i]):
            yield name, source


def _look_into(source: TaskSource, name: str) -> None:
    """Take a task and put it back: a file that is not there, or a bad row, ends a run before the weights are loaded.

    Raises:
        ValueError: If there is none.
    """
    if any(id(found) in _bound for found in within(source)):
        return  # it is not to play for this, and an earlier session has looked
    cursor = source.state_dict()
    try:
        if next(source, None) is None:
            raise ValueError(f"{name}: the source has no tasks")
    finally:
        source.load_state_dict(cursor)
