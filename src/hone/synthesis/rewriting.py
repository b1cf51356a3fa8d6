"""A question and its rewrites: what a writer and a judge read, what of their replies counts, and the task it makes.

None of it reads a task's answer: who rewrites a question does not know it, so that the rewrite is not built around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hone.types import Message, Task

SLOT = "{question}"
"""Where the question stands in an instruction."""

INSTRUCTION = f"""Rewrite the question below so that it becomes harder.

- Solving it must take more steps of reasoning than before: let what is given now have to be found out first.
- Its final answer must stay exactly what it is now, in the same form and unit.
- It must be complete, have one answer only, and neither state that answer nor hint at it.
- If there is an image, it stays as it is, and must still be needed.
- What it says about the form in which to answer stays as it is.

The question:

{SLOT}

You may think first. Then give the new question, all of it, between <question> and </question>."""
"""What the writer is told, unless a setting says otherwise."""

GRADING = f"""Grade the question below as an exercise in reasoning.

- 0 to 5 points for how much reasoning it takes: how many steps, and how they depend on each other.
- 0 to 3 points for whether that reasoning is about the matter, and not about long or odd wording.
- 0 to 2 points for whether it is clear and complete, and, where there is an image, needs it.

The question:

{SLOT}

Give your reasons briefly. End with one line: Score: <the sum, 0 to 10>"""
"""What the judge is told."""

_FOUND = re.compile(r"<question>((?:(?!<question>).)*?)</question>", re.DOTALL)
_SCORE = re.compile(r"score\W{0,6}?(\d+(?:\.\d+)?)", re.IGNORECASE)
_IMAGE = re.compile(r"<(?:image|video)>")
_LEADING = re.compile(r"(?:\s*<(?:image|video)>)*\s*")


def question(task: Task) -> str:
    """The text of the task's last message, without the places of images at its beginning."""
    text = _text(task.prompt[-1]["content"])
    return text[_LEADING.match(text).end() :]


def rewritten(task: Task, text: str, name: str) -> Task:
    """The task with another text in its last message and another id; all else, images included, is the very same."""
    *before, last = task.prompt
    old = _text(last["content"])
    whole = old[: _LEADING.match(old).end()] + text
    return replace(task, id=name, prompt=[*before, {**last, "content": _with_text(last["content"], whole)}])


def without_images(task: Task, name: str) -> Task:
    """The task as text alone."""
    messages = [{**m, "content": _IMAGE.sub("", _text(m["content"])).strip()} for m in task.prompt]
    return replace(task, id=name, prompt=messages)


def has_images(task: Task) -> bool:
    """Whether anything but text is in the prompt."""
    return any(part.get("type") != "text" for m in task.prompt for part in _parts(m["content"]))


def places(text: str) -> int:
    """How many places of images there are in a text."""
    return len(_IMAGE.findall(text))


def request(task: Task, instruction: str, text: str) -> list[Message]:
    """What a writer or a judge reads: the instruction, with the text in its slot, and the task's images.

    Earlier turns come before it; the system message does not, for it tells how to solve and not how to write.
    """
    *before, last = task.prompt
    told = instruction.replace(SLOT, text)
    earlier = [message for message in before if message["role"] != "system"]
    return [*earlier, {"role": "user", "content": _with_text(last["content"], told)}]


def found(reply: str) -> str | None:
    """The new question in a reply: all that is between the last pair of tags; None if there is no whole one.

    A reply that was cut off has no closing tag, so that half a question is none.
    """
    tagged = _FOUND.findall(reply)
    text = tagged[-1].strip() if tagged else ""
    return text[_LEADING.match(text).end() :] or None


def grade(reply: str) -> float | None:
    """The judge's score, 0 to 10; None if the reply ends in none."""
    scores = _SCORE.findall(reply)
    return float(scores[-1]) if scores and float(scores[-1]) <= 10 else None


def _parts(content: Any) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(content: Any) -> str:
    return "\n".join(part["text"] for part in _parts(content) if part.get("type") == "text")


def _with_text(content: Any, text: str) -> Any:
    """The content with this text where its first text was, or at its end, and its other parts as they are."""
    if isinstance(content, str):
        return text
    first = next((i for i, part in enumerate(content) if part.get("type") == "text"), len(content))
    new = [{"type": "text", "text": text}]
    kept = [[part for part in side if part.get("type") != "text"] for side in (content[:first], content[first:])]
    return [*kept[0], *new, *kept[1]]
