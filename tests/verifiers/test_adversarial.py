"""Every verifier, in its pool, against every probe: in time, nothing paid, and still of use afterwards."""

import asyncio
import time

import pytest
from test_sandbox import MISSING

from hone.types import Segment, Task, Trajectory
from hone.verifiers.choice import ChoiceVerifier
from hone.verifiers.code import CodeVerifier
from hone.verifiers.combine import Combine
from hone.verifiers.countdown import CountdownVerifier
from hone.verifiers.exact import ExactVerifier
from hone.verifiers.format import FormatVerifier
from hone.verifiers.function_call import FunctionCallVerifier
from hone.verifiers.grid import GridVerifier
from hone.verifiers.ifeval import IFEvalVerifier
from hone.verifiers.mathematics import MathVerifier
from hone.verifiers.pool import VerifierPool
from hone.verifiers.probes import adversarial
from hone.verifiers.reasoning_gym import ReasoningGymVerifier

LIMIT = 10.0


def entry(name, answer, **metadata):
    return {"entry": {"question": "?", "answer": answer, "metadata": {"source_dataset": name, **metadata}}}


GAME = {"nums": [12, 16, 48], "target": 76, "solution": "(16 + 12) + 48"}
CALLS = [{"area": {"base": [10], "unit": ["cm", ""]}}]
TEXTS = {"nums": "[12, 16, 48]", "target": "76", "solution": "76 = (16 + 12) + 48"}
INTEGRAL = entry("simple_integration", "x**2 + C", integrand="2*x", variable="x")
ASKED = {
    "instruction_id_list": [
        "punctuation:no_comma", "detectable_format:title",
        "change_case:english_lowercase", "detectable_content:postscript",
    ],
    "kwargs": [{}, {}, {}, {"postscript_marker": "P.S."}],
}  # fmt: skip
MARKED = {
    "instruction_id_list": [
        "detectable_format:number_bullet_lists", "detectable_format:number_highlighted_sections",
        "detectable_content:number_placeholders", "detectable_format:constrained_response",
    ],
    "kwargs": [{"num_bullets": 2}, {"num_highlights": 1}, {"num_placeholders": 1}, {}],
}  # fmt: skip
FORM = r"<think>.+</think>\s*\\boxed\{.+\}"
CASES = {
    "math": (MathVerifier(), Task("t", [], "42"), None),
    "math_text": (MathVerifier(extract="text"), Task("t", [], r"\frac{1}{2}"), None),
    "choice": (ChoiceVerifier(), Task("t", [], "B"), None),
    "countdown": (CountdownVerifier(), Task("t", [], None, GAME), None),
    "countdown_text": (CountdownVerifier(use_all=False), Task("t", [], None, TEXTS), None),
    "exact": (ExactVerifier(), Task("t", [], "yes"), None),
    "exact_text": (ExactVerifier(extract="text", spaces="ignore"), Task("t", [], ") ] }"), None),
    "grid": (GridVerifier(), Task("t", [], [[1, 0, 2], [3, 3, 3]]), None),
    "grid_text": (GridVerifier(extract="text", partial=True), Task("t", [], [[0] * 30] * 29 + [[1] * 30]), None),
    "ifeval": (
        IFEvalVerifier(),
        Task("t", [], meta=ASKED),
        "dear <<all>> - this is an answer in english\np.s. bye now",
    ),
    "ifeval_loose": (
        IFEvalVerifier(loose=True),
        Task("t", [], meta=MARKED),
        "Sure:\n* a\n* b *c* [d]\nMy answer is no.",
    ),
    "function_call": (FunctionCallVerifier(), Task("t", [], CALLS), None),
    "format": (FormatVerifier(pattern=FORM), Task("t", []), "<think>hm</think> \\boxed{1}"),
    "integration": (ReasoningGymVerifier(), Task("t", [], meta=INTEGRAL), None),
    "partial": (ReasoningGymVerifier(partial=True), Task("t", [], meta=entry("gcd", "7")), None),
    "code": (
        CodeVerifier(seconds=3, cpu_seconds=1),
        Task("t", [], "def f(a, b):\n    return a + b", {"test_list": ["assert f(1, 2) == 3", "assert f(5, 6) == 11"]}),
        None,
    ),
    "combine": (
        Combine(parts={"math": MathVerifier(), "form": FormatVerifier(pattern=FORM)}, gate="form"),
        Task("t", [], "42"),
        "<think>6 * 7</think> \\boxed{42}",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_probes(name):
    if name == "code" and MISSING:
        pytest.skip(MISSING)
    verifier, task, good = CASES[name]
    probes = adversarial()

    async def judge(pool, text):
        start = time.perf_counter()
        score = await pool(task, Trajectory(task, [Segment("response", "policy", (), text=text)]))
        return score, time.perf_counter() - start

    async def run():
        with VerifierPool(verifier, workers=2, timeout=LIMIT) as pool:
            right = good or verifier.example(task)
            await judge(pool, right)  # from here on a worker is prepared: starting one has no part in the limit
            scores = {probe: await judge(pool, text) for probe, text in probes.items()}
            return scores, await judge(pool, right)

    scores, (last, _) = asyncio.run(run())
    assert {probe: score for probe, (score, _) in scores.items() if score.value != 0} == {}
    assert {probe: took for probe, (_, took) in scores.items() if took > LIMIT / 2} == {}
    assert last.value == 1


def test_there_is_a_probe_of_ten_megabytes():
    assert max(map(len, adversarial().values())) >= 10_000_000
