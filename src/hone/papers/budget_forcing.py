"""Budget forcing: thinking is made longer by putting "Wait" where it would end, or cut off at a number of tokens.

N. Muennighoff et al., "s1: Simple test-time scaling" (arXiv 2501.19393), section 3.1. Here for comparison with
AlphaOne (``papers/alphaone.py``), whose baseline "s1" it is.

Claim: the accuracy of a model that was taught to reason grows with the thinking it is made to do.

While fewer than ``waits`` ends of thinking were taken back::

    a sampled end of thinking is replaced by "Wait", and thinking goes on

    after ``budget`` thinking tokens the end of thinking is put in, whatever would come

Differs from the paper in:

- It goes token by token, by replacing what was drawn; there a generation ends at the end of thinking, and a new one
  begins behind the text with "Wait".
- Of an end of thinking of several tokens the first is what is replaced ("</" of "</think>"): later ones cannot be taken
  back. Where that token begins other things too, these are taken for ends.
- A token that would end the response while it thinks is replaced likewise, as I recall the authors' code to do
  (unverified).
- There is no "Final Answer:" behind an end that was put in.

Together with other parts: what is imposed is ``forced`` and does not train; all else is drawn as without this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pydantic import Field

from hone.papers.thinking import Thought, Words
from hone.seats import Decoding, settings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Budgeted(Thought):
    """A thought, and how many ends of thinking may still be taken back."""

    left: int = 0


@settings
class BudgetForcing:
    """s1's budget forcing: a processor.

    ::

        sampler: {native: {processors: [{budget_forcing: {waits: 2}}]}}

    Attributes:
        waits: Ends of thinking that are replaced by ``wait``.
        budget: Most thinking tokens; None leaves it to ``max_tokens``.
        wait: What comes instead of an end.
        end: What ends thinking.
    """

    waits: int = Field(2, ge=0)
    budget: int | None = Field(None, ge=1)
    wait: str = Field("Wait", min_length=1)
    end: str = Field("</think>", min_length=1)

    training = "exact"

    _words: Words | None = field(default=None, init=False, repr=False, compare=False)
    _waits: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)
    _stops: frozenset[int] = field(default=frozenset(), init=False, repr=False, compare=False)
    _thoughts: Any = field(default_factory=WeakKeyDictionary, init=False, repr=False, compare=False)

    def bind(self, renderer: Any) -> None:
        """Take a model's renderer.

        Raises:
            ValueError: If its tokenizer has no tokens for the texts.
        """
        if self._words is not None and self._words.are_of(renderer):
            return
        self._words = Words.of(renderer, self.end, 0)
        self._waits, self._stops = self._words.tokens(self.wait), renderer.stop_tokens
        self._thoughts = WeakKeyDictionary()

    def __call__(self, rows: Sequence[Decoding], logits: Tensor) -> Tensor:
        """The logits as they are."""
        return logits

    def replace(self, rows: Sequence[Decoding], drawn: Sequence[int]) -> dict[int, int]:
        """The tokens that are put in the place of the drawn ones, by row."""
        pairs = enumerate(zip(rows, drawn, strict=True))
        decided = {i: self._imposed(self._thought(row), token) for i, (row, token) in pairs}
        return {i: token for i, token in decided.items() if token is not None}

    def _imposed(self, thought: Budgeted, drawn: int) -> int | None:
        if thought.pending:
            return thought.pending[0]
        if thought.ended:
            return None
        if self.budget is not None and thought.t >= self.budget:
            return thought.impose(self._words.ends)
        if thought.left and (drawn == self._words.ends[0] or drawn in self._stops):
            thought.left -= 1
            return thought.impose(self._waits)
        return None

    def _thought(self, row: Decoding) -> Budgeted:
        thought = self._thoughts.get(row)
        if thought is None:
            thought = self._thoughts[row] = Budgeted(left=self.waits)
        for token in row.tokens[thought.t :]:
            self._words.see(thought, token)
        return thought
