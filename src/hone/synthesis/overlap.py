"""Whether two questions are the same question, and whether one repeats a part of another.

Used to keep what was made away from what it was made from, and from evaluations. Two questions are

* *equal* if their tokens are: words without regard to case, numbers without thousands separators, and single symbols,
  Unicode compatibility forms folded, commas, full stops, question marks, semicolons and quotes left out;
* *similar* if they hold the same numbers and at least 90 % of the words and symbols of either (Jaccard, of multisets),
  in any order. Other numbers make another question, however much else two templates share;
* *overlapping* if they share 13 tokens in a row, the rule of GPT-3 (arXiv 2005.14165, appendix C). Where one was made
  from a third question, at least 5 of the 13 must not be in that: a template says nothing. Shorter questions cannot
  overlap.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

Tokens = tuple[str, ...]

SIZE = 13
NEW = 5
LEAST = 0.9

_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]|_")
_SILENT = frozenset(".,;?\"'`´“”‘’…")


def tokens(text: str) -> Tokens:
    """What of a question counts when it is compared."""
    found = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    return tuple(token.replace(",", "") for token in found if token not in _SILENT)


def similar(one: str, other: str) -> bool:
    """Whether two questions are similar, as this module says; equal ones are."""
    ours, theirs = tokens(one), tokens(other)
    return _numbers(ours) == _numbers(theirs) and _jaccard(Counter(ours), Counter(theirs)) >= LEAST


class Questions:
    """Questions that can be asked for one that repeats any of them."""

    def __init__(self, questions: Iterable[str] = ()) -> None:
        self._by_tokens: dict[Tokens, str] = {}
        self._by_numbers: dict[Tokens, list[tuple[Counter[str], str]]] = defaultdict(list)
        self._by_run: dict[Tokens, str] = {}
        for question in questions:
            self.add(question)

    def __len__(self) -> int:
        return len(self._by_tokens)

    def __contains__(self, question: str) -> bool:
        """Whether an equal one is there."""
        return tokens(question) in self._by_tokens

    def add(self, question: str) -> None:
        """Put a question to the others."""
        own = tokens(question)
        if own in self._by_tokens:
            return
        self._by_tokens[own] = question
        self._by_numbers[_numbers(own)].append((Counter(own), question))
        for run in _runs(own):
            self._by_run.setdefault(run, question)

    def similar(self, question: str) -> str | None:
        """One that is similar, or None."""
        own = tokens(question)
        counted = Counter(own)
        held = self._by_numbers.get(_numbers(own), ())
        return next((other for words, other in held if _jaccard(counted, words) >= LEAST), None)

    def overlapping(self, question: str, apart_from: str = "") -> str | None:
        """One that shares a run of tokens, of which enough are not in the text ``apart_from``; or None."""
        known = set(tokens(apart_from))
        runs = (run for run in _runs(tokens(question)) if sum(token not in known for token in run) >= NEW)
        return next((self._by_run[run] for run in runs if run in self._by_run), None)


def _numbers(found: Tokens) -> Tokens:
    return tuple(sorted(token for token in found if token[0].isdecimal()))


def _jaccard(one: Counter[str], other: Counter[str]) -> float:
    union = (one | other).total()
    return (one & other).total() / union if union else 1.0


def _runs(found: Tokens) -> Iterator[Tokens]:
    return (found[i : i + SIZE] for i in range(len(found) - SIZE + 1))
