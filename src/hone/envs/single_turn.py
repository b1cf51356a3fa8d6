"""One question, one answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hone.prompts import Asking
from hone.seats import Sampler, SamplingParams, Verify, settings
from hone.types import Group, Segment, Task, Trajectory


@settings
class SingleTurn(Asking):
    """The policy answers each task once; the answers to one task are siblings that share their context.

    A variant overrides :meth:`messages` (what the policy reads) or :meth:`play` (how one answer comes about).

    Attributes:
        system: The system message of tasks that do not bring one of their own.
        examples: Few-shot turns between the system message and the task.
        suffix: Added to the end of the task's last message as it is, spaces and line breaks included.
    """

    async def play_group(
        self, task: Task, n: int, *, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Group:
        """Sample ``n`` answers at once, and judge each as soon as it is there.

        Raises:
            ExceptionGroup: Sampling or judging failed; the remaining siblings are cancelled.
        """
        # One object for all: whoever holds two siblings can see that their context is the same.
        context = sampler.renderer.prompt(self.messages(task))
        async with asyncio.TaskGroup() as running:
            siblings = [
                running.create_task(self.play(task, context, sampler, verify, params.keyed(task.id, sibling, 0)))
                for sibling in range(n)
            ]
        return Group(task, [sibling.result() for sibling in siblings])

    async def play(
        self, task: Task, context: Segment, sampler: Sampler, verify: Verify, params: SamplingParams
    ) -> Trajectory:
        """One answer, judged."""
        completion = await sampler.sample([context], params)
        response = [replace(part, name="response", train=part.source == "policy") for part in completion.segments]
        trajectory = Trajectory(task, [context, *response], stop=completion.stop, version=completion.version)
        trajectory.judge(await verify(task, trajectory))
        return trajectory
