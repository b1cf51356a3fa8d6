"""Function calls written as JSON, compared with one expected list or with BFCL's lists of allowed values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.answers import MAX_CHARS
from hone.verifiers.references import is_missing, reference
from hone.verifiers.verdict import invalid, verdict

Call = tuple[str, dict[str, Any]]
"""A function's name and its arguments."""

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)
_IGNORED = re.compile(r"[ ,./\-_*^]")


@settings
class FunctionCallVerifier:
    """Whether the response makes the expected calls, in any order, and no others.

    Calls are ``{"name": ..., "arguments": {...}}``, alone or in a list, inside ``<tool_call>`` tags, else in the last
    JSON fence, else as the whole text; what comes before ``</think>`` is not read. Numbers compare by value (5 is 5.0,
    but True is not 1) and objects without regard to order. Repeated keys, NaN and Infinity are refused.

    The reference, ``task.answer`` (or JSON of it), has one of two forms:

    ``exact``
        A list of calls written as above.
    ``bfcl``
        ``[{name: {argument: [allowed values]}}]``, as in the Berkeley Function-Calling Leaderboard, compared as its
        AST checker does: "" among the allowed values means that the argument may be left out; strings compare without
        case, spaces and ``, . / - _ * ^``, and with ' for "; allowed objects hold lists of allowed values in turn. Two
        differences: the checker also reads the declared types (it refuses 5.0 for an integer) and matches parallel
        calls greedily, where any complete matching will do here.

    An empty reference means that nothing should be called: any text without a call is right.

    Attributes:
        form: Of the reference; "auto" recognises it.
        max_chars: How much of the end of the response is read.
    """

    form: Literal["auto", "exact", "bfcl"] = "auto"
    max_chars: int = Field(MAX_CHARS, ge=1)

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """1.0 or 0.0; a response without calls that can be read is "invalid".

        Raises:
            ValueError: The reference is missing, or has neither form.
        """
        expected = self._expected(task)
        text = trajectory.response[-self.max_chars :].rpartition("</think>")[2].strip()
        try:
            calls = [call for written in _written(text) for call in _calls(written)]
        except (ValueError, RecursionError):
            return invalid()
        if not text or (expected and not calls):
            return invalid()
        said = sorted(json.dumps(call, sort_keys=True) for call in calls)
        return verdict(_pair_up(expected, calls), "\n".join(said))

    def example(self, task: Task) -> str | None:
        """The expected calls in tags, each argument with the first value allowed."""
        calls = [expected.example for expected in self._expected(task)]
        if not calls:
            return "None of the functions is of use here."
        written = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)
        return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)

    def _expected(self, task: Task) -> list[_Exact | _Allowed]:
        answer = reference(task)
        try:
            calls = _loads(answer) if isinstance(answer, str) else answer
            calls = [calls] if isinstance(calls, Mapping) else calls
            if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) and call for call in calls):
                raise ValueError("not a list of calls")
            if self.form == "exact" or (self.form == "auto" and all("arguments" in call for call in calls)):
                return [_Exact(*_call(call)) for call in calls]
            return [_Allowed(name, allowed) for call in calls for name, allowed in call.items()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"task {task.id!r}: the reference {answer!r:.200} cannot be read: {error}") from None


class _Exact:
    """One call expected as it is."""

    def __init__(self, name: str, arguments: dict[str, Any]):
        self.example: Call = (name, arguments)

    def __call__(self, call: Call) -> bool:
        return call[0] == self.example[0] and _equal(call[1], self.example[1])


class _Allowed:
    """One call expected with a list of allowed values for each argument."""

    def __init__(self, name: str, allowed: Mapping[str, Sequence[Any]]):
        _check_allowed(name, allowed)
        self.name, self.allowed = name, allowed

    def __call__(self, call: Call) -> bool:
        return call[0] == self.name and _fits(call[1], self.allowed)

    @property
    def example(self) -> Call:
        return self.name, _first_allowed(self.allowed)


def _check_allowed(name: str, allowed: Any) -> None:
    """Refuse what no call could match: it would score every response 0.

    Raises:
        ValueError: Something that should be an object of lists is not; tables of one schema fill gaps with nulls.
    """
    if not isinstance(allowed, Mapping):
        raise ValueError(f"{name!r} has {allowed!r:.80} for its object of arguments")
    for argument, options in allowed.items():
        if not isinstance(options, list | tuple) or not options:
            raise ValueError(f"{name!r}: {argument!r} has {options!r:.80} for its list of allowed values")
        for option in options:
            if isinstance(option, Mapping):
                _check_allowed(f"{name}.{argument}", option)
            elif option is not None and is_missing(option):
                raise ValueError(f"{name!r}: {argument!r} allows {option!r}, which no JSON has")


def _written(text: str) -> list[str]:
    """The parts of the text that claim to be calls."""
    if tagged := _TAGGED.findall(text):
        return tagged
    if fenced := _FENCED.findall(text):
        return fenced[-1:]
    return [text] if text[:1] in ("{", "[") else []


def _calls(written: str) -> list[Call]:
    """Read one call or a list of them.

    Raises:
        ValueError: It is not JSON, or not a call.
    """
    value = _loads(written)
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _call(call: Any) -> Call:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise ValueError("a call has a name")
    arguments = call.get("arguments", call.get("parameters"))
    arguments = _loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        raise ValueError("a call has an object of arguments")
    return call["name"], dict(arguments)


def _loads(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity (nor a number that overflows to it), no repeated keys."""

    def number(literal: str) -> float:
        value = float(literal)
        if not math.isfinite(value):
            raise ValueError(f"{literal} is not a finite number")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(mapping := dict(pairs)) < len(pairs):
            raise ValueError("an object repeats a key")
        return mapping

    return json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=unique)


def _equal(value: Any, other: Any) -> bool:
    """Equality of JSON values: True is not 1, and 1 is 1.0."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(_equal(value[key], other[key]) for key in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_equal, value, other))
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _fits(arguments: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> bool:
    return arguments.keys() <= allowed.keys() and all(
        any(_is(arguments[name], option) for option in options) if name in arguments else "" in options
        for name, options in allowed.items()
    )


def _is(value: Any, option: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(option, Mapping):
        return _fits(value, option)
    if isinstance(value, list) and isinstance(option, list):
        return len(value) == len(option) and all(map(_is, value, option))
    if isinstance(value, str) and isinstance(option, str):
        return _standardised(value) == _standardised(option)
    return _equal(value, option)


def _standardised(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _first_allowed(value: Any) -> Any:
    """A value that an allowed object accepts; what may be left out is."""
    if isinstance(value, Mapping):
        return {name: _first_allowed(options[0]) for name, options in value.items() if "" not in options}
    return [_first_allowed(item) for item in value] if isinstance(value, list) else value


def _pair_up(expected: Sequence[Callable[[Call], bool]], calls: Sequence[Call]) -> bool:
    """Whether each expectation can be given a call of its own, with none left over (Kuhn's augmenting paths)."""
    owner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j, call in enumerate(calls):
            if j not in tried and expected[i](call):
                tried.add(j)
                if j not in owner or place(owner[j], tried):
                    owner[j] = i
                    return True
        return False

    return len(expected) == len(calls) and all(place(i, set()) for i in range(len(expected)))
