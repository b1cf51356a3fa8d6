"""A writer without a model: it makes a sum harder by writing one of its numbers as a sum or difference itself."""

import random
import re

from hone import settings

SUM = re.compile(r"\d+(?: [+-] \d+)+")


@settings
class Split:
    """``12 + 7`` becomes, say, ``9 + 3 + 7``. It does not know the result, and does not need it.

    Attributes:
        reach: Most that is split off.
    """

    reach: int = 20

    @property
    def name(self) -> str:
        """For the record."""
        return "split"

    def bind(self, player) -> None:
        """Nothing is needed."""

    async def write(self, messages, *, seed: int) -> str:
        """The question with a longer sum."""
        asked = messages[-1]["content"]
        found = list(SUM.finditer(asked))
        if not found:
            return "There is no sum in this question."
        draw = random.Random(seed)
        terms = found[-1].group().split()
        first, part = int(terms[0]), draw.randint(1, self.reach)
        longer = f"{first - part} + {part}" if part < first else f"{first + part} - {part}"
        start = asked.rfind("\n\n", 0, found[-1].start()) + 2
        end = asked.find("\n\n", found[-1].end())
        question = asked[start : end if end > 0 else None]
        return f"<question>{question.replace(found[-1].group(), ' '.join([longer, *terms[1:]]))}</question>"
