"""Groups to rows to micro-batches.

What trajectories of a group begin with alike stands in a row once, however often they part (a prefix tree); nothing
behind a trajectory's last trained step is there at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hone.dealing import dealt
from hone.seats import Policy
from hone.types import Batch, Branch, Group, Row, Segment

KNEE = 4096
"""Steps of a row at which its attention, masked pairs included, costs as much as its matrix products. That is about
6 x width for a transformer; this is the number of models between 0.1B and 1B, and the choice is flat around it."""


def rows(groups: Sequence[Group], *, shares_context: bool, packs: bool = False, tokens: int) -> list[Row]:
    """Lay the trained trajectories of an update out in rows.

    Args:
        groups: Of one update; the position of a group and of a trajectory (counted through) become their ids.
        shares_context: Whether a row may hold more than one trajectory of a group.
        packs: Whether it may hold several groups, at no other cost than that of their steps.
        tokens: Most steps of a row that holds more than one trajectory.

    Raises:
        ValueError: If the first step of a trajectory is to be trained: nothing precedes it.
    """
    return _laid(_forest(groups, shares_context=shares_context, packs=packs, tokens=tokens), packs, tokens)


def repeated(groups: Sequence[Group], policy: Policy, tokens: int) -> tuple[float, int]:
    """How many steps are computed for each that there is, since groups that are too long are split; and the limit for
    a row at which none is.
    """  # fmt: skip
    ways = {"shares_context": policy.shares_context, "packs": policy.packs}
    split, whole = (_forest(groups, **ways, tokens=most) for most in (tokens, sys.maxsize))
    of_split, of_whole = ([_steps(tree) for tree in trees] for trees in (split, whole))
    return sum(of_split) / max(1, sum(of_whole)), max(of_whole, default=0)


def _laid(trees: Sequence[list[Branch]], packs: bool, tokens: int) -> list[Row]:
    return _packed(trees, tokens) if packs else [Row(tree) for tree in trees]


def _forest(groups: Sequence[Group], *, shares_context: bool, packs: bool, tokens: int) -> list[list[Branch]]:
    """The prefix trees of all groups, each of at most so many steps where it holds more than one trajectory."""
    trees: list[list[Branch]] = []
    first = 0
    for number, group in enumerate(groups):
        members = [
            Branch(_until_last_trained(t.segments), -1, first + i, number, t.advantage or 0.0)
            for i, t in enumerate(group)
            if t.trained and t.reward is not None
        ]
        first += len(group)
        if any(member.segments[0].train for member in members):
            raise ValueError(f"task {group.task.id!r}: the first step of a trajectory cannot be trained")
        if shares_context:
            trees += _trees(members, tokens, masked=not packs)
        else:
            trees += [[member] for member in members]
    return trees


def _until_last_trained(segments: Sequence[Segment]) -> list[Segment]:
    """All but empty segments, up to the last trained one."""
    kept = [segment for segment in segments if len(segment)]
    while not kept[-1].train:
        kept.pop()
    return kept


def _trees(members: Sequence[Branch], tokens: int, *, masked: bool) -> list[list[Branch]]:
    """The prefix trees of a group: one, or those of its halves where that is too long, or costs more."""
    whole = _tree(members)
    if len(members) < 2:
        return [whole] if members else []
    half = len(members) // 2
    halves = _tree(members[:half]), _tree(members[half:])
    if _steps(whole) <= tokens and not (masked and sum(map(_cost, halves)) < _cost(whole)):
        return [whole]
    return [tree for part in (members[:half], members[half:]) for tree in _trees(part, tokens, masked=masked)]


def _cost(tree: Sequence[Branch]) -> float:
    """Of a row of its own whose attention goes over all pairs, also those that a mask then drops."""
    return _steps(tree) * (1 + _steps(tree) / KNEE)


def _steps(tree: Sequence[Branch]) -> int:
    return sum(map(len, tree))


def _tree(members: Sequence[Branch]) -> list[Branch]:
    """Trajectories as branches of what they have in common; those that part no further come last."""
    tree: list[Branch] = []

    def grow(members: Sequence[Branch], at: int, parent: int) -> None:
        if len(members) == 1:
            [own] = members
            tree.append(Branch(own.segments[at:], parent, own.trajectory, own.group, own.advantage))
            return
        shared = _shared(members, at)
        if shared > at:
            tree.append(Branch(members[0].segments[at:shared], parent, group=members[0].group))
            parent = len(tree) - 1
        for alike in sorted(_parted(members, shared), key=len, reverse=True):
            grow(alike, shared, parent)

    if members:
        grow(members, 0, -1)
    return tree


def _shared(members: Sequence[Branch], at: int) -> int:
    """Up to which segment all go on alike, untrained. They all end in a trained one, so none of them ends there."""
    first = members[0].segments
    while not first[at].train and all(_same(first[at], other.segments[at]) for other in members[1:]):
        at += 1
    return at


def _parted(members: Sequence[Branch], at: int) -> list[list[Branch]]:
    """The members by the segment with which they go on; a trained one is nobody else's."""
    parts: list[list[Branch]] = []
    for member in members:
        own = member.segments[at]
        known = next((p for p in parts if not own.train and _same(p[0].segments[at], own)), None)
        if known is None:
            parts.append([member])
        else:
            known.append(member)
    return parts


