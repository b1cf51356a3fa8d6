r"""Reflect, Retry, Reward: a policy learns to write down why it failed, by whether that helps it to succeed.

Bensal et al., "Reflect, Retry, Reward: Self-Improving LLMs via Reinforcement Learning", arXiv 2505.24726. There is no
code of the authors. Of the paper the abstract was read, of the rest only summaries; what is said of it below is what
these agree on, and group size, clipping, temperature, lengths and the wording of the prompts are unverified.

Claim: a policy that failed, and is told nothing but that, reflects on it and tries again. Trained on the tokens of the
reflection alone, with the success of the second try as the reward, models of 1.5B to 8B get better at the second try
(by up to 34.7 points on Countdown and 18.1 on function calls) and at the first one too.

For a query q with the validator V, a failed first attempt y and the context c = (q, y, request to reflect)::

    s_i ~ pi(. | c),    z_i ~ pi(. | c, s_i, request to retry),    r_i = V(q, z_i),    i = 1..G

    A_it = m_it (r_i - mean_j r_j) / (std_j r_j + eps),    m_it = 1 on the tokens of s_i, and 0 on those of y and z_i

in the clipped surrogate of GRPO, with 0.001 KL(pi || pi_ref) on the same tokens. A query whose first attempt passes
gives nothing to learn from, and costs no more than that attempt.

Differs from the paper in:

- Online by default: the policy makes the first attempt itself, one for all siblings. The paper trains on failures that
  were mined from the initial policy; that is the task source ``failures`` with ``hone mine``.
- The prompts are ours. They say that the attempt failed, and ask for a diagnosis without a solution.
- A retry that ran out of tokens earns 0 without being judged (``truncated_retry``): an answer that is not finished,
  not a failure of the verifier. A reflection that ran out of tokens is closed and retried with all the same: what it is
  worth shows there.
- Several ``retries`` or ``rounds``, ``blind`` retries and what is done about leaks are not in the paper.

Together with other parts:

- Only reflections are marked to be trained. So the entropy pool of ``high_entropy`` holds reflections alone, KL
  penalties are counted on them alone, and so are the objective's metrics. Nothing behind the last trained reflection is
  in the update's rows; between two rounds, the failed retry is context of the second reflection.
- With the gate ``informative``, groups whose first attempt passed are dropped; ``max_rounds`` plays others for them.
- ``blind`` shifts the rewards of a group by a constant, which an advantage that is centred on the group cancels. It is
  for ``advantage: raw``, whose baseline it then is, with ``gate: everything``.
- ``overlong`` and ``cosine_length`` count what was sampled, the shared attempt and the retry included;
  ``mask_truncated`` and ``stop_properly`` go by how the retry ended.
- ``prorl`` moves reference and optimiser between steps: no group spans a reset, and the environment keeps no state. The
  failures of a store stay those of the policy they were mined from.
- ``synthrl`` measures how often *first* attempts pass: give it ``environment: single_turn``.
- In an evaluation with one sibling, the reward is that of the second try; ``first_try`` and ``second_try`` are there
  for any number of siblings, and do not change with ``blind`` or ``leak_penalty``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from hone.papers.reflect_retry_play import Play, measured
from hone.prompts import Asking
from hone.seats import Sampler, SamplingParams, Verify, settings
from hone.types import Group, Message, Task

REFLECT = (
    "Your answer was not correct. In a few sentences, explain what went wrong and what to do differently next time. "
    "Do not solve the task yet."
)
RETRY = "Now answer the original question again, and follow your own advice."
BLIND = "Your answer was not correct. Answer the original question again."

Text = Annotated[str, Field(min_length=1)]


@settings
class ReflectRetry(Asking):
    """One shared first attempt; if it fails, as many reflections as there are siblings, each with a retry.

    A task that brings a failed attempt, ``meta["attempt"] = {"text": ..., "stop": ...}``, is not attempted again: the
    text takes the attempt's place, unjudged.

    A step logs, as means over its groups: ``reflect/first_try``, whether the first attempt passed;
    ``reflect/second_try``, whether it or else a retry did; ``reflect/retry``, the share of retries that passed, and
    ``reflect/blind``, of the blind ones; ``reflect/length``, tokens of a reflection, and ``reflect/truncated``, the
    share that ran out of them; ``reflect/leaks``, the share of siblings that gave the answer away.

    Attributes:
        system: The system message of tasks that do not bring one of their own.
        examples: Few-shot turns between the system message and the task.
        suffix: Added to the end of the task's last message as it is, spaces and line breaks included.
        retries: Retries of each reflection; the reward is the mean of what they are worth.
        rounds: Most reflections in a row, each on the retry that failed before it.
        discount: Of the reward, for each round after the first.
        train_rounds: The rounds, counted from 1, whose reflections are trained; None trains all.
        blind: Retries of a group without any reflection; their mean is taken off each reward. See the module.
        success: Reward from which on an attempt or a retry passes.
        leak: What is done about a reflection that gives the answer away, be it that the verifier accepts the reflection
            itself as an answer, or that the task's answer stands in it and nowhere before: "log" it, "penalise" it by
            ``leak_penalty``, "block" it (reward 0, and no retry), or "ignore" it, which spares a verdict. Where a
            verifier accepts any text, every reflection leaks.
        leak_penalty: Taken off the reward of a sibling that leaked.
        truncated_retry: Whether a retry that ran out of tokens is worth 0, "fail", or what the verifier says, "judge".
        attempt: How first attempts are sampled, in evaluations too; None is as the run samples.
        retry: Likewise for retries.
        reflection_tokens: Most tokens of a reflection; None is ``max_tokens`` of the run. Stop strings hold for it too.
        reflect_prompt: What the policy is told after a failure. Never with an answer or with what the verifier said.
        retry_prompt: What it is told after its reflection.
        blind_prompt: What it is told after a failure, without being asked to reflect.
    """

    retries: int = Field(1, ge=1)
    rounds: int = Field(1, ge=1)
    discount: float = Field(1.0, gt=0, le=1)
    train_rounds: list[int] | None = None
    blind: int = Field(0, ge=0)
    success: float = 1.0
    leak: Literal["ignore", "log", "penalise", "block"] = "log"
    leak_penalty: float = Field(1.0, gt=0)
    truncated_retry: Literal["fail", "judge"] = "fail"
    attempt: SamplingParams | None = None
    retry: SamplingParams | None = None
    reflection_tokens: int | None = Field(None, ge=1)
    reflect_prompt: Text = REFLECT
    retry_prompt: Text = RETRY
    blind_prompt: Text = BLIND

    def __post_init__(self) -> None:
        if self.rounds > 1 and self.retries > 1:
            raise ValueError(f"rounds = {self.rounds}: needs retries = 1; of several, which one would be reflected on?")
        if self.train_rounds is not None and not set(self.train_rounds) & set(range(1, self.rounds + 1)):
            raise ValueError(
                f"train_rounds = {self.train_rounds}: none of these is a round, of which there are 1 to {self.rounds}"
            )
        for name in ("attempt", "retry"):
            if getattr(self, name) is not None and getattr(self, name).seed:
                raise ValueError(f"{name}.seed: is derived for each sample; set seed, that of the run")

    @property
    def first_attempts(self) -> FirstAttempts:
        """An environment that makes first attempts as this one does, and nothing else."""
        return FirstAttempts(self)

    def most_tokens(self, n: int, params: SamplingParams) -> int:
        """The most that a group of ``n`` siblings may sample: that is, if its first attempt fails and all else too."""
        attempt, retry = ((own or params).max_tokens for own in (self.attempt, self.retry))
        reflection = self.reflection_tokens or params.max_tokens
        return attempt + n * self.rounds * (reflection + self.retries * retry) + self.blind * retry

    async def play_group(
        self, task: Task, n: int, *, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Group:
        """One trajectory if the first attempt passes or cannot be judged; else ``n``, which share it.

        Raises:
            ExceptionGroup: Sampling or judging failed; whatever is under way is cancelled.
        """
        play = Play(self, task, sampler, verify, params)
        first = await play.first()
        if first.error is not None or (first.reward is not None and first.reward >= self.success):
            return Group(task, [first], metrics=measured(self.success, first))
        context = [*first.segments, play.turn(self.reflect_prompt, first.segments, "ask")]
        blindly = [*first.segments, play.turn(self.blind_prompt, first.segments, "again")]
        async with asyncio.TaskGroup() as running:
            siblings = [running.create_task(play.sibling(context, i)) for i in range(n)]
            blind = [running.create_task(play.retry(blindly, "retry", "blind", i)) for i in range(self.blind)]
        played, baseline = [each.result() for each in siblings], [each.result() for each in blind]
        for sibling in played:
            sibling.compare(baseline)
        further = [retry for sibling in played for retry in sibling.further]
        metrics = measured(self.success, first, played, baseline)
        return Group(task, [sibling.trajectory for sibling in played], [*further, *baseline], metrics)


@dataclass(frozen=True)
class FirstAttempts:
    """The first attempts of another environment, n to a group; none of them is trained on.

    Attributes:
        whole: The environment whose attempts they are.
    """

    whole: ReflectRetry

    @property
    def sampling(self) -> SamplingParams | None:
        """How they are sampled; None is as the run samples."""
        return self.whole.attempt

    def messages(self, task: Task) -> list[Message]:
        """What the policy reads."""
        return self.whole.messages(task)

    async def play_group(
        self, task: Task, n: int, *, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Group:
        """Attempt a task n times."""
        play = Play(self.whole, task, sampler, verify, params)
        prompt = sampler.renderer.prompt(self.messages(task))
        async with asyncio.TaskGroup() as running:
            made = [running.create_task(play.attempt(prompt, i)) for i in range(n)]
        return Group(task, [each.result() for each in made])
