"""What a check says when it finds something."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that a healthy run does not show.

    Attributes:
        check: Its name, by which ``guard.follow`` says what follows.
        evidence: What was measured, with the numbers and the limit.
        cause: The likely one.
        look: The setting, part or file to look at.
    """

    check: str
    evidence: str
    cause: str
    look: str

    def __str__(self) -> str:
        return f"{self.check}: {self.evidence}. Likely cause: {self.cause}. Look at {self.look}"
