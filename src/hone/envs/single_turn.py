"""One question, one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from hone.seats import Sampler, SamplingParams, Verify, settings
from hone.types import Group, Message, Segment, Task, Trajectory


@settings
class Example:
    """A question and the answer that it should get, shown before the task's own.

    Attributes:
        prompt: The user's message.
        response: The assistant's message.
    """

    prompt: str
    response: str


@settings
class SingleTurn:
    """The policy answers each task once; the answers to one task are siblings that share their context.

    A variant overrides :meth:`messages` (what the policy reads) or :meth:`play` (how one answer comes about).

    Attributes:
        system: The system message of tasks that do not bring one of their own.
        examples: Few-shot turns between the system message and the task.
        suffix: Added to the end of the task's last message as it is, spaces and line breaks included.
    """

    system: str | None = None
    examples: list[Example] = Field(default_factory=list)
    suffix: str = ""

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

    def messages(self, task: Task) -> list[Message]:
        """The system message, the examples, and the task's prompt with the suffix."""
        *before, last = task.prompt
        head = before[:1] if before and before[0]["role"] == "system" else []
        system = [{"role": "system", "content": self.system}] if self.system is not None and not head else []
        shown = [
            message
            for example in self.examples
            for message in (
                {"role": "user", "content": example.prompt},
                {"role": "assistant", "content": example.response},
            )
        ]
        return [*system, *head, *shown, *before[len(head) :], self._suffixed(last)]

    def _suffixed(self, message: Message) -> Message:
        if not self.suffix:
            return message
        content: Any = message["content"]
        if isinstance(content, str):
            return {**message, "content": content + self.suffix}
        parts: list[Mapping[str, Any]] = [*content, {"type": "text", "text": self.suffix}]
        return {**message, "content": parts}
