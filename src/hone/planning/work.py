"""What a step has to do: sequences, rows and micro-batches, laid out by the code that lays out real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from math import ceil, gcd
from typing import Any

from hone import collate
from hone.policies.hollow import Hollow
from hone.policies.tree import Tree
from hone.types import Group, Row, Segment, Task, Trajectory

READ = 32
"""Tasks whose prompts are measured."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and of answers.

    Attributes:
        contexts: Of prompts as they were found; a step has them in turn.
        response: Of an answer, on the mean.
        longest: Of the longest; None if all are as long.
    """

    contexts: tuple[int, ...]
    response: int
    longest: int | None = None

    @classmethod
    def of(cls, config: Any, hollow: Hollow, prompt: int | None = None, response: int | None = None) -> Lengths:
        """Those of a configuration: of its first prompts by its tokenizer, and the most tokens of an answer.

        Args:
            config: Its task source is left as it was.
            hollow: Has the tokenizer.
            prompt: Instead of reading tasks.
            response: Instead of ``sampling.max_tokens``.

        Raises:
            ValueError: If there are no tasks, or the environment does not say what it asks.
        """
        contexts = (prompt,) if prompt else tuple(_measured(config, hollow))
        return cls(contexts, min(response or config.sampling.max_tokens, config.sampling.max_tokens))

    def spread(self, siblings: int) -> list[int]:
        """Lengths of siblings' answers: at equal distances around the mean, up to the longest, and mixed."""
        reach = min((self.longest or self.response) - self.response, self.response - 1)
        if siblings < 2:
            return [self.response]
        stride = next(n for n in range(max(1, round(0.618 * siblings)), siblings + 1) if gcd(n, siblings) == 1)
        places = [i * stride % siblings for i in range(siblings)]
        return [self.response + round(reach * (2 * place / (siblings - 1) - 1)) for place in places]


def _measured(config: Any, hollow: Hollow) -> list[int]:
    messages = getattr(config.environment, "messages", None)
    if messages is None:
        raise ValueError("plan: this environment does not say what it asks; give --prompt-tokens")
    cursor = config.tasks.state_dict()
    try:
        tasks = list(islice(config.tasks, READ))
    finally:
        config.tasks.load_state_dict(cursor)
    if not tasks:
        raise ValueError("tasks: the source has no tasks")
    return hollow.lengths([messages(task) for task in tasks])


@dataclass(frozen=True)
class MicroBatch:
    """Rows that are scored together.

    Attributes:
        rows: Laid out.
        processes: That score it together; of what follows, a part is meant that one of them has.
        tokens: Of them, padding left out.
        trained: Of these, those that get a loss.
        pairs: Of a query and a key that it sees.
        parts: In which attention goes over its rows on a CPU.
    """

    rows: list[Row]
    processes: int
    tokens: int
    trained: int
    pairs: int
    parts: int

    @classmethod
    def of(cls, rows: list[Row], processes: int = 1) -> MicroBatch:
        """Counted."""
        trained = sum(len(s) for row in rows for b in row.branches for s in b.segments if s.train)
        counts = sum(map(len, rows)), trained, sum(map(_pairs, rows))
        parts = sum(len(Tree.of(row, None, None).siblings) for row in rows)
        return cls(rows, processes, *(-(-count // processes) for count in counts), parts)


@dataclass(frozen=True)
class Work:
    """A step's work on the device that has most of it.

    Attributes:
        prompts: That it plays, those of all rounds.
        sequences: That it samples.
        contexts: Prompt tokens that it computes, each prompt once.
        longest: Of these prompts.
        response: Tokens of an answer.
        longest_response: Of the longest.
        minibatches: Micro-batches of each optimiser step of an epoch.
        epochs: Passes.
        rounds: Of sampling, one behind the other.
    """

    prompts: int
    sequences: int
    contexts: int
    longest: int
    response: int
    longest_response: int
    minibatches: list[list[MicroBatch]]
    epochs: int
    rounds: float = 1

    @property
    def together(self) -> int:
        """Sequences that are sampled in one round."""
        return ceil(self.sequences / max(1, self.rounds))

    @property
    def largest(self) -> MicroBatch | None:
        """The micro-batch with most tokens; None where nothing is trained."""
        return max((micro for mini in self.minibatches for micro in mini), key=lambda m: m.tokens, default=None)

    @property
    def on_policy(self) -> bool:
        """Whether one optimiser step is made of it, so that no old log-probabilities are computed."""
        return len(self.minibatches) * self.epochs == 1


def work(
    config: Any, lengths: Lengths, *, devices: int = 1, packs: bool = True, kept: int | None = None, rounds: float = 1
) -> Work:
    """The work of a step.

    Args:
        config: Of the run.
        lengths: Of prompts and answers.
        devices: Groups are dealt out to so many.
        packs: Whether rows are packed prefix trees; else each trajectory is a row.
        kept: Groups that the gate keeps of a step; all unless given.
        rounds: Of sampling.

    Raises:
        ValueError: If the devices do not come out even over ``update.sequence_parallel``.
    """
    together = config.update.sequence_parallel
    if devices % together:
        raise ValueError(f"update.sequence_parallel: {together}: {devices} devices are no multiple; give --devices")
    prompts = -(-config.prompts // devices)
    played = list(islice(cycle(lengths.contexts), prompts))
    most = getattr(config.environment, "most_tokens", None)
    times = most(config.siblings, config.sampling) / (config.siblings * config.sampling.max_tokens) if most else 1
    learnt = -(-(config.prompts if kept is None else kept) * together // devices)
    trained = islice(cycle(lengths.contexts), learnt)
    groups = [_group(i, context, lengths.spread(config.siblings)) for i, context in enumerate(trained)]
    cuts = [len(groups) * i // config.update.minibatches for i in range(config.update.minibatches + 1)]
    minis = [_micro_batches(groups[a:b], config.update.tokens, packs, together) for a, b in pairwise(cuts)]
    return Work(
        prompts=round(prompts * rounds),
        sequences=round(prompts * config.siblings * rounds * times),
        contexts=round(sum(played) * rounds),
        longest=max(lengths.contexts),
        response=lengths.response,
        longest_response=lengths.longest or lengths.response,
        minibatches=[mini for mini in minis if mini],
        epochs=config.update.epochs,
        rounds=rounds,
    )


def _group(number: int, context: int, responses: Sequence[int]) -> Group:
    """A group of which only lengths are there: the actions are ranges."""
    task, prompt = Task(str(number), ()), Segment("prompt", "given", range(context))
    answers = [Segment("response", "policy", range(length), train=True) for length in responses]
    return Group(task, [Trajectory(task, [prompt, answer], reward=0.0, advantage=0.0) for answer in answers])


def _micro_batches(groups: Sequence[Group], tokens: int, packs: bool, together: int) -> list[MicroBatch]:
    laid = collate.rows(groups, shares_context=packs, packs=packs, tokens=tokens)
    return [MicroBatch.of(rows, together) for rows in collate.micro_batches(laid, tokens, packs=packs)]


def _pairs(row: Row) -> int:
    before, total = [], 0
    for branch in row.branches:
        above = before[branch.parent] if branch.parent >= 0 else 0
        total += len(branch) * above + len(branch) * (len(branch) + 1) // 2
        before.append(above + len(branch))
    return total
