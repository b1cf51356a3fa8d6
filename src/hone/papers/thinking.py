"""The thinking phase of a sequence while it is decoded: what methods that steer it have in common. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hone.seats import Player, Task, Trajectory


@dataclass(slots=True)
class Thought:
    """One sequence's thinking after ``t`` tokens, imposed ones included and the prompt not.

    Attributes:
        t: Tokens so far.
        tail: The end of their text.
        ended: Whether the end of thinking was among them: nothing is imposed any more.
        pending: Tokens that are imposed next, in this order.
    """

    t: int = 0
    tail: str = ""
    ended: bool = False
    pending: tuple[int, ...] = ()

    def impose(self, tokens: tuple[int, ...]) -> int:
        """Have ``tokens`` come next, and give the first of them."""
        self.pending = tokens
        return tokens[0]


class Words(dict[int, str]):
    """The text of each token of a tokenizer, decoded once; and the tokens of a text.

    Text is what counts: of how many tokens a paragraph break or ``</think>`` consists, and with what they are merged,
    is another matter in every tokenizer.

    Args:
        encode: From a text to its token ids, without any that begin or end a sequence.
        decode: From token ids to text.
        reach: Characters of text that a :class:`Thought` keeps.
    """

    def __init__(
        self, encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], end: str, reach: int
    ) -> None:
        super().__init__()
        self._encode, self._decode, self._renderer = encode, decode, None
        self.end, self.reach = end, max(reach, len(end))
        self.ends = self.tokens(end)
        if len(self.ends) == 1:
            self[self.ends[0]] = end  # a special token decodes to nothing

    @classmethod
    def of(cls, renderer: Any, end: str, reach: int) -> Words:
        """Those of a :class:`~hone.seats.Renderer`."""
        made = cls(lambda text: renderer.reply(text).actions, renderer.decode, end, reach)
        made._renderer = renderer
        return made

    def are_of(self, renderer: Any) -> bool:
        """Whether they are this renderer's, and what is known of its tokens holds."""
        return self._renderer is renderer

    def __missing__(self, token: int) -> str:
        text = self[token] = self._decode([token])
        return text

    def tokens(self, text: str) -> tuple[int, ...]:
        """The token ids of a text.

        Raises:
            ValueError: If there are none.
        """
        found = tuple(self._encode(text))
        if not found:
            raise ValueError(f"the tokenizer makes no token of {text!r}")
        return found

    def see(self, thought: Thought, token: int) -> None:
        """Count the next token of a sequence in."""
        text = self[token]
        window = thought.tail + text
        thought.t += 1
        thought.ended = thought.ended or self.end in window
        thought.tail = window[-self.reach :] if text else ""  # a special token, and no part of any text
        if thought.pending:
            thought.pending = thought.pending[1:]


class Spotter:
    """Finds words, also in lower case, that begin and end with a token: "Wait" is not in "Await", nor in "Waiting".

    Args:
        words: Of a tokenizer.
        found: What is looked for.
    """

    def __init__(self, words: Words, found: Sequence[str]) -> None:
        self.words, self.found = words, list(found)
        either = "|".join(re.escape(word) for each in found for word in (each, each.lower()))
        self._pattern = re.compile(rf"(?<!\w)(?:{either})$")
        self._alone: dict[int, bool] = {}
        self._tokens: list[int] | None = None

    def alone(self, token: int) -> bool:
        """Whether the token by itself is one, behind whatever it stands."""
        if token not in self._alone:
            self._alone[token] = self._pattern.search(self.words[token]) is not None
        return self._alone[token]

    def joined(self, thought: Thought, token: int) -> bool:
        """Whether the token completes one."""
        return self._pattern.search(thought.tail + self.words[token]) is not None

    def tokens(self, vocabulary: int) -> list[int]:
        """All tokens below ``vocabulary`` that are one by themselves; looked for once, for it takes a second.

        Raises:
            ValueError: If there are none.
        """
        if self._tokens is None:
            self._tokens = [token for token in range(vocabulary) if self.alone(token)]
        if not self._tokens:
            raise ValueError(
                f"slow = {self.found}: no single token of this tokenizer is one of them, so their probability cannot "
                "be moved; give other words, or use imposed: forced and the native sampler"
            )
        return self._tokens


def measure_thinking(player: Player, tasks: Sequence[Task], end: str) -> dict[str, float]:
    """For how many tokens a model thinks on tasks, one answer each, as it is sampled in training.

    An answer that was cut off before it had ended its thinking counts as long as it is, and is told: with many of them
    the mean is too low, and ``max_tokens`` wants to be larger.
    """
    words = Words.of(player.sampler.renderer, end, 0)
    played = [trajectory for group in player.play(tasks, 1, player.sampling) for trajectory in group]
    lengths = [thinking_length(words, sampled(trajectory)) for trajectory in played]
    return {"n_think": fmean(lengths), "answers": len(played), "unfinished": sum(end not in t.response for t in played)}


def sampled(trajectory: Trajectory) -> list[int]:
    """The tokens that sampling took, imposed ones included."""
    return [token for part in trajectory.segments if part.source != "given" for token in part.actions]


def thinking_length(words: Words, tokens: Sequence[int]) -> int:
    """Tokens of the thinking phase: those up to the end of thinking, it included; all of them where there is none."""
    thought = Thought()
    for token in tokens:
        words.see(thought, token)
        if thought.ended:
            break
    return thought.t


def thought_of(words: Words, trajectory: Trajectory) -> int | None:
    """Tokens for which an answer thought; None if it has no end of thinking."""
    return thinking_length(words, sampled(trajectory)) if words.end in trajectory.response else None
