r"""Finding the final answer in a response.

One setting, shared by the verifiers that read free text:

``tag``
    The last ``<answer>...</answer>``; without one, the whole text.
``boxed``
    The last balanced ``\boxed{...}``; earlier ones never count, so boxing every candidate gains nothing.
``last_number``, ``last_integer``
    The last number as digits, without thousands separators: "costs $1,234.50" gives "1234.50".
``last_line``, ``text``
    The last line that is not blank; everything.
``regex:<pattern>``
    The last match, or its group 1 where the pattern has groups. Dots match newlines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

MAX_CHARS = 20_000
"""How much of the end of a response a verifier reads, in characters: answers come last, and time is bounded."""

_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_BRACE = re.compile(r"\\boxed\s*\{|(?<!\\)[{}]")
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-−])?(?<!\d)(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?!\.?[\d\u00b2\u00b3\u00b9\u2070-\u2089])"  # of 42² or 101₂ a part is not the number
)
_ODD_DIGIT = re.compile(r"(?![0-9])\d")


def extract(text: str, how: str, max_chars: int = MAX_CHARS) -> str | None:
    """The final answer in the last ``max_chars`` of ``text``, stripped; None when there is none.

    Raises:
        KeyError: ``how`` is none of the ways above (annotate the setting with :data:`How` to refuse it earlier).
    """
    text = text[-max_chars:]
    found = _last_match(text, how.removeprefix("regex:")) if how.startswith("regex:") else _WAYS[how](text)
    return None if found is None else found.strip()


def has_odd_digits(answer: str, reference: str) -> bool:
    """Whether an answer is written in other digits than 0 to 9 (１, ٣), and the reference is not."""
    return bool(_ODD_DIGIT.search(answer)) and not _ODD_DIGIT.search(reference)


def present(answer: str, how: str) -> str | None:
    """A response from which :func:`extract` would read ``answer``; None when it cannot be written that way."""
    text = {"tag": f"<answer>{answer}</answer>", "boxed": rf"\boxed{{{answer}}}"}.get(how, answer)
    return text if extract(text, how) == answer.strip() else None


def _tag(text: str) -> str | None:
    tagged = _TAG.findall(text)
    return tagged[-1] if tagged else _text(text)


def _boxed(text: str) -> str | None:
    opened: list[tuple[bool, int]] = []
    start = end = -1
    for brace in _BRACE.finditer(text):
        if brace.group().endswith("{"):
            opened.append((len(brace.group()) > 1, brace.end()))
        elif opened:
            boxed, at = opened.pop()
            if boxed and at > start:
                start, end = at, brace.start()
    return text[start:end] if start >= 0 else None


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "").replace("−", "-") if numbers else None


def _last_integer(text: str) -> str | None:
    for number in reversed(_NUMBER.findall(text)):
        whole, _, fraction = number.partition(".")
        if whole.strip("-−") and not fraction.strip("0"):
            return whole.replace(",", "").replace("−", "-")
    return None


def _last_line(text: str) -> str | None:
    lines = text.strip().splitlines()
    return lines[-1] if lines else None


def _text(text: str) -> str | None:
    return text if text.strip() else None


def _last_match(text: str, pattern: str) -> str | None:
    last = None
    for last in re.finditer(pattern, text, re.DOTALL):  # noqa: B007 - the last one is what is wanted
        pass
    return last and last.group(1 if last.re.groups else 0)


_WAYS: dict[str, Callable[[str], str | None]] = {
    "tag": _tag,
    "boxed": _boxed,
    "last_number": _last_number,
    "last_integer": _last_integer,
    "last_line": _last_line,
    "text": _text,
}


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def _known(how: str) -> str:
    if how.startswith("regex:"):
        _compiles(how.removeprefix("regex:"))
    elif how not in _WAYS:
        raise ValueError(f"no such way to extract an answer: {how!r}; one of {', '.join(_WAYS)} or 'regex:<pattern>'")
    return how


Pattern = Annotated[str, AfterValidator(_compiles)]
"""The type of a setting that is a regular expression, in Python's syntax."""

How = Annotated[str, AfterValidator(_known)]
"""The type of a verifier's ``extract`` setting."""
