"""Reading code: the program in a response, and the tests of a task."""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hone.types import Task

Form = Literal["auto", "program", "completion"]

_LABELS = {"", "python", "py", "python3"}


@dataclass(frozen=True)
class Unit:
    """Tests that call the program.

    Attributes:
        setup: Python that they start from.
        tests: Python; each passes that raises nothing.
        taken: Names that are the program's although Python has them too.
        prompt: The beginning of the program, where a response completes it.
        entry: The function that the response is to define, where the task names it.
    """

    setup: str
    tests: list[str]
    taken: list[str]
    prompt: str = ""
    entry: str | None = None


@dataclass(frozen=True)
class Cases:
    """Standard input and what is to be printed for it."""

    inputs: list[str]
    outputs: list[str]


def program(text: str, form: Form, tests: Unit | Cases) -> str | None:
    """The program that a response holds; None if there is none.

    A response that defines the entry point is put behind what stands before it in the prompt (imports, helpers);
    one that does not continues the prompt, where there is one.
    """
    prompt, entry = (tests.prompt, tests.entry) if isinstance(tests, Unit) else ("", None)
    if form == "completion":
        return prompt + text if text.strip() else None
    text = text.rpartition("</think>")[2]
    written = blocks(text)
    if written:
        text = next((block for block in reversed(written) if entry and defines(block, entry)), written[-1])
    if not text.strip():
        return None
    if form == "auto" and prompt and not defines(text, entry):
        return prompt + text
    return f"{preamble(prompt, entry)}\n{text}" if prompt else text


def blocks(text: str) -> list[str]:
    """The insides of the fences that are marked as Python, or as nothing; the last may lack its end."""
    found: list[list[str]] = []
    fence, kept = "", False
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})\s*([^`\s]*)", line)
        if not fence and mark:
            fence, kept = mark[1], mark[2].lower() in _LABELS
            if kept:
                found.append([])
        elif fence and mark and mark[1].startswith(fence) and not mark[2]:
            fence = ""
        elif fence and kept:
            found[-1].append(line)
    return ["\n".join(lines) + "\n" for lines in found if lines]


def defines(text: str, name: str | None) -> bool:
    """Whether the text defines a function or class of this name, or assigns to it, at the margin."""
    wanted = rf"^(?:(?:async\s+)?def\s+|class\s+)?{re.escape(name or '')}\b\s*(?:[(:=]|$)"
    return name is not None and re.search(wanted, text, re.MULTILINE) is not None


def preamble(prompt: str, entry: str | None) -> str:
    """What a prompt has before the entry point: imports and helpers."""
    found = re.search(rf"^(?:@|(?:async\s+)?def\s+{re.escape(entry or '')}\b)", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""


def read_tests(task: Task) -> Unit | Cases:
    """The tests of a task, from the fields of its ``meta``.

    Raises:
        ValueError: It has none, or they are not Python, or call nothing of the program's.
    """
    found = [read for name, read in _KINDS.items() if task.meta.get(name) is not None]
    if len(found) != 1:
        has = "several kinds of tests" if found else "no tests"
        raise ValueError(f"task {task.id!r} has {has}: its meta holds {sorted(task.meta)}; one of {', '.join(_KINDS)}")
    return found[0](task)


def _humaneval(task: Task) -> Unit:
    entry, prompt = _text(task, "entry_point"), _text(task, "prompt", "")
    test = _text(task, "test")
    if not entry.isidentifier():
        raise ValueError(f"task {task.id!r}: meta.entry_point is {entry!r}; it should be the name of a function")
    _, bound = _names(task, "test", test)
    if "check" not in bound:
        raise ValueError(f"task {task.id!r}: meta.test defines no function check(candidate)")
    # The tests have the prompt's helpers from the prompt: the response may write its own over them.
    setup = f"{preamble(prompt, entry)}\n{test}"
    _names(task, "prompt", setup)
    return Unit(setup, [f"check({entry})"], [entry], prompt, entry)


def _mbpp(task: Task) -> Unit:
    tests, setup = _texts(task, "test_list"), _text(task, "test_setup_code", "")
    unknown: set[str] = set()
    called: set[str] = set()
    _, bound = _names(task, "test_setup_code", setup)
    for i, test in enumerate(tests):
        read, own = _names(task, f"test_list[{i}]", test)
        unknown |= read - own - bound
        called |= {node.func.id for node in ast.walk(ast.parse(test)) if _is_call(node)} - own - bound
    pythons = set(dir(builtins))
    # A module cannot be called, so that a call of its name is one of the program's. A name of Python's own is the
    # program's only where the tests call nothing else.
    own_names = (unknown - pythons - sys.stdlib_module_names) | (called - pythons)
    taken = (called & sys.stdlib_module_names) - pythons if own_names else called
    if not own_names and not called:
        raise ValueError(f"task {task.id!r}: meta.test_list calls nothing of the program's")
    functions = sorted(called - pythons)
    return Unit(setup, tests, sorted(taken), entry=functions[0] if len(functions) == 1 else None)


def _cases(task: Task) -> Cases:
    return _paired(task, _texts(task, "inputs"), _texts(task, "outputs"))


def _listed_cases(task: Task) -> Cases:
    tests = task.meta["tests"]
    if not _is_list(tests) or not all(
        isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests
    ):
        raise ValueError(f"task {task.id!r}: meta.tests should be a list of objects with input and output")
    inputs, outputs = ([test[name] for test in tests] for name in ("input", "output"))
    return _paired(task, _checked(task, "tests", inputs), _checked(task, "tests", outputs))


def _paired(task: Task, inputs: list[str], outputs: list[str]) -> Cases:
    if len(inputs) != len(outputs):
        raise ValueError(f"task {task.id!r}: {len(inputs)} inputs and {len(outputs)} outputs; there should be as many")
    return Cases(inputs, outputs)


_KINDS = {"test": _humaneval, "test_list": _mbpp, "inputs": _cases, "tests": _listed_cases}
"""By the field of ``meta`` that tells them apart."""


def _text(task: Task, name: str, default: str | None = None) -> str:
    value = task.meta.get(name)
    value = default if value is None else value
    if not isinstance(value, str):
        raise ValueError(f"task {task.id!r}: meta.{name} is {value!r:.80}; it should be text")
    return value


def _texts(task: Task, name: str) -> list[str]:
    return _checked(task, name, task.meta.get(name))


def _checked(task: Task, name: str, values: Any) -> list[str]:
    if not _is_list(values) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(
            f"task {task.id!r}: meta.{name} is {values!r:.80}; it should be a list of texts, and not empty"
        )
    return list(values)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _names(task: Task, field: str, source: str) -> tuple[set[str], set[str]]:
    """The names that a source reads, and those that it binds.

    Raises:
        ValueError: It is no Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"task {task.id!r}: meta.{field} is no Python: {error}") from None
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler)}
    bound |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return read, bound


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
