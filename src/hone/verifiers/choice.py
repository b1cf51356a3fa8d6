"""Multiple choice: the letter that a response settles on."""

from __future__ import annotations

import re

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS, extract
from hone.verifiers.verdict import invalid, verdict

_SAID = re.compile(r"\b(?:answer|choice|option)\s*(?:is\b|:)", re.IGNORECASE)


@settings
class ChoiceVerifier:
    r"""Whether the response settles on the letter ``task.answer`` ("B", "(B)", or the index of a letter from 0).

    The letter is read from the first of these that is there: the last ``\boxed{}``, the last ``<answer>``, the last
    "answer is (B)" or "Answer: B", and the only letter that stands alone in the last line. Two different letters in
    that place are no answer, so listing them all gains nothing.

    Attributes:
        letters: The options.
        max_chars: How much of the end of the response is read.
    """

    letters: str = Field("ABCD", pattern="^[A-Z]{2,}$")
    max_chars: int = Field(MAX_CHARS, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 for the right letter, 0.0 for another or none ("invalid").

        Raises:
            ValueError: The task's answer is none of the letters.
        """
        right = self._right(task)
        letter = self._choice(trajectory.response[-self.max_chars :])
        return invalid() if letter is None else verdict(letter == right, letter)

    def example(self, task: Task) -> str | None:
        """The reference, spelt out."""
        return f"The answer is ({self._right(task)})."

    def _right(self, task: Task) -> str:
        answer = task.answer
        if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(self.letters):
            return self.letters[answer]
        letter = str(answer).strip(" ().:")
        if len(letter) != 1 or letter not in self.letters:
            raise ValueError(f"task {task.id!r}: the reference {answer!r} is none of the letters {self.letters}")
        return letter

    def _choice(self, text: str) -> str | None:
        for way, mark in (("boxed", r"\boxed"), ("tag", "</answer>")):
            place = extract(text, way) if mark in text else None
            if place is not None:
                return self._settled(place.upper() if len(place) == 1 else place)
        for said in reversed(list(_SAID.finditer(text))):
            place = text[said.end() :].lstrip().partition("\n")[0]
            if re.search(self._letter, place):
                return self._settled(place)
        return self._settled(extract(text, "last_line") or "")

    @property
    def _letter(self) -> str:
        """A letter that stands alone: within no word, and no contraction such as "A's"."""
        return rf"(?<![^\W_])([{self.letters}])(?![^\W_]|['’])"

    def _settled(self, place: str) -> str | None:
        """The letter that the place begins with and is not a list, or else the only one in it that is not denied."""
        first = re.match(rf"[\W_]*{self._letter}", place)
        if first:
            listed = re.match(rf"[\s,/&()\[\]*]*(?:or\b|and\b)?[\s(\[*]*{self._letter}", place[first.end() :])
            return None if listed and listed[1] != first[1] else first[1]
        found = set(re.findall(self._letter, place))
        return found.pop() if len(found) == 1 and not re.search(rf"\bnot\b\W*{self._letter}", place) else None
