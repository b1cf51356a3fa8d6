"""Every parser of what a model, a writer or a file says, with an oracle: from what can the right answer not be read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mutations import without

from hone import document
from hone.papers.thinking import Words, thinking_length
from hone.registry import ConfigError
from hone.samplers.segments import segments
from hone.seats import Verifier
from hone.synthesis import rewriting
from hone.tasks.files import Inline
from hone.tasks.tables import read_table
from hone.types import Segment, Task, Trajectory
from hone.verifiers.answers import extract
from hone.verifiers.choice import ChoiceVerifier
from hone.verifiers.countdown import CountdownVerifier
from hone.verifiers.exact import ExactVerifier
from hone.verifiers.expressions import arithmetic
from hone.verifiers.format import FormatVerifier
from hone.verifiers.function_call import FunctionCallVerifier
from hone.verifiers.grid import GridVerifier
from hone.verifiers.ifeval import IFEvalVerifier
from hone.verifiers.mathematics import MathVerifier
from hone.verifiers.programs import Unit, program
from hone.verifiers.reasoning_gym import ReasoningGymVerifier

WORD = "zyzzyva"
"""Of which nothing is left without the letter z."""


@dataclass
class Target:
    """A parser.

    Attributes:
        try_: Reads a text, and raises AssertionError where what it makes of it is wrong.
        pieces: That mean something to it.
        right: Texts that it would pay for, before they are spoilt.
        spoil: See :func:`mutations.texts`.
        share: Of 100,000 texts, how many the long test takes: where one costs milliseconds, fewer.
    """

    try_: Callable[[str], None]
    pieces: Sequence[str] = ()
    right: Sequence[str] = ()
    spoil: Callable[[str], str] = str
    share: float = 1.0


def judged(verifier: Verifier, answer: Any = None, **meta: Any) -> Callable[[str], None]:
    """A verifier must give every text a verdict in [0, 1), and no error."""
    task = Task("t", [], answer, meta)

    def try_(text: str) -> None:
        score = verifier(task, Trajectory(task, [Segment("response", "policy", (), text=text)]))
        assert score.error is None
        assert 0 <= score.value < 1, f"pays {score.value}"
        assert score.answer is None or isinstance(score.answer, str)

    return try_


def _extracted(text: str) -> None:
    for how in ("tag", "boxed", "last_number", "last_integer", "last_line", "text", r"regex:(\d+)\s*$"):
        found = extract(text, how)
        assert found is None or found == found.strip()
        if found is not None and not how.startswith("last_"):
            assert found in text


def _arithmetic(text: str) -> None:
    with suppress(ValueError):
        arithmetic(text, negate=True)


UNIT = Unit("", ["assert f(1) == 2"], ["f"], "import math\n\ndef f(x):\n", "f")


def _program(text: str) -> None:
    for form in ("auto", "program", "completion"):
        found = program(text, form, UNIT)
        assert found is None or isinstance(found, str)
        if "</think>" not in text and "```" not in text and "~~~" not in text and text.strip():
            assert text in found


def _words() -> Words:
    return Words(lambda text: tuple(map(ord, text)), lambda ids: "".join(map(chr, ids)), "</think>", 0)


def _thinking(text: str) -> None:
    end = text.find("</think>")
    assert thinking_length(_words(), [ord(c) for c in text]) == (len(text) if end < 0 else end + len("</think>"))


def _segments(text: str) -> None:
    text = text[:200]  # each cut decodes what is before it
    tokens = [ord(c) for c in text]
    forced = {i for i in range(len(tokens)) if (i * 7 + len(text)) % 5 == 0}
    made = segments(tokens, [0.0] * len(tokens), forced, lambda ids: "".join(map(chr, ids)))
    assert "".join(part.text for part in made) == text
    assert [action for part in made for action in part.actions] == tokens
    assert sum(len(part) for part in made if part.train) == len(tokens) - len(forced)


def _rewritten(text: str) -> None:
    found = rewriting.found(text)
    assert found is None or (found.strip() and "<question>" not in found)
    score = rewriting.grade(text)
    assert score is None or 0 <= score <= 10
    rewriting.question(Task("t", [{"role": "user", "content": text}]))


def _document(text: str) -> None:
    try:
        document.read(text)
    except ConfigError:
        return


def _override(text: str) -> None:
    node: dict[str, Any] = {"verifier": "math", "hooks": ["log"], "sampling": {"temperature": 1.0}}
    try:
        for where, value in document.pairs([text]):
            document.put(node, where, value)
    except ConfigError:
        return


def _table(kind: str) -> Callable[[str], None]:
    import tempfile
    from pathlib import Path

    path = Path(tempfile.mkdtemp()) / f"rows.{kind}"

    def try_(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            rows = read_table(str(path)).rows
        except ValueError:
            return
        assert rows
        assert all(isinstance(row, dict) for row in rows)

    return try_


def _row(text: str) -> None:
    source = Inline(rows=[{"q": text, "a": [text]}], prompt="Q: {q}", answer="{a}", repeat=False)
    try:
        [task] = source
    except ValueError:
        return
    assert task.prompt[-1]["content"] == f"Q: {text}"


def _entry(name: str, answer: str, **metadata: Any) -> dict[str, Any]:
    return {"question": "?", "answer": answer, "metadata": {"source_dataset": name, **metadata}}


GYM = {
    "chain_sum": ("777777", {}),
    "basic_arithmetic": ("777777", {}),
    "gcd": ("777777", {}),
    "countdown": ("7 * 77", {"numbers": [7, 77], "target": 539}),
    "complex_arithmetic": ("777777.0 + 7.0i", {"result": [777777.0, 7.0]}),
    "spiral_matrix": ("7 7 7 7", {}),
    "binary_matrix": ("7 7\n7 7", {}),
    "time_intervals": ("77:77", {"task_type": "time"}),
    "calendar_arithmetic": ("777", {"task": "count_days"}),
    "prime_factorization": ("7 × 77", {"factors": [7, 77]}),
    "number_sorting": ("['7', '77', '777']", {"direction": "ascending"}),
    "coin_flip": ("0.777", {"solution": {"prob": 0.7777, "type": "x"}}),
    "simple_integration": ("x**7 + C", {"integrand": "7*x**6", "variable": "x"}),
}
NUMBER = "5915587277"
"""A prime that no few pieces make."""
BFCL = [{WORD: {"base": [10], "unit": ["cm", ""]}}]
CALL = json.dumps({"name": WORD, "arguments": {"base": 10, "unit": "cm"}})
ASKED = {
    "instruction_id_list": [
        "keywords:existence", "length_constraints:number_sentences", "detectable_format:title", "startend:quotation",
        "detectable_content:postscript", "detectable_format:number_highlighted_sections",
        "length_constraints:nth_paragraph_first_word", "detectable_format:number_bullet_lists", "punctuation:no_comma",
    ],
    "kwargs": [
        {"keywords": [WORD]}, {"num_sentences": 2, "relation": "at least"}, {}, {}, {"postscript_marker": "P.P.S"},
        {"num_highlights": 2}, {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "yes"}, {"num_bullets": 1}, {},
    ],
}  # fmt: skip
FORMS = {
    "instruction_id_list": ["keywords:existence", "combination:two_responses", "startend:end_checker"],
    "kwargs": [{"keywords": [WORD]}, {}, {"end_phrase": "bye"}],
}
OBJECT = {
    "instruction_id_list": ["keywords:existence", "detectable_format:json_format"],
    "kwargs": [{"keywords": [WORD]}, {}],
}
LATEX = [
    r"\frac{", r"\sqrt{", r"\sum_{i=1}^{", r"\int_0^1", r"\pi", r"\cdot", r"\left(", r"\right)", r"\text{", "^{", "x^2",
    r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", r"\infty", r"\cup", "[0, 1)", "x = ", r"\le", "!",
    r"\binom{5}{2}", r"\lim_{x \to 0}", r"\log_", r"\%", "1,000", "0.5", "3 \\times", "12", "34", "pi", "sin(", "i",
]  # fmt: skip
CODE = ["def f(x):\n", "    return x", "class A:\n", "import os\n", "~~~\n", "\n", "async ", "f = ", "@", "pass"]
YAML = [
    "a: ",
    "- ",
    "b:\n",
    "  ",
    "{",
    "&x ",
    "*x",
    "!!python/object:os.system ",
    "? ",
    "|",
    ">",
    "<<: ",
    "1e-5",
    "---\n",
]
JSON = [
    '{"a": 1}',
    '{"q": "x"}\n',
    '"',
    "[",
    "]",
    ":",
    ",",
    "1",
    "\\",
    "\n",
    "NaN",
    "null",
    '"a"',
    "a,b\n",
    "1,2\n",
    '""',
]

TARGETS: dict[str, Target] = {
    "math": Target(
        judged(MathVerifier(), NUMBER), LATEX, [rf"\boxed{{{NUMBER}}}", rf"\boxed{{x = {NUMBER}}}"], without("7"), 0.03
    ),
    "choice": Target(
        judged(ChoiceVerifier(letters="ABCDEFQ"), "Q"), ["A", "(B)", "option", "choice:", "or", "not"],
        [r"\boxed{Q}", "<answer>Q</answer>", "The answer is (Q).", "Answer: Q"], without("q"),
    ),
    "exact": Target(
        judged(ExactVerifier(), WORD), ["zy", "yva"], [f"<answer>{WORD}</answer>", WORD.upper()], without("z")
    ),
    "grid": Target(
        judged(GridVerifier(partial=True), [[7, 7, 7, 1], [7, 1, 1, 7]]), ["1 2\n", "[[1, 2], [3, 4]]", "[1,", "|"],
        ["<answer>\n7 7 7 1\n7 1 1 7\n</answer>", "[[7, 7, 7, 1], [7, 1, 1, 7]]"], without("7"),
    ),
    "ifeval": Target(
        judged(IFEvalVerifier(loose=True), **ASKED), ["yes", "P.P.S. ", "******", "*a*", "<<t>>", "\n\n", ". ", WORD],
        [f'"yes <<{WORD}>> *a* *b*. More.\n\n- one\nP.P.S. x"'], without("z"),
    ),
    "ifeval forms": Target(
        judged(IFEvalVerifier(partial=True), **FORMS), ["******", "bye"], [f"{WORD}\n******\nbye"], without("z")
    ),
    "ifeval json": Target(
        judged(IFEvalVerifier(), **OBJECT), ["```json\n", "{", "NaN"], [f'{{"{WORD}": [1]}}'], without("z")
    ),
    "countdown": Target(
        judged(CountdownVerifier(), None, nums=[97, 89, 83], target=716539),
        ["97", "89", "83", "*", "+", "716539", "=", "(", ")", r"\times", "$$", r"\("],
        ["<answer>97 * 89 * 83</answer>", "97 * 89 * 83 = 716539", r"\boxed{(97 * 89) * 83}"], without("9"),
    ),
    "expressions": Target(_arithmetic, ["12", "(", ")", "+", "-", "*", "/", "÷", r"\left", r"\cdot"]),
    "function_call": Target(
        judged(FunctionCallVerifier(), BFCL),
        ['{"name": ', '"arguments": {', "<tool_call>", "</tool_call>", "{}", "[{"],
        [CALL, f"<tool_call>\n{CALL}\n</tool_call>", f"```json\n[{CALL}]\n```"], without("z"),
    ),
    "format": Target(
        judged(FormatVerifier(pattern=rf"<think>.+</think>\s*\\boxed\{{{WORD}\}}")), ["<think>hm</think>"],
        [rf"<think>a</think> \boxed{{{WORD}}}"], without("z"),
    ),
    **{
        f"reasoning_gym {name}": Target(
            judged(ReasoningGymVerifier(), entry=_entry(name, answer, **metadata)),
            ["1", "2", "x", "C", "+", "*", "[[", "]]", "i", ":"], [f"<answer>{answer}</answer>", answer],
            without("7"), 0.02 if "integration" in name else 1.0,
        )
        for name, (answer, metadata) in GYM.items()
    },
    "extraction": Target(_extracted, [*LATEX, "<answer>1</answer>", r"\boxed{1}"]),
    "program": Target(_program, CODE, ["```python\ndef f(x):\n    return x + 1\n```"]),
    "thinking": Target(_thinking, ["</think>", "<think>", "Wait", "\n\n", "</thi", "nk>"]),
    "segments": Target(_segments),
    "rewrites": Target(
        _rewritten, ["<question>", "</question>", "Score: ", "score", "10", "<image>"],
        ["<question>Why?</question>", "Score: 7", "<question><image> Why?</question>"],
    ),
    "yaml": Target(_document, YAML, ["a: {b: [1, 2]}\nc: x\n"], share=0.3),
    "overrides": Target(_override, ["sampling.", "temperature=", "hooks.0", "verifier.math.", "=", "."], share=0.3),
    "jsonl": Target(_table("jsonl"), JSON, ['{"q": "1", "a": "2"}\n{"q": "3", "a": "4"}\n']),
    "csv": Target(_table("csv"), JSON, ["q,a\n1,2\n3,4\n"]),
    "rows": Target(_row, ["{q}", "{", "}", "<image>"]),
}  # fmt: skip


def seed_of(name: str) -> int:
    """The same in every run."""
    return random.Random(name).randrange(2**32)
