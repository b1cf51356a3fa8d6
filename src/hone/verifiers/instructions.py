"""The verifiable instructions of IFEval: whether a text does what one asks (J. Zhou et al., arXiv 2311.07911, table 1).

Each is a function of the text and of the instruction's arguments, by the name that it has in the data set's rows. They
are written from the wording of the instructions and of the paper. Where the authors' checks can be satisfied without
doing what is asked, these ask for more: see ``STRICTER``. Sentences are told by their marks and not by a trained model,
and languages by another package than the authors', so single verdicts differ from theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

STRICTER = """
constrained_response: exactly one of the three phrases, not several.
json_format: an object or a list, not a bare number or string; no NaN.
number_bullet_lists: a bullet is "*" or "-", a space and text; a rule ("---") or *emphasis* at a line's start is none.
number_placeholders: there is something in the brackets.
postscript: there is text behind the mark.
"""
"""Where these differ from the authors' checks on purpose."""

_SENTENCE_END = re.compile(r"[.!?。！？।]+[\"'”’)\]*_]*(?=\s|$)")
_BEFORE = re.compile(r"[\w.]+$")
_SHORT = {
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "inc", "ltd", "co", "no", "vol", "fig", "e.g",
    "i.e", "u.s", "u.k", "a.m", "p.m", "p.s", "p.p.s", "ph.d",
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_HIGHLIGHT = re.compile(r"(\*\*|\*)(?=[^*\n]*[^*\s])[^*\n]+\1")
_BULLET = re.compile(r"^[ \t]*[*-][ \t]+\S", re.MULTILINE)
_PHRASES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_DETECTED = 10_000
"""Characters by which a language is told."""


def sentences(text: str) -> int:
    """The number of sentences: what ends in a stop, save after an abbreviation or an initial; and what is left over."""
    count, begun, whole = 0, 0, len(text.rstrip())
    for end in _SENTENCE_END.finditer(text):
        word = _BEFORE.search(text[max(begun, end.start() - 20) : end.start()])
        last = word.group().lower() if word else ""
        initial = len(last) == 1 and last.isalpha() and last != "i"
        if end.group().startswith(".") and (initial or last in _SHORT) and end.end() < whole:
            continue
        count += bool(re.search(r"\w", text[begun : end.end()]))
        begun = end.end()
    return count + bool(re.search(r"\w", text[begun:]))


def detected(text: str) -> str:
    """The ISO 639-1 code of the language that a text is most likely in, by py3langid; capitals do not matter.

    Raises:
        ImportError: The package is missing.
    """
    try:
        from py3langid import classify
    except ImportError:
        raise ImportError("telling languages apart needs py3langid: pip install 'hone-rl[ifeval]'") from None
    return classify(text[:_DETECTED].lower())[0]


def compare(count: int, relation: str, bound: int) -> bool:
    """``count`` is "at least" or "less than" ``bound``.

    Raises:
        ValueError: The relation is another.
    """
    if relation not in ("at least", "less than"):
        raise ValueError(f"the relation {relation!r} is neither 'at least' nor 'less than'")
    return count >= bound if relation == "at least" else count < bound


def _paragraphs(text: str, divider: str) -> list[str] | None:
    """What stands between dividers, which may also open and close the text; None if there is nothing between two."""
    parts = [part.strip() for part in text.split(divider)]
    parts = parts[not parts[0] :]
    parts = parts[: len(parts) - (bool(parts) and not parts[-1])]
    return None if "" in parts or not parts else parts


def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(word.casefold() in text.casefold() for word in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(text.casefold().count(keyword.casefold().strip()), relation, frequency)


def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)


def _letters(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def _language(text: str, language: str) -> bool:
    return detected(text) == language


def _sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compare(sentences(text), relation, num_sentences)


def _divided(text: str, num_paragraphs: int) -> bool:
    return len(_paragraphs(text, "***") or ()) == num_paragraphs


def _words(text: str, num_words: int, relation: str) -> bool:
    return compare(len(re.findall(r"\w+", text)), relation, num_words)


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    first = re.search(r"[^\W_]+", parts[nth_paragraph - 1])
    return first is not None and first.group().lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return sum(bool(inner.strip()) for inner in re.findall(r"\[([^\[\]\n]*)\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    letters = re.findall(r"\w", postscript_marker)
    spelt = r"\.\s?".join(map(re.escape, letters)) + (r"\." if postscript_marker.endswith(".") else r"\.?")
    return re.search(rf"(?<!\w){spelt}.*\w", text, re.IGNORECASE | re.DOTALL) is not None


def _bullets(text: str, num_bullets: int) -> bool:
    return len(_BULLET.findall(text)) == num_bullets


def _phrase(text: str) -> bool:
    return sum(phrase in text for phrase in _PHRASES) == 1


def _highlights(text: str, num_highlights: int) -> bool:
    return len(_HIGHLIGHT.findall(text)) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    bare = re.fullmatch(r"```(?:json)?\s*(.*?)```", text.strip(), re.DOTALL | re.IGNORECASE)

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return isinstance(json.loads(bare[1] if bare else text, parse_constant=refuse), dict | list)
    except (ValueError, RecursionError):
        return False


def _title(text: str) -> bool:
    return any(title.strip() for title in re.findall(r"<<([^\n<>]+)>>", text))


def _two(text: str) -> bool:
    parts = _paragraphs(text, "******")
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _repeat(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return compare(sum(word.isupper() for word in _WORD.findall(text)), capital_relation, capital_frequency)


def _capitals(text: str) -> bool:
    return text.isupper() and detected(text) == "en"


def _lowercase(text: str) -> bool:
    return text.islower() and detected(text) == "en"


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _no_comma(text: str) -> bool:
    return "," not in text


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _divided,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _phrase,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
"""Every kind of instruction, by its name in the rows."""


def follows(kind: str, text: str, arguments: dict[str, Any]) -> bool:
    """Whether a text, which is not blank, follows one instruction.

    Raises:
        ValueError: There is no such kind, or its arguments are others.
    """
    if kind not in INSTRUCTIONS:
        raise ValueError(f"there is no instruction {kind!r}; known are {', '.join(INSTRUCTIONS)}")
    try:
        return INSTRUCTIONS[kind](text, **arguments)
    except TypeError as error:
        raise ValueError(f"the instruction {kind!r} cannot take {arguments!r:.200}: {error}") from error
