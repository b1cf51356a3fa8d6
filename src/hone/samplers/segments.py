"""A sampled sequence as segments, by the origin of its tokens."""

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from hone.types import Segment


def segments(
    tokens: Sequence[int],
    logprobs: Sequence[float],
    forced: Collection[int],
    decode: Callable[[Sequence[int]], str],
) -> tuple[Segment, ...]:
    """Cut a response where sampled tokens and imposed ones meet; only what was sampled trains.

    The texts join to that of the whole response. A character of several tokens goes to the segment that ends it, and
    a space that a tokenizer drops at the beginning of a text is not dropped at a cut.

    Args:
        tokens: All of them, in order.
        logprobs: One for each; those of imposed tokens are left out.
        forced: The positions of the tokens that were imposed.
        decode: From tokens to text.
    """
    whole = decode(tokens)
    if not forced:
        return (Segment("response", "policy", tuple(tokens), tuple(logprobs), whole, train=True),)
    made, at = [], 0
    for imposed, run in groupby(range(len(tokens)), forced.__contains__):
        positions = list(run)
        end = positions[-1] + 1
        until = len(whole) if end == len(tokens) else max(at, _shared(decode(tokens[:end]), whole))
        values = () if imposed else tuple(logprobs[i] for i in positions)
        actions = tuple(tokens[i] for i in positions)
        made.append(
            Segment("response", "forced" if imposed else "policy", actions, values, whole[at:until], train=not imposed)
        )
        at = until
    return tuple(made)


def _shared(part: str, whole: str) -> int:
    """Characters at the beginning of a whole that a part has too."""
    return next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), min(len(part), len(whole)))
