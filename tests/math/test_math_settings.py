"""Settings are keyword-only, typed, bounded and defaulted: what a configuration reads from a signature."""

import inspect
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

from hone import seats
from hone.math import advantages, divergence, gates, mismatch, reduce, shaping, surrogate, triggers

SEATED = {
    seats.Advantage: [
        *(advantages.zscore, advantages.centred, advantages.leave_one_out, advantages.batch_whitened, advantages.raw)
    ],
    seats.Gate: [gates.informative, gates.everything],
    seats.Surrogate: [surrogate.ppo_clip, surrogate.gspo, surrogate.cispo, surrogate.reinforce],
    seats.Reduction: [reduce.token_mean, reduce.sequence_mean, reduce.constant],
    seats.StepField: [
        *(divergence.kl_penalty, divergence.entropy_bonus),
        *(mismatch.truncated_importance, mismatch.masked_importance),
    ],
    seats.Shaper: [
        *(shaping.overlong, shaping.mask_truncated, shaping.kl_reward, shaping.stop_properly, shaping.cosine_length)
    ],
    seats.Trigger: [triggers.at, triggers.every, triggers.plateau, triggers.spike],
}
FUNCTIONS = [function for functions in SEATED.values() for function in functions]


def settings_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_defaults_are_valid(function):
    hints = get_type_hints(function, include_extras=True)
    for name, default in settings_of(function).items():
        if default is not inspect.Parameter.empty:
            assert TypeAdapter(hints[name]).validate_python(default, strict=True) == default


@pytest.mark.parametrize(
    ("function", "name", "bad"),
    [
        (advantages.zscore, "eps", 0.0),
        (advantages.batch_whitened, "per", "token"),
        (gates.informative, "tolerance", -0.1),
        (surrogate.ppo_clip, "low", -0.1),
        (surrogate.ppo_clip, "dual", 1.0),
        (surrogate.gspo, "high", -1e-4),
        (surrogate.cispo, "high", -1.0),
        (reduce.constant, "length", 0),
        (divergence.kl_penalty, "coefficient", -1.0),
        (divergence.kl_penalty, "estimator", "k4"),
        (mismatch.truncated_importance, "cap", 0.0),
        (mismatch.masked_importance, "level", "batch"),
        (shaping.overlong, "buffer", 0),
    ],
)
def test_bounds_are_enforced(function, name, bad):
    hint = get_type_hints(function, include_extras=True)[name]
    with pytest.raises(ValidationError):
        TypeAdapter(hint).validate_python(bad)


def test_functions_sit_in_their_seats():
    for seat, functions in SEATED.items():
        expected = list(inspect.signature(seat.__call__).parameters)[1:]
        for function in functions:
            parameters = inspect.signature(function).parameters.values()
            assert [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY] == expected
