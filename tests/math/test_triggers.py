import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.build import build
from hone.math.triggers import at, every, plateau, spike
from hone.registry import ConfigError

ACCURACY = "eval/heldout/accuracy"


def history(*values, metric=ACCURACY, first=1, gap=1):
    """One row a step; a value of None leaves the metric out, and ``gap`` - 1 steps without it stand between two."""
    rows = []
    for index, value in enumerate(values):
        step = first + index * gap
        rows += [{"step": s} for s in range(step - gap + 1, step) if s > 0]
        rows.append({"step": step} | ({metric: value} if value is not None else {}))
    return rows


def fires(trigger, rows):
    """The first step at which the trigger acts, if it is asked at every step."""
    return next((rows[i]["step"] for i in range(len(rows)) if trigger(rows[: i + 1])), None)


SLOW = partial(plateau, metric=ACCURACY, patience=3)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], None),  # always better
        ([0.1, 0.2, 0.2, 0.2, 0.2], 5),  # equal is no improvement
        ([0.5, 0.4, 0.3, 0.2], 4),  # worse
        ([0.1, 0.2, 0.1, 0.1, 0.3, 0.2, 0.2, 0.2], 8),  # the count begins again with an improvement
        ([0.1, 0.1, 0.1], None),  # two without an improvement are one too few
        ([], None),
    ],
)
def test_plateau_counts_measurements_since_the_best(values, step):
    assert fires(SLOW, history(*values)) == step


def test_an_improvement_must_exceed_min_delta_over_the_best():
    creeping = history(0.50, 0.52, 0.54, 0.56)  # each is 0.02 more, and the first to exceed 0.50 by 0.05 is the fourth
    assert fires(partial(SLOW, patience=2, min_delta=0.05), creeping) == 3
    assert fires(partial(SLOW, patience=3, min_delta=0.05), creeping) is None
    assert fires(partial(SLOW, patience=2, min_delta=0.01), creeping) is None
    exact = history(0.5, 0.75, 0.75)
    assert fires(partial(SLOW, patience=1, min_delta=0.25), exact) == 2  # just as much is not more


def test_plateau_of_what_should_fall():
    falling = partial(SLOW, metric="loss", patience=2, mode="min")
    assert fires(falling, history(3.0, 2.0, 1.0, 1.5, 1.2, metric="loss")) == 5
    assert fires(falling, history(3.0, 2.0, 1.0, 0.5, metric="loss")) is None


def test_plateau_ignores_what_is_not_a_number():
    values = [0.5, math.nan, None, 0.4, math.inf, None, 0.4, -math.inf, 0.4]
    assert fires(SLOW, history(*values)) == 9
    assert SLOW([{"step": 1, ACCURACY: None}] * 9) is None  # null of metrics.jsonl


def test_plateau_of_a_rare_metric_counts_measurements_not_steps():
    rare = history(0.5, 0.4, 0.4, 0.4, first=20, gap=20)
    assert len(rare) == 80
    assert fires(SLOW, rare) == 80
    assert fires(SLOW, rare[:-1]) is None


def test_plateau_says_what_it_rests_on():
    assert SLOW(history(0.25, 0.5, 0.4, 0.45, 0.1, gap=10, first=10)) == (
        "eval/heldout/accuracy was 0.5 at step 20, and no better in 3 measurements since: 0.4, 0.45, 0.1"
    )


@given(st.lists(st.none() | st.floats(0, 1) | st.just(math.nan), max_size=30), st.integers(1, 5), st.floats(0, 0.2))
def test_plateau_against_a_count_by_hand(values, patience, min_delta):
    best, count = None, 0
    for value in values:
        if value is None or math.isnan(value):
            continue
        if best is None or value - best > min_delta:
            best, count = value, 0
        else:
            count += 1
    found = plateau(history(*values), metric=ACCURACY, patience=patience, min_delta=min_delta)
    assert (found is not None) == (count >= patience)


