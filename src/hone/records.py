"""Groups as plain data, for a checkpoint, and back. Tasks are not kept: their source gives the same ones again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hone.types import Group, Segment, Task, Trajectory


def plain(groups: Sequence[Group], tasks: Sequence[Task]) -> dict[str, Any]:
    """Groups without their tasks; a segment that several trajectories hold stands once.

    Args:
        groups: As they were played.
        tasks: That they were played from, one each. A trajectory of another task has it beside it.
    """
    places: dict[int, int] = {}
    segments: list[dict[str, Any]] = []

    def place(segment: Segment) -> int:
        if id(segment) not in places:
            places[id(segment)] = len(segments)
            segments.append(_values(segment))
        return places[id(segment)]

    def of(task: Task, given: Task) -> dict[str, Any] | None:
        return None if task is given else _values(task)

    def trajectory(played: Trajectory, given: Task) -> dict[str, Any]:
        return _values(played) | {"task": of(played.task, given), "segments": [place(s) for s in played.segments]}

    made = [
        {
            "task": of(group.task, task),
            "trajectories": [trajectory(t, task) for t in group],
            "aside": [trajectory(t, task) for t in group.aside],
            "metrics": dict(group.metrics),
        }
        for group, task in zip(groups, tasks, strict=True)
    ]
    return {"segments": segments, "groups": made}


def restored(data: dict[str, Any], tasks: Sequence[Task]) -> list[Group]:
    """The groups of which :func:`plain` made ``data``, of the same tasks."""
    segments = [Segment(**held) for held in data["segments"]]

    def of(held: dict[str, Any] | None, given: Task) -> Task:
        return given if held is None else Task(**held)

    def trajectory(held: dict[str, Any], given: Task) -> Trajectory:
        steps = [segments[place] for place in held["segments"]]
        return Trajectory(**held | {"task": of(held["task"], given), "segments": steps})

    return [
        Group(
            of(held["task"], task),
            [trajectory(t, task) for t in held["trajectories"]],
            [trajectory(t, task) for t in held["aside"]],
            dict(held["metrics"]),
        )
        for held, task in zip(data["groups"], tasks, strict=True)
    ]


def _values(record: Segment | Trajectory | Task) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
