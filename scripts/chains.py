"""Chains of arithmetic modulo 10, and thoughts about them that a program writes: what scripts/think.py teaches.

A question is a digit, and steps to go on with; of each result only the last digit counts. With a thought::

    7
    a) * 9 + 5
    b) - 8 * 3

    <think>
    a) 7 * 9 + 5 = 4

    Wait, 7 * 9 = 3, 3 + 5 = 8. So 8

    b) 8 - 8 * 3 = 0

    </think>
    0

A paragraph is a step: several operations at once (fast), or, behind "Wait", the same once more one at a time (slow),
which mends what was wrong. Wrong results are written on purpose, into steps that are then checked, and are not learned
from: a model makes mistakes of its own. Some thoughts end early, and the answer does what remains, fast. A draft has
results alone. Drills are operations by themselves, of which only results are learned: in thoughts there are too few
for a small model to learn to compute.
"""

import operator
import random
from dataclasses import dataclass
from itertools import pairwise

Said = list[tuple[str, bool]]
"""Pieces of text, and whether each is learned from."""
DRAFT = "Draft: only results."
"""The system message under which thoughts are drafts."""
DRILL = "Drill."
"""What is asked for operations by themselves."""
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
DIGITS = {"+": range(2, 10), "-": range(2, 10), "*": (3, 7, 9)}
"""What may stand behind each: a product by these keeps all digits apart, so that no result is likelier than others."""
STEPS, OPERATIONS = 4, 2
"""Of a question, and of each of its steps."""


@dataclass(frozen=True)
class Step:
    """Some operations on a digit, each a sign and a digit."""

    name: str
    start: int
    operations: tuple[tuple[str, int], ...]

    def course(self) -> list[int]:
        """The digit at first and after each operation."""
        found = [self.start]
        for sign, digit in self.operations:
            found.append(OPERATORS[sign](found[-1], digit) % 10)
        return found

    @property
    def result(self) -> int:
        return self.course()[-1]

    @property
    def asked(self) -> str:
        """``* 9 + 5``."""
        return " ".join(f"{sign} {digit}" for sign, digit in self.operations)

    @property
    def said(self) -> str:
        """``a) 7 * 9 + 5 = ``, to which the result belongs."""
        return f"{self.name}) {self.start} {self.asked} = "

    def check(self) -> str:
        """``Wait, 7 * 9 = 3, 3 + 5 = 8. So 8``."""
        course, parts = self.course(), []
        for (sign, digit), (before, after) in zip(self.operations, pairwise(course), strict=True):
            parts.append(f"{before} {sign} {digit} = {after}")
        return f"Wait, {', '.join(parts)}. So {self.result}"


def chain(draw: random.Random) -> list[Step]:
    """A question, as the steps of its solution."""
    found, digit = [], draw.randrange(10)
    for name in "abcdefgh"[:STEPS]:
        operations = tuple((sign, draw.choice(DIGITS[sign])) for sign in draw.choices("+-*", k=OPERATIONS))
        found.append(Step(name, digit, operations))
        digit = found[-1].result
    return found


def question(steps: list[Step]) -> str:
    return "\n".join([str(steps[0].start), *(f"{step.name}) {step.asked}" for step in steps)])


def thought(steps: list[Step], draw: random.Random, *, check: float = 0.25, early: float = 0.2) -> Said:
    """A thought and its answer.

    Args:
        steps: What is thought about.
        draw: For everything that is left to chance.
        check: Of the steps, and of the checks themselves, what share is checked (again).
        early: Of the thoughts, what share ends before its last step.
    """
    found: Said = [("<think>\n", True)]
    end = draw.randrange(1, len(steps)) if draw.random() < early else len(steps)
    for step in steps[:end]:
        checks = 0
        while draw.random() < check:
            checks += 1
        wrong = checks > 0 and draw.random() < 0.5
        said = draw.choice([digit for digit in range(10) if digit != step.result]) if wrong else step.result
        found += [(step.said, True), (str(said), not wrong), ("\n\n", True)]
        found += [(f"{step.check()}\n\n", True)] * checks
    rest = "".join(f"{step.said}{step.result}\n" for step in steps[end:])
    return [*found, (f"</think>\n{rest}{steps[-1].result}", True)]


def draft(steps: list[Step]) -> Said:
    """A thought of results alone, and its answer."""
    lines = "".join(f"{step.name}) {step.result}\n\n" for step in steps)
    return [(f"<think>\n{lines}</think>\n{steps[-1].result}", True)]


def drill(draw: random.Random, lines: int = 12) -> Said:
    """Operations by themselves, at most a step of them a line, of which only the results are learned from."""
    found: Said = []
    for _ in range(lines):
        whole = draw.choice(chain(draw))
        step = Step(whole.name, whole.start, whole.operations[: draw.randint(1, OPERATIONS)])
        found += [(f"{step.start} {step.asked} = ", False), (str(step.result), True), ("\n", False)]
    return found


def example(
    steps: list[Step], draw: random.Random, *, drills: float = 0.4, drafts: float = 0.2
) -> tuple[list[dict[str, str]], Said]:
    """What is asked, as chat messages, and what is answered; of all examples, shares are drills and drafts."""
    asked = {"role": "user", "content": question(steps)}
    kind = draw.random()
    if kind < drills:
        return [{"role": "user", "content": DRILL}], drill(draw)
    if kind < drills + drafts:
        return [{"role": "system", "content": DRAFT}, asked], draft(steps)
    return [asked], thought(steps, draw)
