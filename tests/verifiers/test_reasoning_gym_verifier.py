import contextlib
import io
import json
import pickle

import pytest

from hone.types import Task
from hone.verifiers.probes import adversarial
from hone.verifiers.reasoning_gym import ReasoningGymVerifier

reasoning_gym = pytest.importorskip("reasoning_gym")
NAMES = sorted(set(reasoning_gym.factory.DATASETS) - {"composite"})
WITHOUT_ORACLE = {"boxnet", "rush_hour"}
PAYS_FLOORS = {
    "advanced_geometry", "color_cube_rotation", "countdown", "emoji_mystery", "fraction_simplification",
    "palindrome_generation", "power_function", "propositional_logic", "puzzle24", "rubiks_cube", "rush_hour",
    "sentence_reordering", "tsumego",
}  # fmt: skip
JUNK = [
    "The answer is not known.",
    "nan",
    "inf",
    "0/0",
    "None",
    "[]",
    "{}",
    "[[0]]",
    '{"a": 1}',
    "x",
    "()",
    "1e999",
    "?",
]


def items(name, n=1, **config):
    with contextlib.redirect_stdout(io.StringIO()):
        data = reasoning_gym.create_dataset(name, size=n, seed=2_000_000, **config)
        return [data[i] for i in range(n)]


def meta(name, **config):
    return {"entry": items(name, **config)[0]}


def test_every_task_is_covered():
    assert len(NAMES) == 105


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_is_right_and_junk_is_not(judge, name):
    entry = items(name)[0]
    strict, partial = ReasoningGymVerifier(), ReasoningGymVerifier(partial=True)
    oracle = strict.example(Task("t", [], meta={"entry": entry}))
    assert (oracle is None) == (name in WITHOUT_ORACLE or "Integral" in str(entry["answer"]))
    if oracle is not None:
        assert judge(strict, oracle, entry=entry).value == 1
        assert judge(partial, f"<answer>x</answer> no: {oracle}", entry=entry).value == 1
    probes = {text for text in adversarial().values() if len(text) < 30_000}
    for text in probes | {f"<answer>{junk}</answer>" for junk in JUNK}:
        if text.strip() not in (oracle, f"<answer>{entry['answer']}</answer>", entry["answer"]):
            score = judge(strict, text, entry=entry)
            assert (score.value, score.error) == (0.0, None), text[:80]
    for text in ("", "<answer></answer>", *(["The answer is not known."] if name in PAYS_FLOORS else [])):
        assert judge(partial, text, entry=entry).value == 0
    pickle.loads(pickle.dumps(entry))


@pytest.mark.parametrize(
    "name", ["simple_integration", "intermediate_integration", "polynomial_multiplication", "puzzle24", "countdown"]
)
def test_no_right_formula_is_refused(judge, name):
    for entry in items(name, 12):
        if "Integral" in entry["answer"]:
            continue  # the stored answer is no answer
        assert judge(ReasoningGymVerifier(), f"<answer>{entry['answer']}</answer>", entry=entry).value == 1


@pytest.mark.parametrize("answer", ["yes", "maybe", "0", "halt True"])
def test_game_of_life_halting_reads_the_answer(judge, answer):
    entry = meta("game_of_life_halting")
    assert judge(ReasoningGymVerifier(), f"<answer>{answer}</answer>", **entry).value == 0
    right = entry["entry"]["answer"]
    assert judge(ReasoningGymVerifier(), f"<answer>{right.lower()}</answer>", **entry).value == 1
    wrong = {"True": "False", "False": "True"}[right]
    assert judge(ReasoningGymVerifier(), f"<answer>{wrong}</answer>", **entry).value == 0


@pytest.mark.parametrize("answer", ["0", "0.", "0.3", "0.37", "1", "nan", "1e-999999999", "3/0"])
def test_the_first_digits_of_a_probability_are_not_the_probability(judge, answer):
    entry = {"question": "?", "answer": "0.375", "metadata": {"source_dataset": "coin_flip"}}
    for partial in (False, True):
        assert judge(ReasoningGymVerifier(partial=partial), f"<answer>{answer}</answer>", entry=entry).value == 0
    for right in ("0.375", "3/8", "0.37501"):
        assert judge(ReasoningGymVerifier(), f"<answer>{right}</answer>", entry=entry).value == 1


def test_puzzle24_needs_the_given_numbers(judge):
    entry = meta("puzzle24")
    assert judge(ReasoningGymVerifier(), "<answer>6+6+6+6</answer>", **entry).value == 0


def test_complex_nan_is_no_number(judge):
    for answer in ("nan", "NaN", "nan+1i", "inf", "n an", "(n an)", "n an + n ani"):
        assert judge(ReasoningGymVerifier(), f"<answer>{answer}</answer>", **meta("complex_arithmetic")).value == 0


@pytest.mark.parametrize("word", ["NaN", "'nan'", '"-NaN"', r'"n\u0061n"', "Infinity", "1e999", "null"])
def test_a_list_of_what_are_no_numbers_is_not_sorted(judge, word):
    entry = meta("number_sorting")
    count = len(json.loads(entry["entry"]["answer"].replace("'", '"')))
    assert judge(ReasoningGymVerifier(), f"<answer>[{', '.join([word] * count)}]</answer>", **entry).value == 0


