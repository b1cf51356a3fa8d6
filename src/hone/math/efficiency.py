"""What an accuracy costs in thinking: the efficiency measure of AlphaOne (arXiv 2505.24863, section 4)."""

from collections.abc import Sequence
from statistics import fmean


def reasoning_efficiency(accuracy: float, base: float, thinking: Sequence[int], max_tokens: int) -> float:
    """``REP = (accuracy - accuracy of the base) / (mean thinking tokens / max tokens)``.

    The paper's own figures cannot be had again from its tables: for one model they fit the mean over *all* tokens, for
    others over thinking tokens only. This is the formula, whose tokens are those of the thinking phase.

    Args:
        accuracy: Of the method, in whatever unit the result is to be in.
        base: Of the model without it, likewise.
        thinking: Tokens that each answer thought for, imposed ones included.
        max_tokens: Most tokens of an answer, thinking and all.

    Raises:
        ValueError: If there are no answers, or nothing was thought: then there is no cost to divide by.
    """
    if max_tokens < 1:
        raise ValueError(f"reasoning efficiency: max_tokens = {max_tokens}: should be at least 1")
    if not thinking or not sum(thinking):
        raise ValueError("reasoning efficiency: no answer has thinking tokens; there is no cost to divide a gain by")
    return (accuracy - base) / (fmean(thinking) / max_tokens)