def _same(one: Segment, other: Segment) -> bool:
    return one is other or one == other


def _packed(trees: Sequence[list[Branch]], tokens: int) -> list[Row]:
    """Trees in as few rows as it takes, the longest first, each where there is room."""
    laid: list[Row] = []
    for tree in sorted(trees, key=_steps, reverse=True):
        row = next((row for row in laid if len(row) + _steps(tree) <= tokens), None)
        if row is None:
            laid.append(row := Row([]))
        start = len(row.branches)
        for branch in tree:
            branch.parent += start if branch.parent >= 0 else 0
            row.branches.append(branch)
    return laid


def micro_batches(laid: Sequence[Row], tokens: int, *, packs: bool = False) -> list[list[Row]]:
    """Put rows of similar length together, at most ``tokens`` steps with padding, but always one row.

    Args:
        laid: By :func:`rows`.
        tokens: Most steps of a micro-batch.
        packs: Whether rows are packed as they are; then each is a micro-batch.
    """
    if packs:
        return [[row] for row in laid]
    batches: list[list[Row]] = []
    for row in sorted(laid, key=len, reverse=True):
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def batches(groups: Sequence[Group], policy: Policy, *, tokens: int, temperature: float) -> list[Batch]:
    """The micro-batches of groups, laid out as the policy can take them, of at most ``tokens`` steps."""
    return share(groups, policy, tokens=tokens, temperature=temperature, hand=0, hands=1)


