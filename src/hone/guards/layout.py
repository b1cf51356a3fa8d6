"""Whether a batch trains exactly the steps that are to be trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hone import collate
from hone.guards.finding import Finding
from hone.types import Batch, Group


def layout(groups: Sequence[Group], batches: Sequence[Batch]) -> Finding | None:
    """Count the masked steps of every trajectory, and hold their log-probabilities against those of its segments.

    Args:
        groups: An update's.
        batches: What became of them.
    """
    trajectories = [t for group in groups for t in group]
    wanted = {i: t.trained for i, t in enumerate(trajectories) if t.trained and t.reward is not None}
    found = Counter(owner for batch in batches for owner in batch.trajectory[batch.mask].tolist())
    strays = found.pop(-1, 0)
    wrong = [i for i in wanted.keys() | found.keys() if wanted.get(i, 0) != found.get(i, 0)]
    if strays or wrong:
        what = f"{strays} masked steps belong to no trajectory" if strays else ""
        if wrong:
            i = min(wrong)
            what += ("; " if what else "") + (
                f"of trajectory {i} (task {trajectories[i].task.id!r}) {found.get(i, 0)} steps are masked, "
                f"{wanted.get(i, 0)} are to be trained"
            )
        return Finding("layout", what, "padding or given steps in the mask", "model, its encode(); Segment.train")
    for batch in batches:
        for i, values in collate.spread(batch.sampled_logprobs, batch).items():
            own = [value for s in trajectories[i].segments if s.train for value in s.logprobs]
            if len(own) == len(values) and any(abs(a - b) > 1e-3 for a, b in zip(values, own, strict=True)):
                evidence = f"the masked steps of trajectory {i} have the log-probabilities of others"
                return Finding("layout", evidence, "the mask is shifted against the steps", "model, its encode()")
    return None
