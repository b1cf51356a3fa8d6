"""One group of :mod:`hone.papers.reflect_retry`: what is said in which order, and what it is worth."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hone.seats import Sampler, SamplingParams, Verify
from hone.types import Score, Segment, Task, Trajectory

if TYPE_CHECKING:
    from hone.papers.reflect_retry import ReflectRetry

NUMERAL, WORDS = 2, 4
"""Least characters of an answer that is looked for in a reflection; shorter ones ("7", "B", "yes") are in any text."""


@dataclass(frozen=True)
class Sibling:
    """A trajectory that ends with the last retry, and what else it was judged by.

    Attributes:
        trajectory: Its scores hold ``retry``, what its own retry was worth (0 where none was played), and ``leak``.
        further: The other retries of the same reflection.
        cut: For each of its reflections, whether it ran out of tokens.
    """

    trajectory: Trajectory
    further: Sequence[Trajectory]
    cut: Sequence[bool]

    def compare(self, blind: Sequence[Trajectory]) -> None:
        """Take the mean of the blind retries off the reward; without a verdict on any of them there is no reward."""
        if not blind or self.trajectory.reward is None:
            return
        worth = [retry.reward for retry in blind if retry.reward is not None]
        if worth:
            self.trajectory.scores["blind"] = fmean(worth)
            self.trajectory.reward -= fmean(worth)
        else:
            self.trajectory.judge(Score(None, error=blind[0].error))


@dataclass(frozen=True)
class Play:
    """Plays the parts of one group. The noise of each sample has a key of its own, whatever is played beside it.

    Attributes:
        by: The settings.
        task: What is asked.
        sampler, verify, params: As the environment was given them.
    """

    by: ReflectRetry
    task: Task
    sampler: Sampler
    verify: Verify
    params: SamplingParams

    async def first(self) -> Trajectory:
        """The attempt that all siblings share, judged; or the failed one that the task brings, as it is."""
        prompt = self.sampler.renderer.prompt(self.by.messages(self.task))
        given = self.task.meta.get("attempt")
        if not isinstance(given, Mapping):
            return await self.attempt(prompt)
        written = replace(self.sampler.renderer.reply(given["text"]), name="attempt")
        return Trajectory(self.task, [prompt, written], stop=given.get("stop", "eos"))

    async def attempt(self, prompt: Segment, *key: int) -> Trajectory:
        """A first attempt, judged however it ended."""
        made = await self._answer([prompt], "attempt", self.by.attempt, "attempt", *key)
        made.judge(await self.verify(self.task, made))
        return made

    async def retry(self, context: Sequence[Segment], name: str, *key: int | str) -> Trajectory:
        """A retry, judged, unless it was cut off and that is a failure."""
        made = await self._answer(context, name, self.by.retry, *key)
        unfinished = made.stop == "length" and self.by.truncated_retry == "fail"
        made.judge(Score(0.0) if unfinished else await self.verify(self.task, made))
        if made.reward is not None:
            made.scores["retry"] = made.reward
        return made

    def turn(self, text: str, after: Sequence[Segment], name: str) -> Segment:
        """What the user says to the reply with which ``after`` ends."""
        return replace(self.sampler.renderer.turn([{"role": "user", "content": text}], after), name=name)

    async def sibling(self, context: Sequence[Segment], number: int) -> Sibling:
        """A reflection with its retries and, while the retry fails, the next round; rewarded but for blind retries."""
        cut: list[bool] = []
        leaks: list[Score] = []
        for turn in range(1, self.by.rounds + 1):
            mark = "" if turn == 1 else f" {turn}"
            if turn > 1:
                context = [*context, self.turn(self.by.reflect_prompt, context, f"ask{mark}")]
            reflection = await self._reflect(context, f"reflection{mark}", number, turn)
            leak, retries = await self._retries(reflection, mark, number, turn)
            cut.append(reflection.stop == "length")
            leaks += [leak] if leak is not None else []
            last, *further = retries or [reflection]
            if retries:
                self._mean(retries, self.by.discount ** (turn - 1))
            else:
                last.judge(leak if leak.error is not None else Score(0.0, {"retry": 0.0}))
            if not retries or last.reward is None or last.scores.get("retry", 0.0) >= self.by.success:
                break
            context = last.segments
        self._charge(last, leaks)
        return Sibling(last, further, cut)

    async def _answer(
        self, context: Sequence[Segment], name: str, sampling: SamplingParams | None, *key: int | str
    ) -> Trajectory:
        """A reply that is not trained on, not yet judged."""
        params = replace(sampling or self.params, seed=self.params.keyed(self.task.id, *key).seed)
        completion = await self.sampler.sample(context, params)
        said = [replace(part, name=name, train=False) for part in completion.segments]
        return Trajectory(self.task, [*context, *said], stop=completion.stop, version=completion.version)

    async def _reflect(self, context: Sequence[Segment], name: str, number: int, turn: int) -> Trajectory:
        """What is trained on: a trajectory that ends with a reflection, not judged."""
        params = self.params.keyed(self.task.id, number, "reflection", turn)
        params = replace(params, max_tokens=self.by.reflection_tokens or params.max_tokens)
        completion = await self.sampler.sample(context, params)
        train = self.by.train_rounds is None or turn in self.by.train_rounds
        said = [replace(part, name=name, train=train and part.source == "policy") for part in completion.segments]
        return Trajectory(self.task, [*context, *said], stop=completion.stop, version=completion.version)

    async def _retries(
        self, reflection: Trajectory, mark: str, number: int, turn: int
    ) -> tuple[Score | None, list[Trajectory]]:
        """Whether the reflection leaks, if that is asked, and its retries: none where a leak, or doubt, blocks them."""
        told = reflection.segments
        async with asyncio.TaskGroup() as running:
            looking = running.create_task(self._leak(reflection)) if self.by.leak != "ignore" else None
            if self.by.leak == "block" and (await looking).value != 0.0:
                return looking.result(), []
            again = [*told, self.turn(self.by.retry_prompt, told, f"again{mark}")]
            playing = [
                running.create_task(self.retry(again, f"retry{mark}", number, "retry", turn, i))
                for i in range(self.by.retries)
            ]
        return looking and looking.result(), [each.result() for each in playing]

    async def _leak(self, reflection: Trajectory) -> Score:
        """1 if the reflection gives the answer away, 0 if not, or the error that leaves it open."""
        text, whole = reflection.response, "".join(segment.text for segment in reflection.segments)
        if states(self.task.answer, text, whole.removesuffix(text)):
            return Score(1.0)
        score = await self.verify(self.task, Trajectory(self.task, reflection.segments, stop=reflection.stop))
        return score if score.error is not None else Score(float(score.value >= self.by.success))

    def _mean(self, retries: Sequence[Trajectory], factor: float) -> None:
        """The reward of the first is the mean worth of all that were judged."""
        if worth := [retry.reward for retry in retries if retry.reward is not None]:
            retries[0].judge(Score(factor * fmean(worth)))

    def _charge(self, last: Trajectory, leaks: Sequence[Score]) -> None:
        """Note leaks in the scores, and take the penalty off the reward."""
        known = [leak.value for leak in leaks if leak.error is None]
        if known:
            last.scores["leak"] = max(known)
        if self.by.leak != "penalise" or last.reward is None:
            return
        if len(known) < len(leaks):
            last.judge(next(leak for leak in leaks if leak.error is not None))
        else:
            last.reward -= self.by.leak_penalty * max(known)


def states(answer: Any, text: str, known: str) -> bool:
    """Whether an answer that is text or a number stands in the text as a word, and did not in what was known before."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return False
    literal = str(answer).strip()
    numeral = re.fullmatch(r"[-+]?[\d.,]+", literal) is not None
    if len(literal) < (NUMERAL if numeral else WORDS):
        return False
    word = re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(literal)}(?!\w|[.,]\d)", re.IGNORECASE)
    return word.search(text) is not None and word.search(known) is None


def measured(
    success: float, first: Trajectory, siblings: Sequence[Sibling] = (), blind: Sequence[Trajectory] = ()
) -> dict[str, float]:
    """What is told of a group; a number that nothing was judged for is left out."""
    found: dict[str, Sequence[float]] = {}
    tried = [first.reward >= success] if first.reward is not None else []
    retries = [
        retry.scores["retry"] >= success
        for sibling in siblings
        for retry in (sibling.trajectory, *sibling.further)
        if "retry" in retry.scores
    ]
    found["first_try"], found["retry"] = tried, retries
    found["second_try"] = tried if any(tried) else retries if tried else []
    found["blind"] = [retry.reward >= success for retry in blind if retry.reward is not None]
    found["leaks"] = [s.trajectory.scores["leak"] for s in siblings if "leak" in s.trajectory.scores]
    found["truncated"] = [cut for sibling in siblings for cut in sibling.cut]
    found["length"] = [_reflected(sibling) / len(sibling.cut) for sibling in siblings]
    return {f"reflect/{name}": fmean(values) for name, values in found.items() if values}


def _reflected(sibling: Sibling) -> int:
    """Tokens of all its reflections."""
    return sum(len(s) for s in sibling.trajectory.segments if s.name.startswith("reflection"))
