"""Pass counts: how often a policy solves each of several tasks, of a full set of judged rollouts.

A rollout that could not be judged is none: it is played again, and a task that stays without its full set is not
measured, which is not the same as hard. What was played is in a journal as soon as the task's last answer is judged.
Of several processes each plays a share, and all have what all have played.

What is found there counts as sampled all the same, once: how much a set of tasks cost does not depend on whether a run
was killed and resumed while it played them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hone.seats import Environment, Player, Sampler, SamplingParams, Verify
from hone.synthesis.journal import Journal
from hone.synthesis.provenance import digest
from hone.types import Group, Task


@dataclass(frozen=True)
class Tally:
    """What became of the rollouts of one task.

    Attributes:
        passes: Judged, and worth enough.
        wrong: Judged, ended by themselves, and not worth enough.
        truncated: Judged, cut off at the limit of tokens, and not worth enough; they count as not passed.
        errors: Not judged, over all rounds; they count as nothing.
        wanted: How many judged ones make the set full.
        tokens: Sampled for all of them.
    """

    passes: int
    wrong: int
    truncated: int
    errors: int
    wanted: int
    tokens: int

    @property
    def full(self) -> bool:
        """Whether there are as many judged rollouts as were asked for."""
        return self.passes + self.wrong + self.truncated == self.wanted


@dataclass(frozen=True)
class Rollouts:
    """Plays tasks until each has its full set.

    Attributes:
        player: Samples and judges.
        journal: What was played; nothing in it is played again.
        environment: How a task is played.
        sampler: Of the policy that plays; None for the player's own.
        params: How it samples, for every task alike.
        count: Rollouts that make a full set.
        success: The reward from which on a rollout passes.
        replays: Most rounds in which those that could not be judged are played again.
        identity: What else the outcome depends on, for the journal's keys: policy and verifier.
        counted: The journal's keys that the player's count of sampled tokens has in it.
    """

    player: Player
    journal: Journal
    environment: Environment
    sampler: Sampler | None
    params: SamplingParams
    count: int
    success: float
    replays: int
    identity: Any
    counted: set[str] = field(default_factory=set)

    def tally(self, tasks: Mapping[str, Task], purpose: str) -> dict[str, Tally]:
        """Play tasks and count; each name's own.

        The noise depends on the task and the purpose, not on the tasks beside it: what is measured again for the same
        purpose has the very same rollouts, and for another one fresh ones.
        """
        keys = {name: self._key(task, purpose) for name, task in tasks.items()}
        for turn in range(1 + self.replays):
            wanted: dict[int, dict[str, Task]] = defaultdict(dict)
            for name, key in keys.items():
                lacking = self.count - sum(reward is not None for reward, _ in self._outcomes(key))
                where = f"{key}/{turn}"
                if where in self.journal:
                    self._count(where)
                elif lacking > 0:
                    wanted[lacking][where] = tasks[name]
            for n, missing in wanted.items():
                self._play(missing, n, f"{purpose}/{turn}")
        return {name: self._tally(key) for name, key in keys.items()}

    def _count(self, where: str) -> None:
        if where not in self.counted:
            self.counted.add(where)
            self.player.sampled += self.journal[where]["tokens"]

    def _key(self, task: Task, purpose: str) -> str:
        asked = [list(task.prompt), task.answer]
        return f"rollouts/{purpose}/{digest(asked, self.identity, self.count)}"

    def _play(self, tasks: Mapping[str, Task], n: int, noise: str) -> None:
        """Play each task n times and keep what came out under the task's key.

        Of the weights the noise does not depend: they differ by rounding between runs of one and of several processes.
        """
        keys = list(tasks)

        def keep(place: int, group: Group) -> None:
            if (key := keys[place]) not in self.journal:
                outcomes = [[t.reward, t.stop == "length"] for t in group]
                self.journal.put(key, {"task": tasks[key].id, "outcomes": outcomes, "tokens": group.generated})

        groups = self.player.play(
            [replace(task, id=f"{task.id}#{digest(list(task.prompt), task.answer, noise)}") for task in tasks.values()],
            n,
            self.params,
            environment=_Through(self.environment, self.sampler) if self.sampler else self.environment,
            finished=keep,
        )
        for place, group in enumerate(groups):
            keep(place, group)  # in the other processes, and for players that have not told
        self.counted.update(tasks)

    def _outcomes(self, key: str) -> list[tuple[float | None, bool]]:
        rounds = [f"{key}/{turn}" for turn in range(1 + self.replays)]
        return [tuple(outcome) for name in rounds if name in self.journal for outcome in self.journal[name]["outcomes"]]

    def _tally(self, key: str) -> Tally:
        outcomes = self._outcomes(key)
        judged = [(reward, cut) for reward, cut in outcomes if reward is not None][: self.count]
        cut = sum(cut and reward < self.success for reward, cut in judged)
        passes = sum(reward >= self.success for reward, _ in judged)
        rounds = [f"{key}/{turn}" for turn in range(1 + self.replays)]
        tokens = sum(self.journal[name]["tokens"] for name in rounds if name in self.journal)
        errors = len(outcomes) - sum(reward is not None for reward, _ in outcomes)
        return Tally(passes, len(judged) - passes - cut, cut, errors, self.count, tokens)


@dataclass(frozen=True)
class _Through:
    """An environment that plays in another, with a sampler of its own."""

    environment: Environment
    sampler: Sampler

    async def play_group(
        self, task: Task, n: int, *, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Group:
        return await self.environment.play_group(task, n, sampler=self.sampler, verify=verify, params=params)
