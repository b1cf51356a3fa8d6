"""Each kind of instruction by hand, what is followed by a trick and what is not, and whole tasks."""

import json

import pytest
from ifeval_answers import SAMPLES, made

from hone.types import Task
from hone.verifiers import instructions
from hone.verifiers.ifeval import IFEvalVerifier
from hone.verifiers.instructions import INSTRUCTIONS, detected, follows, sentences

ENGLISH = "this is a quiet little town and i like to live here with my family"
CASES = {
    "keywords:existence": ({"keywords": ["cat", "dog"]}, ["Dogs and CATS."], ["a cat", "do g cat"]),
    "keywords:frequency": (
        {"keyword": "war", "frequency": 2, "relation": "at least"}, ["War, war", "warwar"], ["war", "wa r war"],
    ),
    "keywords:forbidden_words": (
        {"forbidden_words": ["rock", "a.b"]}, ["rocks", "axb", "shamrock"], ["Rock!", "so a.b", "the ROCK"],
    ),
    "keywords:letter_frequency": (
        {"letter": "a", "let_frequency": 2, "let_relation": "less than"}, ["a", "b"], ["aA", "banana"],
    ),
    "language:response_language": ({"language": "de"}, [SAMPLES["de"]], [ENGLISH, SAMPLES["it"]]),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two.", "Is it? Yes", "Ja! Ja!"],
        ["One", "Mr. Smith came", "It costs 3.50 here.", "One, e.g. this", "..."],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2}, ["a\n***\nb", "***\na\n***\nb\n***"], ["a", "a\n***\n***\nb", "a\n\nb", "***"],
    ),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, ["one two"], ["one-two three"]),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "summary"},
        ["a\n\nSummary: b", 'a\n\n"Summary, b', "a\n\n\n\nsummary"],
        ["summary\n\na", "a\n\nb", "a\n\nSummary\n\nc", "a\n\nsummaryless"],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2}, ["[a] [b c]"], ["[a]", "[] []", "[a\n] [b", "[ ] [x]"],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."}, ["x\nP.S. bye", "x p. s. bye"], ["x", "x\nP.S.", "ps bye", "x\nP.S. ..."],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n- b", "x\n  * a\n  * b"],
        ["* a", "* a\n* b\n* c", "*a\n*b", "---\n* a", "* a\n*", "*a* is\n* b"],
    ),
    "detectable_format:constrained_response": (
        {}, ["My answer is no.", "So: My answer is maybe."], ["no", "My answer is yes. My answer is no."],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2}, ["*a* and *b*", "**a** *b c*"], ["*a*", "**a**", "** ** * *", "*a\nb* *c*", "* a\n* b"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1 a\nSECTION 2 b"],
        ["SECTION 1", "Section 1 Section 2"],
    ),
    "detectable_format:json_format": (
        {}, ['{"a": 1}', '```json\n[1]\n```', "```\n{}\n```"], ["5", '"text"', "{a: 1}", '{"a": NaN}', 'So {"a": 1}'],
    ),
    "detectable_format:title": ({}, ["<<a b>>\ntext"], ["<a>", "<<>>", "<< >>", "<<a\nb>>"]),
    "combination:two_responses": (
        {}, ["a\n******\nb", "******a******b******"], ["a", "a******a", "a******b******c", "a************b"],
    ),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Do it. "}, ["do IT. Yes", " Do it."], ["Yes. Do it.", "Do"]),
    "startend:end_checker": ({"end_phrase": "Peace!"}, ["so: peace!", '"Peace!" '], ["Peace! Or not", "peace"]),
    "startend:quotation": ({}, ['"a"', ' "a" b" '], ['"', '"a', "'a'", "“a”"]),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"}, ["IT IS so", "A B"], ["It Is", "ONE 22", "A1 22"],
    ),
    "change_case:english_capital": ({}, [ENGLISH.upper()], [ENGLISH, ENGLISH.upper() + "a", SAMPLES["de"].upper()]),
    "change_case:english_lowercase": ({}, [ENGLISH], [ENGLISH.title(), ENGLISH + " A", SAMPLES["pt"].lower()]),
    "punctuation:no_comma": ({}, ["a; b", "a، b"], ["a, b"]),
}  # fmt: skip
"""Kind -> arguments, texts that follow, and texts that do not."""


def test_every_kind_has_cases():
    assert CASES.keys() == INSTRUCTIONS.keys()


@pytest.mark.parametrize("kind", CASES)
def test_by_hand(kind):
    arguments, fine, wrong = CASES[kind]
    assert {text: follows(kind, text, arguments) for text in fine} == dict.fromkeys(fine, True)
    assert {text: follows(kind, text, arguments) for text in wrong} == dict.fromkeys(wrong, False)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("?!", 0), ("Hello", 1), ("Hello.", 1), ("He said: \"Go.\" Then he went.", 2),
        ("J. K. Rowling wrote it.", 1), ("It is 5 p.m. now. Yes.", 2), ("So do I. You too.", 2), ("Wait... what?", 2),
        ("私は行く。 あなたも。", 2), ("Dr.", 1),
    ],
)  # fmt: skip
def test_sentences(text, count):
    assert sentences(text) == count