def test_the_integral_itself_is_no_antiderivative(judge):
    entry = meta("simple_integration")
    metadata = entry["entry"]["metadata"]
    restated = f"Integral({metadata['integrand']}, {metadata['variable']})"
    assert judge(ReasoningGymVerifier(), f"<answer>{restated}</answer>", **entry).value == 0


def test_an_antiderivative_is_right_even_where_none_is_stored(judge):
    metadata = {"source_dataset": "intermediate_integration", "integrand": "x**2*cos(x)", "variable": "x"}
    entry = {"question": "?", "answer": "Integral(x**2*cos(x), x) + C", "metadata": metadata}
    right, wrong = "x**2*sin(x) + 2*x*cos(x) - 2*sin(x) + C", "x**2*sin(x) + C"
    assert judge(ReasoningGymVerifier(), f"<answer>{right}</answer>", entry=entry).value == 1
    assert judge(ReasoningGymVerifier(), f"<answer>{wrong}</answer>", entry=entry).value == 0
    assert judge(ReasoningGymVerifier(), f"<answer>{entry['answer']}</answer>", entry=entry).value == 0


@pytest.mark.parametrize(
    "name",
    [
        "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
        "simple_integration", "spiral_matrix", "string_insertion",
    ],
)  # fmt: skip
def test_an_answer_is_never_run(judge, name, tmp_path):
    entry, trace = meta(name), tmp_path / "ran"
    codes = ",".join(map(str, f"open({str(trace)!r}, 'w')".encode()))
    for code in (f"open({str(trace)!r}, 'w')", f"exec(bytes([{codes}]))", f"[open({str(trace)!r}, 'w') for _ in '1']"):
        assert judge(ReasoningGymVerifier(partial=True), f"<answer>{code}</answer>", **entry).value == 0
        assert not trace.exists(), code


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("prime_factorization", "two"),
        ("boxnet", "[[]]"),
        ("boxnet", '{"a": 1}'),
        ("game_of_life", '{"a": 1}'),
        ("coin_flip", "9" * 400),
        ("calendar_arithmetic", "9" * 400),
        ("time_intervals", "9" * 400),
        ("codeio", "{" * 2000 + "}" * 2000),
    ],
)
def test_text_that_makes_a_scorer_raise_is_not_paid(judge, name, answer):
    for entry in items(name, 8):
        score = judge(ReasoningGymVerifier(), f"<answer>{answer}</answer>", entry=entry)
        assert (score.value, score.error) == (0.0, None)


def test_other_exceptions_are_failures(judge):
    entry = meta("rectangle_count")["entry"]
    with pytest.raises(AttributeError):
        judge(ReasoningGymVerifier(), "<answer>3</answer>", entry={**entry, "answer": object()})
    with pytest.raises(ValueError, match="not registered"):
        judge(ReasoningGymVerifier(), "<answer>3</answer>", entry={**entry, "metadata": {"source_dataset": "no"}})
    with pytest.raises(KeyError):
        judge(ReasoningGymVerifier(), "<answer>3</answer>")


@pytest.mark.parametrize("name", ["gcd", "countdown", "complex_arithmetic", "rectangle_count"])
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_an_entry_without_the_answer_is_a_failure(judge, name, missing):
    entry = meta(name)["entry"]
    for response in ("<answer>None</answer>", "<answer>nan</answer>", "", f"<answer>{entry['answer']}</answer>"):
        with pytest.raises(ValueError, match=f"task 't': its entry has no answer, but {missing}"):
            judge(ReasoningGymVerifier(), response, entry={**entry, "answer": missing})


def test_partial_credit_without_floors(judge):
    entry = meta("sentence_reordering")
    words = entry["entry"]["answer"].split()
    half = " ".join([words[0], *reversed(words[1:])])
    assert 0 < judge(ReasoningGymVerifier(partial=True), f"<answer>{half}</answer>", **entry).value < 1
    assert judge(ReasoningGymVerifier(), f"<answer>{half}</answer>", **entry).value == 0
    assert judge(ReasoningGymVerifier(partial=True), "<answer>one two</answer>", **entry).value == 0
    logic = meta("propositional_logic")
    name = logic["entry"]["metadata"]["variables"][0]
    tautology = f"({name} ∨ ¬{name})"
    assert judge(ReasoningGymVerifier(partial=True), f"<answer>{tautology}</answer>", **logic).value == 0


def test_polynomials_without_roots_accept_the_empty_answer_only(judge):
    entry = {"question": "?", "answer": "", "metadata": {"source_dataset": "polynomial_equations"}}
    assert judge(ReasoningGymVerifier(), "<answer></answer>", entry=entry).value == 1
    for response in ("", "<answer>none</answer>", "junk"):
        assert judge(ReasoningGymVerifier(), response, entry=entry).value == 0


def test_an_entry_survives_json(judge):
    for name in ("graph_color", "countdown", "propositional_logic"):
        entry = json.loads(json.dumps(items(name)[0]))
        example = ReasoningGymVerifier().example(Task("t", [], meta={"entry": entry}))
        assert judge(ReasoningGymVerifier(), example, entry=entry).value == 1
