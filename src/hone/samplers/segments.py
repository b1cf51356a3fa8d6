"""A sampled sequence as segments, by the origin of its tokens."""

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from hone.types import Segment


def segments(
    tokens: Sequence[int],
    logprobs: Sequence[float],
    forced: Collection[int],
    decode: Callable[[Sequence[int]], str],
    entropies: Sequence[float] = (),
) -> tuple[Segment, ...]:
    """Cut a response where sampled tokens and imposed ones meet; only what was sampled trains.

    The texts join to that of the whole response. A character of several tokens goes to the segment that ends it, and
    a space that a tokenizer drops at the beginning of a text is not dropped at a cut.

    Args:
        tokens: All of them, in order.
        logprobs: One for each; those of imposed tokens are left out.
        forced: The positions of the tokens that were imposed.
        decode: From tokens to text.
        entropies: As the log-probabilities, or none at all.
    """
    whole = decode(tokens)
    if not forced:
        return (_part(tokens, logprobs, entropies, whole),)
    made, at = [], 0
    for imposed, run in groupby(range(len(tokens)), forced.__contains__):
        positions = list(run)
        end = positions[-1] + 1
        until = len(whole) if end == len(tokens) else max(at, _shared(decode(tokens[:end]), whole))
        actions, text = tuple(tokens[i] for i in positions), whole[at:until]
        if imposed:
            made.append(Segment("response", "forced", actions, text=text))
        else:
            values = ([found[i] for i in positions] if found else () for found in (logprobs, entropies))
            made.append(_part(actions, *values, text))
        at = until
    return tuple(made)


def _part(actions: Sequence[int], logprobs: Sequence[float], entropies: Sequence[float], text: str) -> Segment:
    """What the policy sampled."""
    values = {"logprobs": tuple(logprobs), "entropies": tuple(entropies)}
    return Segment("response", "policy", tuple(actions), text=text, train=True, **values)


def _shared(part: str, whole: str) -> int:
    """Characters at the beginning of a whole that a part has too."""
    return next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), min(len(part), len(whole)))
