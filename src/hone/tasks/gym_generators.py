"""Reasoning Gym's generators, made to give the same item for the same seed, and to touch nothing else.

Seen in release 0.1.25: three generators walk sets of strings, whose order changes with Python's hash seed; some draw
from the global random generators of Python or NumPy, or reseed them; some print. Some load their word lists again
whenever a data set is created (0.3 s for arc_agi).
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import fields
from typing import Any

import numpy
from reasoning_gym.factory import DATASETS, create_dataset

from hone.tasks.naming import suggest

UNSAFE = {
    "coin_flip": 'its scorer compares digits up to the end of the shorter answer: "0" is right nearly always',
    "number_sorting": "its scorer takes a list of NaNs of the right length for any list",
    "propositional_logic": "its scorer takes most premises, repeated, for conclusions",
    "composite": "it is a container; name the tasks themselves",
}
"""Tasks that are refused, and why: what is no answer gets full marks there. For other scorers with such holes the
verifier has its own."""

_DEALT_AT_CREATION = {"acre", "gsm_symbolic", "list_functions"}
_IMPURE = {"bf", "codeio", "list_functions", "pool_matrix", "sokoban"}


def check_spec(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what Reasoning Gym has not, or what cannot be trusted.

    Raises:
        ValueError: Unknown task or setting (with the nearest valid one), invalid value, or a task in ``UNSAFE``.
    """
    if name not in DATASETS:
        raise ValueError(f"tasks: Reasoning Gym has no task {name!r}; {suggest(name, sorted(DATASETS))}")
    if name in UNSAFE:
        raise ValueError(f"tasks: {name} is refused: {UNSAFE[name]}")
    valid = [field.name for field in fields(DATASETS[name][1]) if field.name not in ("seed", "size")]
    for setting in config:
        if setting not in valid:
            raise ValueError(f"tasks: {name}: config has no {setting!r}; {suggest(setting, valid)}")
    try:
        made = DATASETS[name][1](**config)
        if hasattr(made, "validate"):
            made.validate()
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"tasks: {name}: config {dict(config)}: {error or type(error).__name__}") from None


class Generator:
    """One task at one configuration: ``item(seed)`` depends on the seed alone.

    It equals ``create_dataset(name, seed=seed, size=1, **config)[0]``, save for the generators that depend on more
    than their seed. The data set is created once and reseeded, except where creating it already draws the items.
    """

    def __init__(self, name: str, config: Mapping[str, Any]):
        self.name = name
        self._config = dict(config)
        self._dataset = None

    def item(self, seed: int) -> dict[str, Any]:
        """The item of this seed: question, answer and metadata."""
        with _contained(seed) if self.name in _IMPURE else nullcontext():
            if self._dataset is None or self.name in _DEALT_AT_CREATION:
                self._dataset = _ordered(create_dataset(self.name, seed=seed, size=1, **self._config), self.name)
            self._dataset.seed = self._dataset.config.seed = seed  # Some read the one, some the other.
            return self._dataset[0]


@contextmanager
def _contained(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy, restore them afterwards, and print nothing meanwhile."""
    state, numpy_state = random.getstate(), numpy.random.get_state()
    random.seed(seed)
    numpy.random.seed(seed)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(state)
        numpy.random.set_state(numpy_state)


class _SortedSet(frozenset):
    """A set that is walked in order, whatever the hash seed."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__()))

    def __sub__(self, other: Any) -> _SortedSet:
        return _SortedSet(super().__sub__(other))


def _ordered(dataset: Any, name: str) -> Any:
    """Put in order what the generator would draw from in the order of hashes."""
    if name in ("isomorphic_strings", "ransom_note"):
        dataset.letters = _SortedSet(dataset.letters)
    if name == "polynomial_multiplication":
        monomials = dataset._get_monomials
        dataset._get_monomials = lambda rng: sorted(monomials(rng), key=str)
    return dataset
