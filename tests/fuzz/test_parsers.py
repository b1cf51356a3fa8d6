"""Every parser of what a model says, over texts at random: no crash, no hang, and nothing paid for a wrong answer."""

import signal
from contextlib import contextmanager

import pytest
from mutations import texts
from targets import TARGETS, seed_of

MANY = 100_000
FEW = 200
PATIENCE = 5
"""Seconds for one text."""


@contextmanager
def limited(text):
    def over(*_):
        raise TimeoutError(f"no answer in {PATIENCE} s on {text!r:.300}")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read(name, count):
    target = TARGETS[name]
    for text in texts(seed_of(name), target.pieces, target.right, target.spoil, count):
        try:
            with limited(text):
                target.try_(text)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}: on {text!r}") from error


@pytest.mark.parametrize("name", TARGETS)
def test_a_few(name):
    read(name, FEW if TARGETS[name].share > 0.05 else FEW // 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many(name):
    read(name, round(MANY * TARGETS[name].share))


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.right and target.spoil is not str])
def test_the_oracle_holds(name):
    """Unspoilt, a right answer is paid for: what the others were spoilt by is what matters."""
    target = TARGETS[name]
    paid = 0
    for text in target.right:
        try:
            target.try_(text)
        except AssertionError as error:
            paid += "pays 1" in str(error)
    assert paid, f"{name}: none of {target.right} is right"
