"""How a task is put to the policy: what environments that ask a question first have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from hone.seats import settings
from hone.types import Message, Task


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
class Asking:
    """The messages that a policy reads before its first answer. A variant overrides :meth:`messages`.

    Attributes:
        system: The system message of tasks that do not bring one of their own.
        examples: Few-shot turns between the system message and the task.
        suffix: Added to the end of the task's last message as it is, spaces and line breaks included.
    """

    system: str | None = None
    examples: list[Example] = Field(default_factory=list)
    suffix: str = ""

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
