"""Programs in Python, run in a sandbox and judged by tests that they cannot see."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from hone.seats import settings
from hone.types import Score, Task, Trajectory
from hone.verifiers.programs import Cases, Form, Unit, program, read_tests
from hone.verifiers.sandbox import Limits, Sandbox
from hone.verifiers.verdict import invalid, verdict

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_FRACTION = re.compile(r"[.eE]")


@settings
class CodeVerifier:
    """Whether the program in the response passes the task's tests.

    The task's ``meta`` holds the tests, in one of these forms:

    ``test``, ``entry_point``, ``prompt``
        As in HumanEval (https://arxiv.org/abs/2107.03374): ``test`` defines ``check(candidate)``; ``prompt`` is the
        beginning of the program. What the prompt defines before the entry point, tests take from the prompt.
    ``test_list``, ``test_setup_code``
        As in MBPP (https://arxiv.org/abs/2108.07732): asserts, and optional code before them.
    ``inputs``, ``outputs``, or ``tests`` with an ``input`` and an ``output`` each
        What the program reads from standard input and prints. Outputs are equal that have the same lines of the same
        words, but for blanks between them and blank lines at the ends; where a fraction is expected (1.5, 1e-3),
        a number within ``tolerance``, absolute or relative, will do. The exit status must be 0.

    Tests that call a program run beside it, in another process, and receive its results as plain data; to compare an
    object of the program's own fails the test. Arguments are passed by value: what a function does to them is not seen.

    The response is searched for the last fence of Python (the last that defines the entry point, where the task names
    it); without any, the whole of it is the program, or what continues the prompt. What comes before ``</think>`` is
    not read.

    Scores by difficulty are those of MiMo-7B (https://arxiv.org/abs/2505.07608), unverified: the paper does not tell
    its weights. ``meta.groups`` gives a number to each test, the easiest lowest, and each group has its weight.

    Attributes:
        form: "program" and "completion" read the response as that alone, a completion without fences; "auto" tells
            them apart by whether the entry point is defined.
        score: "all" pays for all tests, "fraction" for each; "strict_groups" pays a group whose tests all pass, with
            those of all easier groups; "soft_groups" shares a group's weight out over its tests.
        weights: Of the groups, the easiest first, as shares of their sum; equal unless given.
        tolerance: See above.
        isolation: "namespaces", or "none" to run programs with limits alone, where they can read and write whatever
            this process can. It is for containers that hold nothing else.
        packages: Whether programs may import what is installed beside hone (numpy).
        cpu_seconds: Of processor time, for all calls together, or for one input: what a busy machine does not change.
        seconds: Of wall time, for all tests of one response together; keep ``verification.timeout`` 2 s above it. A
            program that takes longer has failed the tests that are left.
        memory_mb: MiB of address space, for each process of the program.
        processes: Processes and threads that it may have at a time.
        file_mb: MiB that it may write to a file, and to ``/tmp``.
        output_kb: KiB that it may print; more is a failure.
        max_chars: How much of the end of the response is read.
    """

    form: Form = "auto"
    score: Literal["all", "fraction", "strict_groups", "soft_groups"] = "all"
    weights: list[float] | None = None
    tolerance: float = Field(1e-6, ge=0)
    isolation: Literal["namespaces", "none"] = "namespaces"
    packages: bool = False
    cpu_seconds: int = Field(5, ge=1)
    seconds: float = Field(8.0, gt=0)
    memory_mb: int = Field(1024, ge=64)
    processes: int = Field(8, ge=1)
    file_mb: int = Field(16, ge=1)
    output_kb: int = Field(1024, ge=1)
    max_chars: int = Field(100_000, ge=1)

    def __post_init__(self) -> None:
        if self.weights is not None and (not self.weights or min(self.weights) < 0 or not sum(self.weights) > 0):
            raise ValueError(f"weights are {self.weights}; they should be numbers from 0 up, with one above 0")
        limits = Limits(
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            memory_mb=self.memory_mb,
            processes=self.processes,
            file_mb=self.file_mb,
            output=self.output_kb * 1024,
        )
        self._sandbox = Sandbox(isolated=self.isolation == "namespaces", packages=self.packages, limits=limits)

    def prepare(self) -> None:
        """Try the sandbox.

        Raises:
            SandboxError: There is no isolation here, or it does not work.
        """
        self._sandbox.check()

    def __call__(self, task: Task, trajectory: Trajectory) -> Score:
        """The score of the program; a response without one that can be loaded is "invalid".

        Raises:
            ValueError: The task has no tests, or some that cannot be run.
            SandboxError: The sandbox failed.
        """
        tests = read_tests(task)
        groups = self._groups(task, len(tests.tests if isinstance(tests, Unit) else tests.inputs))
        source = program(trajectory.response[-self.max_chars :], self.form, tests)
        if source is None:
            return invalid()
        if isinstance(tests, Unit):
            passed = self._sandbox.test(source, tests.setup, tests.tests, tests.taken)
        else:
            passed = self._fed(source, tests)
        return invalid() if passed is None else verdict(self._value(passed, groups))

    def example(self, task: Task) -> str | None:
        """The task's answer, if it is a program, as the setting reads it."""
        if not isinstance(task.answer, str) or not task.answer.strip():
            return None
        tests = read_tests(task)
        if self.form == "completion":
            return task.answer
        return f"```python\n{program(task.answer, 'auto', tests)}\n```"

    def _fed(self, source: str, cases: Cases) -> list[bool]:
        passed: list[bool] = []
        for printed, expected in zip(self._sandbox.outputs(source, cases.inputs), cases.outputs, strict=True):
            passed.append(printed.ended_well and same_output(printed.text, expected, self.tolerance))
            if self.score == "all" and not passed[-1]:
                break
        return passed

    def _groups(self, task: Task, count: int) -> list[int]:
        """The place of each test's group, the easiest 0.

        Raises:
            ValueError: The groups are wanted, and are not one whole number a test, or not as many as weights.
        """
        if not self.score.endswith("groups"):
            return [0] * count
        groups = task.meta.get("groups")
        if not isinstance(groups, Sequence) or len(groups) != count or not all(type(group) is int for group in groups):
            right = f"a list of {count} whole numbers, one a test"
            raise ValueError(f"task {task.id!r}: meta.groups is {groups!r:.80}; it should be {right}")
        order = sorted(set(groups))
        if self.weights is not None and len(self.weights) != len(order):
            raise ValueError(f"task {task.id!r}: {len(order)} groups of tests, and {len(self.weights)} weights")
        return [order.index(group) for group in groups]

    def _value(self, passed: list[bool], groups: list[int]) -> float:
        if self.score == "all":
            return float(all(passed))
        shares = [
            [one for one, group in zip(passed, groups, strict=True) if group == place]
            for place in range(max(groups) + 1)
        ]
        weights = self.weights or [1.0] * len(shares)
        earned = [sum(share) / len(share) for share in shares]
        if self.score == "strict_groups":
            earned = [float(min(earned[: place + 1]) == 1) for place in range(len(earned))]
        return math.fsum(weight * one for weight, one in zip(weights, earned, strict=True)) / math.fsum(weights)


def same_output(printed: str, expected: str, tolerance: float = 1e-6) -> bool:
    """Whether two outputs have the same lines of the same words; see :class:`CodeVerifier`."""
    lines, wanted = ([line.split() for line in text.strip().splitlines()] for text in (printed, expected))
    return len(lines) == len(wanted) and all(
        len(line) == len(right) and all(_same_word(*pair, tolerance) for pair in zip(line, right, strict=True))
        for line, right in zip(lines, wanted, strict=True)
    )


def _same_word(word: str, expected: str, tolerance: float) -> bool:
    if word == expected:
        return True
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(expected) and _FRACTION.search(expected)):
        return False
    return math.isclose(float(word), float(expected), rel_tol=tolerance, abs_tol=tolerance)
