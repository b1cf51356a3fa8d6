"""Chat messages to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hone.types import Message, Segment


class ChatRenderer:
    """Renders with a tokenizer's own chat template; a tokenizer without one gets the bare texts, a blank line apart.

    Attributes:
        tokenizer: From transformers.
        stop_tokens: Ids that end a response: the tokenizer's and the generation configuration's.
    """

    def __init__(self, tokenizer: Any, stop_tokens: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop_tokens = frozenset(stop_tokens) | ({tokenizer.eos_token_id} - {None})

    def prompt(self, messages: Sequence[Message]) -> Segment:
        """The segment that a response to ``messages`` continues."""
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        actions = self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]
        return Segment("prompt", "given", tuple(actions), text=text)

    def turn(self, messages: Sequence[Message], after: Sequence[Segment]) -> Segment:
        """The steps between the reply with which ``after`` ends and the next: its end, and the messages."""
        text = self._past_reply(messages)
        actions = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        last = next((segment.actions[-1] for segment in reversed(after) if segment.actions), None)
        if last in self.stop_tokens and actions[:1] == [last]:
            actions = actions[1:]  # the reply has closed itself
        return Segment("turn", "given", tuple(actions), text=text)

    def reply(self, text: str) -> Segment:
        """The steps of a reply that was written elsewhere, without its end."""
        return Segment("reply", "given", tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]), text=text)

    def decode(self, actions: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(list(actions), skip_special_tokens=True)

    def _past_reply(self, messages: Sequence[Message]) -> str:
        """What the template writes behind a reply.

        The template is filled with a chat whose reply is a mark, and what it writes behind the mark is the answer:
        templates may change or drop what was said before (Qwen3 drops earlier reasoning), and none of that is read.
        """
        if not self.tokenizer.chat_template:
            return "".join(f"\n\n{message['content']}" for message in messages) + "\n\n"
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}, *messages]
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        _, mark, behind = text.partition(_MARK)
        if not mark:
            raise ValueError(
                "the chat template leaves the assistant's earlier replies out; it cannot hold several turns"
            )
        return behind


_MARK = "\u2402reply\u2403"
