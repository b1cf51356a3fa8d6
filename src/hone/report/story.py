"""What a run did, told in a few lines of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hone.report.run import Evaluation, Run


def story(run: Run, samples: int = 2) -> str:
    """The summary, sample answers before and after, and where everything lies.

    Args:
        run: Finished, or interrupted.
        samples: Answers shown for each evaluation; those that became right come first.
    """
    lines = [run.summary()]
    for name, found in run.evaluations.items():
        lines += _samples(name, found["first"], found["last"], samples)
    picture = run.plot() if len(run.metrics) > 1 else None
    lines += ["", f"run folder: {run.folder}", *([f"curves:     {picture}"] if picture else [])]
    return "\n".join(lines)


def _samples(name: str, first: Evaluation, last: Evaluation, count: int) -> list[str]:
    if first.step == last.step:
        return []
    pairs = list(zip(first.rollouts, last.rollouts, strict=False))
    pairs.sort(key=lambda pair: (pair[0]["reward"] or 0) - (pair[1]["reward"] or 0))
    lines = []
    for before, after in pairs[:count]:
        lines += [
            "",
            f"{name}: {_question(before)!r} (answer: {_brief(str(before['answer']))!r})",
            f"  before: {_response(before)!r} -> {_verdict(before)}",
            f"  after:  {_response(after)!r} -> {_verdict(after)}",
        ]
    return lines


def _response(row: Mapping[str, Any]) -> str:
    return _brief("".join(part["text"] for part in row["segments"] if part["source"] != "given").strip())


def _verdict(row: Mapping[str, Any]) -> str:
    return f"{row['reward']:.4g}" if row["reward"] is not None else "not judged"


def _question(row: Mapping[str, Any]) -> str:
    text = next((part["text"] for part in row["segments"] if part["source"] == "given"), "")
    text = " ".join(re.sub(r"<\|[^|]*\|>", " ", text).split())  # without the marks of common chat templates
    return text if len(text) <= 160 else f"... {text[-160:]}"


def _brief(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-200:]}"
