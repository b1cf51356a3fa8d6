"""Further turns of a chat: what was sampled stays as it is, and the template's own tokens stand around it."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.policies.chat import ChatRenderer
from hone.types import Segment

QUESTION = [{"role": "user", "content": "2+2?"}]
AGAIN = [{"role": "user", "content": "That is wrong."}]


@pytest.fixture
def renderer(tiny_tokenizer):
    return ChatRenderer(copy.deepcopy(tiny_tokenizer))


def whole(renderer, *messages):
    """The chat as the template itself writes it."""
    text = renderer.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return tuple(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])


@settings(max_examples=50, deadline=None)
@given(reply=st.text(max_size=20), ended=st.booleans())
def test_two_turns_are_the_tokens_of_the_whole_chat(tiny_tokenizer, reply, ended):
    renderer = ChatRenderer(tiny_tokenizer)
    prompt = renderer.prompt(QUESTION)
    sampled = renderer.reply(reply).actions + ((256,) if ended else ())  # "<|end|>", or cut off
    attempt = Segment("attempt", "policy", sampled)
    turn = renderer.turn(AGAIN, [prompt, attempt])
    expected = whole(renderer, *QUESTION, {"role": "assistant", "content": reply}, *AGAIN)
    assert prompt.actions + attempt.actions + turn.actions == expected
    assert (turn.source, turn.train, turn.logprobs) == ("given", False, ())


def test_an_empty_segment_at_the_end_does_not_hide_the_end_of_the_reply(renderer):
    attempt, nothing = Segment("attempt", "policy", (65, 256)), Segment("attempt", "forced", ())
    assert renderer.turn(AGAIN, [attempt, nothing]).actions == renderer.turn(AGAIN, [attempt]).actions
    assert renderer.turn(AGAIN, [Segment("attempt", "policy", (65,))]).actions[0] == 256
    assert renderer.turn(AGAIN, [attempt]).actions[0] != 256


def test_a_template_that_edits_earlier_replies_does_not_edit_what_was_sampled(renderer):
    """Reasoning models' templates cut the reasoning out of earlier replies; ours were sampled with it."""
    renderer.tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %}"
        "<|end|>{% endfor %}<|assistant|>"
    )
    prompt = renderer.prompt(QUESTION)
    attempt = renderer.reply("<think>hm</think> 4 ")
    turn = renderer.turn(AGAIN, [prompt, attempt])
    text = renderer.tokenizer.decode(prompt.actions + attempt.actions + turn.actions)
    assert (
        text == "<|user|>2+2?<|end|><|assistant|><think>hm</think> 4 <|end|><|user|>That is wrong.<|end|><|assistant|>"
    )


def test_a_template_for_one_turn_is_refused(renderer):
    renderer.tokenizer.chat_template = "<|user|>{{ messages[-1].content }}<|end|><|assistant|>"
    with pytest.raises(ValueError, match="earlier replies out"):
        renderer.turn(AGAIN, [])


def test_without_a_template_turns_are_a_blank_line_apart(renderer):
    renderer.tokenizer.chat_template = None
    attempt = renderer.reply("5")
    turn = renderer.turn(AGAIN, [attempt])
    assert renderer.tokenizer.decode(attempt.actions + turn.actions) == "5\n\nThat is wrong.\n\n"