def share(
    groups: Sequence[Group], policy: Policy, *, tokens: int, temperature: float, hand: int, hands: int
) -> list[Batch]:
    """The part of :func:`batches` that one of several processes computes: as many micro-batches as any other.

    Trees go to the process with the fewest steps so far, the longest first; ids stay those of the whole. Who has fewer
    micro-batches than another gets idle ones, of two steps outside the mask, so that all meet in the same places.

    Args:
        groups: Of the whole update, the same in every process.
        policy: Says how rows may be laid out.
        tokens: Most steps of a micro-batch.
        temperature: Of sampling.
        hand: The place of this process.
        hands: The number of processes.
    """
    ways = {"shares_context": policy.shares_context, "packs": policy.packs}
    trees = _forest(groups, **ways, tokens=tokens)
    even = -(-sum(map(_steps, trees)) // hands)
    if any(_steps(tree) > even for tree in trees):
        trees = _forest(groups, **ways, tokens=min(tokens, even))
    found = []
    for own in dealt([_steps(tree) for tree in trees], hands):
        laid = _laid([trees[place] for place in sorted(own)], policy.packs, tokens)
        found.append(micro_batches(laid, tokens, packs=policy.packs))
    made = [batch(some, policy.encode, temperature=temperature) for some in found[hand]]
    made += [_idle(trees, policy, temperature) for _ in range(max(map(len, found)) - len(made))]
    if any(trajectory.version != policy.version for group in groups for trajectory in group):
        for one in made:
            one.sampled_entropies = None
    return made


def _idle(trees: Sequence[list[Branch]], policy: Policy, temperature: float) -> Batch:
    """Two steps outside the mask, with all that an objective may read."""
    known = next(segment for branch in trees[0] for segment in branch.segments if segment.train)
    step = {name: getattr(known, name)[:1] for name in ("actions", "logprobs", "entropies", "reference_logprobs")}
    row = Row([Branch([Segment("before", "given", step["actions"]), replace(known, **step)])])
    made = batch([row], policy.encode, temperature=temperature)
    nobody = torch.full_like(made.trajectory, -1)
    return replace(made, mask=torch.zeros_like(made.mask), trajectory=nobody, group=nobody)


def batch(laid: Sequence[Row], encode: Callable[[Sequence[Row]], Mapping[str, Any]], *, temperature: float) -> Batch:
    """One micro-batch: the policy's inputs, and beside them the per-step tensors that objectives read."""
    inputs = encode(laid)
    width = max(map(len, laid))
    device = next(value.device for value in inputs.values() if isinstance(value, Tensor))
    fields = {
        name: torch.zeros(len(laid), width) for name in ("mask", "advantages", "sampled", "entropies", "reference")
    }
    ids = {name: torch.full((len(laid), width), -1) for name in ("trajectory", "group")}
    has_reference, has_entropies = False, True
    for b, row in enumerate(laid):
        for at, segment, branch in _trained(row):
            steps = slice(at, at + len(segment))
            fields["mask"][b, steps] = 1
            fields["advantages"][b, steps] = branch.advantage
            fields["sampled"][b, steps] = _per_step(segment, segment.logprobs)
            ids["trajectory"][b, steps] = branch.trajectory
            ids["group"][b, steps] = branch.group
            fields["reference"][b, steps] = _per_step(segment, segment.reference_logprobs)
            has_reference |= bool(segment.reference_logprobs)
            fields["entropies"][b, steps] = _per_step(segment, segment.entropies)
            has_entropies &= bool(segment.entropies)
    fields = {name: value.to(device) for name, value in fields.items()}
    ids = {name: value.to(device) for name, value in ids.items()}
    return Batch(
        inputs=inputs,
        mask=fields["mask"].bool(),
        advantages=fields["advantages"],
        sampled_logprobs=fields["sampled"],
        trajectory=ids["trajectory"],
        group=ids["group"],
        temperature=temperature,
        sampled_entropies=fields["entropies"] if has_entropies else None,
        reference_logprobs=fields["reference"] if has_reference else None,
    )


def _per_step(segment: Segment, values: Sequence[float]) -> Tensor:
    """The values; where a segment has none, NaN, so that whatever reads them cannot go wrong in silence."""
    if values and len(values) != len(segment):
        raise ValueError(
            f"segment {segment.name!r} has {len(segment)} steps but {len(values)} log-probabilities or entropies"
        )
    return torch.tensor(values or [torch.nan] * len(segment))


def _trained(row: Row) -> Iterator[tuple[int, Segment, Branch]]:
    """Where in the row each trained segment starts, and the branch that it belongs to."""
    at = 0
    for branch in row.branches:
        for segment in branch.segments:
            if segment.train:
                yield at, segment, branch
            at += len(segment)


def spread(values: Tensor, made: Batch) -> dict[int, list[float]]:
    """Undo :func:`batch` for a ``[B, T]`` tensor: each trajectory's values at its trained steps, in order."""
    values, owners = values[made.mask].tolist(), made.trajectory[made.mask].tolist()
    found: dict[int, list[float]] = {}
    for value, owner in zip(values, owners, strict=True):
        found.setdefault(owner, []).append(value)
    return found