@pytest.mark.parametrize("first", [0, 1, 17])
def test_every_counts_steps_and_not_what_was_measured_before_the_first(first):
    rows = [{"step": first + i} for i in range(60)]
    assert fires(partial(every, steps=25), rows) == (25 if first < 2 else 41)
    assert every(rows) is None  # 500
    assert every([], steps=1) is None
    assert every(rows[1:26], steps=25) == "25 steps have passed"


def test_at_acts_after_the_steps_that_were_set():
    rows = [{"step": step} for step in range(9)]
    chosen = partial(at, steps=[3, 5])
    assert [n for n in range(1, 10) if chosen(rows[:n])] == [4, 6]  # the rows up to steps 3 and 5
    assert chosen(rows[4:6]) == "step 5 is one of those that were set"
    assert chosen([]) is None


def test_spike_over_a_limit_reads_the_latest_step():
    kl = partial(history, metric="kl/mean")
    over = partial(spike, limit=0.1)
    assert over(kl(0.05, 0.1)) is None  # as much is not more
    assert over(kl(0.05, 0.11)) == "kl/mean is 0.11, over the limit of 0.1"
    assert over(kl(0.5, 0.05)) is None  # it was so earlier
    assert over(kl(0.5, None)) is None  # nothing was trained on in the latest
    assert over(kl(math.nan)) is None
    assert over([]) is None
    assert spike(history(9.0, metric="grad_norm"), metric="grad_norm", limit=3.0)


def test_spike_against_the_median_of_a_window():
    kl = partial(history, metric="kl/mean")
    sudden = partial(spike, factor=3.0, window=3)
    assert sudden(kl(0.1, 0.2, 0.1, 0.3)) is None  # 3 x 0.1 is not more
    assert sudden(kl(0.1, 0.2, 0.1, 0.31)) == "kl/mean is 0.31, more than 3 times the 0.1 of the 3 before"
    assert sudden(kl(9.0, 0.1, 0.1, 0.1, 0.31)) is not None  # the 9 is before the window
    assert sudden(kl(0.1, 0.1, 9.0)) is None  # there are only two before
    assert sudden(kl(0.1, None, 0.1, math.nan, 0.1, 0.31)) is not None
    assert spike(kl(0.1, 0.1, 0.1, 0.2), factor=3.0, window=3, limit=0.15) is not None  # either is enough


def test_a_spike_of_what_starts_at_zero_waits_for_its_window():
    growing = history(*(0.001 * 2**i for i in range(8)), metric="kl/mean")
    assert fires(partial(spike, factor=3.0, window=4), growing) == 5


def test_a_spike_of_nothing_is_refused():
    with pytest.raises(ValueError, match="without a limit or a factor"):
        spike([])


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"every": {"steps": 0}}, "every.steps"),
        ({"at": {"steps": [5, 0]}}, "at.steps.1"),
        ({"at": {}}, "at.steps: required"),
        ({"plateau": {"metric": "x"}}, "plateau.patience: required"),
        ({"plateau": {"metric": "x", "patience": 0}}, "plateau.patience"),
        ({"plateau": {"metric": "x", "patience": 1, "min_delta": -0.1}}, "plateau.min_delta"),
        ({"plateau": {"metric": "x", "patience": 1, "mode": "up"}}, "plateau.mode"),
        ({"spike": {"factor": 0.0}}, "spike.factor"),
        ({"spike": {"limit": 1.0, "window": 0}}, "spike.window"),
    ],
)
def test_settings_are_bounded(spec, where):
    with pytest.raises(ConfigError, match=where):
        build("trigger", spec)


@pytest.mark.parametrize("trigger", [every, SLOW, partial(spike, limit=0.1)])
def test_triggers_change_nothing_and_keep_nothing(trigger):
    rows = history(*[0.5] * 600) + history(9.0, metric="kl/mean", first=601)
    before = [dict(row) for row in rows]
    assert trigger(rows) == trigger(rows)
    assert trigger(rows) is not None
    assert rows == before
