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

    def decode(self, actions: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(list(actions), skip_special_tokens=True)
