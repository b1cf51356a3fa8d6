"""Trajectories as rows of a file: the one format of ``rollouts.jsonl`` and of the evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hone.synthesis.rewriting import question
from hone.types import Group, Trajectory


def rows(step: int, groups: Sequence[Group], kept: Sequence[bool]) -> Iterator[dict[str, Any]]:
    """One row for each trajectory, in the order of play. The prompt, as it was read, is in the segments.

    With ``question``, ``answer``, ``meta`` and the segments' texts, a verifier can judge a row anew (``hone score``);
    ``verdict`` is what the verifier said, ``reward`` what environment and shapers made of it, ``extracted`` the final
    answer that the verifier read.

    What was played aside, to judge the group, follows behind it, with null for its ``sibling``.
    """
    for index, (group, trained) in enumerate(zip(groups, kept, strict=True)):
        for sibling, trajectory in enumerate(group):
            place = {"step": step, "task": trajectory.task.id, "group": index, "sibling": sibling, "kept": trained}
            yield place | _outcome(trajectory)
        for trajectory in group.aside:
            place = {"step": step, "task": trajectory.task.id, "group": index, "sibling": None, "kept": False}
            yield place | _outcome(trajectory)


def _outcome(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "agent": trajectory.agent,
        "reward": trajectory.reward,
        "verdict": trajectory.verdict,
        "extracted": trajectory.answer,
        "parts": trajectory.scores,
        "advantage": trajectory.advantage,
        "stop": trajectory.stop,
        "version": trajectory.version,
        "error": trajectory.error,
        "segments": [
            {"name": s.name, "source": s.source, "train": s.train, "text": s.text, "tokens": len(s)}
            for s in trajectory.segments
        ],
        "question": question(trajectory.task) if trajectory.task.prompt else "",
        "answer": trajectory.task.answer,
        "meta": trajectory.task.meta,
    }
