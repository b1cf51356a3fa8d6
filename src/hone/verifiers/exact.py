"""A text that is the same as the reference, but for case, spaces and the marks around it."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, How, extract, present
from hone.verifiers.references import reference
from hone.verifiers.verdict import invalid, verdict

_SPACE = re.compile(r"\s+")
_MARKS = " \t\n.*`\"'$"


@settings
class ExactVerifier:
    """Whether the final answer is the text ``task.answer``: "yes", "12", ") ] >", "valid".

    Both are compared without a full stop, quotes and Markdown at their ends. A reference that is True or False is the
    word.

    Attributes:
        extract: Where the answer stands; see :mod:`hone.verifiers.answers`.
        case: Whether capitals matter.
        spaces: "ignore" leaves all of them out, "fold" takes any run of them for one, "keep" compares them.
        max_chars: How much of the end of the response is read.
    """

    extract: How = "tag"
    case: bool = False
    spaces: Literal["ignore", "fold", "keep"] = "fold"
    max_chars: int = Field(MAX_CHARS, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 or 0.0; a response without an answer is "invalid".

        Raises:
            ValueError: The reference is missing, or has nothing but marks in it.
        """
        right = self._plain(str(reference(task)))
        if not right:
            raise ValueError(f"task {task.id!r}: the reference is {task.answer!r}, in which there is no text")
        found = extract(trajectory.response, self.extract, self.max_chars)
        answer = "" if found is None else self._plain(found)
        return verdict(answer == right, answer) if answer else invalid()

    def example(self, task: Task) -> str | None:
        """The reference, where the setting looks for it."""
        return present(str(reference(task)), self.extract)

    def _plain(self, text: str) -> str:
        text = text.strip(_MARKS)
        if self.spaces != "keep":
            text = _SPACE.sub("" if self.spaces == "ignore" else " ", text)
        return text if self.case else text.casefold()
