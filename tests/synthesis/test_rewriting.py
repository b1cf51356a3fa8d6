import pytest
from synthesis_parts import task

from hone.synthesis import rewriting
from hone.synthesis.rewriting import GRADING, INSTRUCTION, SLOT, found, grade
from hone.types import Task

PIXELS = object()
PICTURED = Task(
    "p/1",
    [
        {"role": "system", "content": "Think in <think>."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": PIXELS},
                {"type": "text", "text": "<image> How long is AB?"},
                {"type": "image", "image": "b.png"},
            ],
        },
    ],
    "12 cm",
    {"split": "train"},
)


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ("<question>What is *a* ** b?</question>", "What is *a* ** b?"),
        ("Thinking.\n<question>\nFirst paragraph.\n\nSecond: $x_1 * y^2$.\n\n- a\n- b\n</question>\nDone.",
         "First paragraph.\n\nSecond: $x_1 * y^2$.\n\n- a\n- b"),
        ("<question>draft</question> no, better: <question>final</question>", "final"),
        ("<question>a <question>b</question>", "b"),
        ("<question><image>\nWhat now?</question>", "What now?"),
        ("<question>is 1 < 2 and 3 > 2?</question>", "is 1 < 2 and 3 > 2?"),
    ],
)  # fmt: skip
def test_the_question_of_a_reply_is_whole(reply, question):
    assert found(reply) == question


@pytest.mark.parametrize(
    "reply",
    ["", "What is 3?", "<question>cut off", "<question></question>", "<question> \n </question>", "</question>"],
)
def test_a_reply_without_a_whole_question_has_none(reply):
    assert found(reply) is None


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Deep.\nScore: 8", 8.0),
        ("score = **7.5** / 10", 7.5),
        ("First Score: 3, then\nScore: 10", 10.0),
        ("Score: 8/10", 8.0),
        ("Score: 11", None),
        ("good", None),
        ("8", None),
    ],
)
def test_grades(reply, score):
    assert grade(reply) == score


def test_text_questions():
    seed = task("What is 2 + 3?", answer="5", nums=[2, 3])
    assert rewriting.question(seed) == "What is 2 + 3?"
    assert not rewriting.has_images(seed)
    new = rewriting.rewritten(seed, "What is 1 + 1 + 3?", "new")
    assert new == Task("new", [{"role": "user", "content": "What is 1 + 1 + 3?"}], "5", {"nums": [2, 3]})
    assert seed.prompt[-1]["content"] == "What is 2 + 3?"


def test_images_system_message_answer_and_meta_stay_the_very_same():
    assert rewriting.question(PICTURED) == "How long is AB?"
    assert rewriting.has_images(PICTURED)
    new = rewriting.rewritten(PICTURED, "AB is half of CD. How long is CD?", "new")
    assert new.prompt[0] is PICTURED.prompt[0]
    image, text, last = new.prompt[1]["content"]
    assert image["image"] is PIXELS
    assert last["image"] == "b.png"
    assert text == {"type": "text", "text": "<image> AB is half of CD. How long is CD?"}
    assert (new.answer, new.meta) == (PICTURED.answer, PICTURED.meta)


def test_several_texts_become_one_and_a_picture_alone_gets_its_first():
    content = [{"type": "text", "text": "Given"}, {"type": "image", "image": 1}, {"type": "text", "text": "find x"}]
    mixed = Task("m", [{"role": "user", "content": content}])
    assert rewriting.question(mixed) == "Given\nfind x"
    assert rewriting.rewritten(mixed, "new", "n").prompt[0]["content"] == [{"type": "text", "text": "new"}, content[1]]
    bare = Task("b", [{"role": "user", "content": [content[1]]}])
    assert rewriting.question(bare) == ""
    assert rewriting.rewritten(bare, "new", "n").prompt[0]["content"] == [content[1], {"type": "text", "text": "new"}]


def test_without_images_there_is_text_alone():
    blind = rewriting.without_images(PICTURED, "blind")
    assert [m["content"] for m in blind.prompt] == ["Think in <think>.", "How long is AB?"]
    assert not rewriting.has_images(blind)
    assert (blind.answer, blind.meta) == (PICTURED.answer, PICTURED.meta)


def test_a_request_holds_instruction_question_and_images_and_no_system_message():
    [message] = rewriting.request(PICTURED, f"Rewrite: {SLOT}", "with {braces} 100%")
    assert message["role"] == "user"
    assert message["content"][0]["image"] is PIXELS
    assert message["content"][1]["text"] == "Rewrite: with {braces} 100%"


def test_a_request_shows_earlier_turns():
    chat = [{"role": "user", "content": "x = 3"}, {"role": "assistant", "content": "Yes."}]
    seed = Task("t", [{"role": "system", "content": "s"}, *chat, {"role": "user", "content": "2x?"}], "6")
    assert rewriting.request(seed, SLOT, "2x?") == [*chat, {"role": "user", "content": "2x?"}]


@pytest.mark.parametrize("told", [INSTRUCTION, GRADING])
@pytest.mark.parametrize("answer", ["9374", "Kestrel-6", "3/8192", "$1,234.50"])
def test_no_request_shows_the_answer_in_any_form(told, answer):
    seed = task("How many birds?", answer=answer, entry={"answer": answer}, solution=f"it is {answer}")
    text = str(rewriting.request(seed, told, rewriting.question(seed)))
    forms = {answer, answer.lower(), answer.replace(",", ""), answer.strip("$"), answer.replace(" ", "")}
    assert not [form for form in forms if form in text or form in text.lower()]


def test_places_of_images():
    assert rewriting.places("<image> and <image> and <video>") == 3
    assert rewriting.places("a < image > b") == 0