@pytest.mark.parametrize("code", SAMPLES)
def test_languages(code):
    assert detected(SAMPLES[code]) == code
    assert detected(ENGLISH.upper()) == "en"


def asked(*kinds):
    return {"instruction_id_list": list(kinds), "kwargs": [CASES[kind][0] for kind in kinds]}


TWO = ("punctuation:no_comma", "detectable_format:title")


def test_all_of_them_count(judge):
    verdicts = {text: judge(IFEvalVerifier(), text, **asked(*TWO)) for text in ("<<a>> b", "<<a>>, b", "a, b")}
    assert [score.value for score in verdicts.values()] == [1, 0, 0]
    assert [score.parts["instructions"] for score in verdicts.values()] == [1, 0.5, 0]
    assert judge(IFEvalVerifier(partial=True), "<<a>>, b", **asked(*TWO)).value == 0.5


def test_loose(judge):
    kinds = ("startend:quotation",)
    introduced = 'Sure, here it is:\n"A quiet town."'
    assert judge(IFEvalVerifier(), introduced, **asked(*kinds)).value == 0
    assert judge(IFEvalVerifier(loose=True), introduced, **asked(*kinds)).value == 1
    assert judge(IFEvalVerifier(loose=True), f"{introduced}\nDo you like it?", **asked(*kinds)).value == 1
    assert judge(IFEvalVerifier(loose=True), '**"A quiet town."**', **asked(*kinds)).value == 1
    assert judge(IFEvalVerifier(loose=True), "A quiet town.", **asked(*kinds)).value == 0
    # What is left of one line is nothing, and nothing follows nothing.
    assert judge(IFEvalVerifier(loose=True), "a, b", **asked("punctuation:no_comma")).value == 0


@pytest.mark.parametrize("text", ["", " \n ", "a" * 100_001])
def test_nothing_or_too_much_is_invalid(judge, text):
    assert judge(IFEvalVerifier(), text, **asked("punctuation:no_comma")).parts == {"invalid": 1.0}


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({}, "not a list of instructions"),
        ({"instruction_id_list": [], "kwargs": []}, "not a list of instructions"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "a mapping for each of the 1"),
        ({"instruction_id_list": ["a:b"], "kwargs": [{}]}, "there is no instruction 'a:b'; known are keywords:"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"n": 1}]}, "cannot take {'n': 1}"),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 3, "relation": "about"}],
            },
            "neither 'at least' nor 'less than'",
        ),
    ],
)
def test_a_task_at_fault_is_an_error_and_no_zero(judge, meta, told):
    with pytest.raises(ValueError, match="task 't'") as raised:
        judge(IFEvalVerifier(), "some text", **meta)
    assert told in str(raised.value)


def test_nulls_of_tables_are_left_out(judge):
    meta = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None, "language": None}]}
    assert judge(IFEvalVerifier(), "fine", **meta).value == 1


def test_without_the_package_that_tells_languages_others_are_judged(judge, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)
    verifier = IFEvalVerifier()
    verifier.prepare()
    assert judge(verifier, "fine", **asked("punctuation:no_comma")).value == 1
    with pytest.raises(ImportError, match="pip install 'hone-rl\\[ifeval\\]'"):
        judge(verifier, "fine", **asked("change_case:english_lowercase"))


ROWS = [  # of the data set (google-research/instruction_following_eval, CC BY 4.0): the instructions alone
    (["punctuation:no_comma", "detectable_format:number_highlighted_sections", "length_constraints:number_words"],
     [{}, {"num_highlights": 3}, {"relation": "at least", "num_words": 300}]),
    (["detectable_content:number_placeholders"], [{"num_placeholders": 12}]),
    (["combination:two_responses", "detectable_format:title"], [{}, {}]),
    (["change_case:english_capital", "detectable_content:postscript", "keywords:frequency"],
     [{}, {"postscript_marker": "P.S."}, {"relation": "at least", "keyword": "sneaker", "frequency": 10}]),
    (["detectable_content:postscript", "detectable_format:number_bullet_lists"],
     [{"postscript_marker": "P.P.S"}, {"num_bullets": 10}]),
    (["language:response_language"], [{"language": "hi"}]),
    (["detectable_format:json_format"], [{}]),
    (["length_constraints:nth_paragraph_first_word"],
     [{"num_paragraphs": 6, "nth_paragraph": 2, "first_word": "president"}]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][0])
def test_made_answers_are_right_and_dull_ones_are_not(judge, row):
    kinds, arguments = row
    meta = {"instruction_id_list": kinds, "kwargs": arguments}
    assert judge(IFEvalVerifier(), made(kinds, arguments), **meta).value == 1
    assert judge(IFEvalVerifier(), "I cannot, sorry. That is all!", **meta).value == 0
    task = Task("t", [], None, json.loads(json.dumps(meta)))
    assert IFEvalVerifier().example(task) is None


def test_what_is_stricter_is_told():
    for kind in ("constrained_response", "json_format", "number_bullet_lists", "number_placeholders", "postscript"):
        assert kind in instructions.STRICTER
