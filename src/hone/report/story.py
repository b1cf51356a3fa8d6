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
        samples: Answers shown for each evaluation: those whose reward rose most.
    """
    lines = [run.summary()]
    for name, found in run.evaluations.items():
        lines += _samples(name, found["first"], found["last"], samples)
    picture = run.plot() if len(run.metrics) > 1 else None
    lines += ["", f"run folder: {run.folder}", *([f"curves:     {picture}"] if picture else [])]
    if run.best:
        lines.append(f"best:       {run.folder / 'checkpoints' / 'best'} ({run.best.name})")
    return "\n".join(lines)


def _samples(name: str, first: Evaluation, last: Evaluation, count: int) -> list[str]:
    if first.step == last.step:
        return []
    pairs = [
        (before, after)
        for before, after in zip(_answers(first), _answers(last), strict=False)
        if before["reward"] is not None and after["reward"] is not None
    ]
    gains = [after["reward"] - before["reward"] for before, after in pairs]
    best = sorted(range(len(pairs)), key=lambda i: -gains[i])[:count]
    if not best:
        return []
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    which = "with the largest gain, not typical ones" if better else "of them"
    lines = [
        "",
        f"{name}: of {len(pairs)} judged answers {better} got better and {worse} worse; {len(best)} {which}:",
    ]
    for before, after in (pairs[i] for i in best):
        lines += [
            f"  {_question(before)!r} (answer: {_brief(str(before['answer']))!r})",
            f"    before: {_response(before)!r} -> {before['reward']:.4g}",
            f"    after:  {_response(after)!r} -> {after['reward']:.4g}",
        ]
    return lines


def _answers(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Without what was played aside."""
    return [row for row in evaluation.rollouts if row.get("sibling", 0) is not None]


def _response(row: Mapping[str, Any]) -> str:
    return _brief("".join(part["text"] for part in row["segments"] if part["source"] != "given").strip())


def _question(row: Mapping[str, Any]) -> str:
    text = row.get("question")
    if text is None:  # a run of an earlier version: the prompt, without the marks of common chat templates
        text = next((part["text"] for part in row["segments"] if part["source"] == "given"), "")
        text = re.sub(r"<\|[^|]*\|>", " ", text)
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"... {text[-160:]}"


def _brief(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-200:]}"
