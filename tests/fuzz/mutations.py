"""Texts for parsers: put together from pieces that mean something to them, and damaged; every one can be made again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

COMMON = [
    *"0123456789abcxyzABCDEQ", *"(){}[]<>\\/|,.;:=+-*^_$#@!?&%~`'\"", " ", "\n", "\t", "\r\n", "\x00", "\x0b", "\x1c",
    "\u2028", "\u202e", "\ufeff", "\ud800", "１", "²", "٣", "½", "∞", "−", "×", "ﬁ", "ß", "İ", "ǅ", "🙂", "e\u0301",
    r"\boxed{", r"\boxed", "}", "<answer>", "</answer>", "<think>", "</think>", "```", "```python\n", "```json\n",
    "****", "nan", "inf", "1e999", "-", "--", "None", "null", "true", "1/0", "9**9**9", "answer is", "Answer:",
]  # fmt: skip
"""Pieces that mean something to many."""


def texts(seed: int, pieces: Sequence[str], right: Sequence[str], spoil: Callable[[str], str], count: int):
    """``count`` texts: pieces at random, right answers, and either of them damaged; each then spoilt.

    Args:
        seed: Of all of them.
        pieces: Of this parser, beside :data:`COMMON`.
        right: Texts that it would pay for.
        spoil: Takes out what a right answer cannot do without.
        count: How many.
    """
    draw = random.Random(seed)
    every = [*COMMON, *(list(pieces) * (1 + len(COMMON) // max(1, len(pieces))))]
    for number in range(count):
        if right and draw.random() < 0.5:
            text = draw.choice(right)
        else:
            text = "".join(draw.choice(every) for _ in range(draw.randrange(1, 40)))
        for _ in range(draw.randrange(4)):
            text = _damaged(text, draw, every, right)
        if number % 500 == 499:  # a long one
            text = text * (8_000 // (len(text) + 1))
        yield spoil(text[:10_000])


def _damaged(text: str, draw: random.Random, pieces: Sequence[str], right: Sequence[str]) -> str:
    """With something cut, doubled, put in, exchanged, turned around, or another text spliced in."""
    a, b = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
    match draw.randrange(7):
        case 0:
            return text[:a] + text[b:]
        case 1:
            return text[:a] + text[a:b] * draw.choice((2, 3, 30)) + text[b:]
        case 2:
            return text[:a] + draw.choice(pieces) * draw.choice((1, 1, 2, 50)) + text[a:]
        case 3:
            return text[:a] + text[a:b][::-1] + text[b:]
        case 4:
            return text[:a] + draw.choice(right or pieces) + text[b:]
        case 5:
            return text[:a] + text[a:b].swapcase() + text[b:]
    character = draw.choice(pieces)
    return text.replace(text[a : a + 1] or " ", character, 3)


def without(*letters: str) -> Callable[[str], str]:
    """Take characters out, in whatever case or width they are written, and the escapes that may stand for them."""
    import unicodedata

    def is_one(character: str) -> bool:
        plain = unicodedata.normalize("NFKD", character).casefold()
        return any(letter in plain for letter in letters)

    def spoil(text: str) -> str:
        return "".join(c for c in text.replace("\\u", "u") if not is_one(c))

    return spoil
