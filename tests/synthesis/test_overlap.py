import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.synthesis.overlap import SIZE, Questions, similar, tokens

WORDS = [f"word{chr(97 + i)}" for i in range(26)]
LONG = " ".join(WORDS[:20])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "what is 3+4"),
        ("It costs $1,234.50.", "it costs $1234.50"),
        ("ﬁve  “cats”\n\n'sat'", "five cats sat"),
        ("x² … ¼", "x2 1⁄4"),
    ],
)
def test_equal_questions(one, other):
    assert tokens(one) == tokens(other)
    assert one in Questions([other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 4", "3 - 4"),
        ("5!", "5"),
        ("3, 4", "34"),
        ("1,23", "123"),
        ("1.5", "15"),
        ("$x_1$", "$x^1$"),
        ("a * b", "a b"),
    ],
)
def test_what_changes_the_meaning_counts(one, other):
    assert tokens(one) != tokens(other)
    assert one not in Questions([other])


def test_similar_needs_the_same_numbers_and_nine_tenths_of_the_words():
    base = "the farmer sells 12 eggs and then buys 7 hens at the old market"  # 13 tokens, and no two alike but "the"
    assert similar(base, f"{base} today")  # 13 of 14
    assert not similar(base, f"{base} today again")  # 13 of 15
    assert not similar(base, base.replace("7", "8"))
    assert similar(base, "at the old market the farmer sells 7 eggs and then buys 12 hens")
    assert similar("", " ?")
    assert not similar("", "a")


@given(st.text(max_size=40), st.text(max_size=40))
def test_similar_is_symmetric_and_reflexive_and_the_index_agrees(one, other):
    assert similar(one, one)
    assert similar(one, other) == similar(other, one)
    assert (Questions([other]).similar(one) is not None) == similar(one, other)


def test_the_index_gives_the_question_that_it_found():
    questions = Questions(["How many of 3 cats?", "How many of 4 cats?", LONG])
    assert len(questions) == 3
    assert questions.similar("how many of 4 cats") == "How many of 4 cats?"
    assert questions.similar("how many of 5 cats") is None


def test_thirteen_tokens_in_a_row_overlap_and_twelve_do_not():
    held = Questions([LONG])
    assert held.overlapping("new start " + " ".join(WORDS[3 : 3 + SIZE]) + " new end") == LONG
    assert held.overlapping("new start " + " ".join(WORDS[3 : 2 + SIZE]) + " new end") is None
    assert held.overlapping(" ".join(reversed(WORDS[:20]))) is None


def test_what_the_seed_holds_too_says_nothing():
    template = " ".join(WORDS[:15])
    held = Questions([f"{template} 12 then 30 or 7 in all"])
    assert held.overlapping(f"{template} 12 then 31") is not None
    assert held.overlapping(f"{template} 12 then 31", apart_from=f"{template} 5 then 6") is None
    shares = f"{template} 12 then 30 or"  # of a run that ends there, 4 tokens are not in the seed
    assert held.overlapping(shares, apart_from=f"{template} 5 6") is None
    assert held.overlapping(f"{shares} 7", apart_from=f"{template} 5 6") is not None


def test_numbers_in_a_template_are_no_leak():
    """Of thousands of questions of one form, many begin with the same number."""
    template = "State the final answer to the following arithmetic problem, without any explanation of your own:"
    held = Questions(f"{template} {a} + {b} =" for a in range(30) for b in range(30))
    assert held.overlapping(f"{template} 6 + 2 + 5 =", apart_from=f"{template} 8 + 5 =") is None
    assert held.similar(f"{template} 6 + 7 =") is not None


def test_adding_twice_is_adding_once():
    questions = Questions(["a b", "A  B?"])
    assert len(questions) == 1
