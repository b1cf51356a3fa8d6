"""What to say of a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: str, valid: Iterable[str]) -> str:
    """The nearest valid name and the list of all, for the end of an error message."""
    valid = list(valid)
    nearest = get_close_matches(name, valid, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}there are: {', '.join(valid) or 'none'}"
