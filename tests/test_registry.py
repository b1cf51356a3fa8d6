"""Names, specs and objects: registry, build, describe."""

import functools
import pickle
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from hone import document
from hone.build import build, describe
from hone.parts import Bound, is_settings, settings_model
from hone.registry import REGISTRY, SEATS, ConfigError, find, name_of
from hone.seats import Advantage, SamplingParams, Verifier, settings
from hone.types import Score


def address(thing: Any) -> str:
    return f"{__name__}:{thing.__name__}"


def exact(task, trajectory, *, strict: bool = False, tolerance: Annotated[float, Field(ge=0)] = 1e-6) -> Score:
    """Right or wrong."""
    return Score(float(strict))


def plain(task, trajectory) -> Score:
    """Without settings."""
    return Score(1.0)


def demanding(task, trajectory, *, limit: int) -> Score:
    """With a setting that has no default."""
    return Score(float(limit))


@settings
class Strict:
    """A verifier with all kinds of settings."""

    pair: tuple[float, float] = (0.0, 1.0)
    where: Path = Path("data")
    label: str | None = None
    high: float = Field(0.2, gt=0)
    sampling: SamplingParams = Field(default_factory=SamplingParams)

    def __call__(self, task, trajectory) -> Score:
        return Score(1.0)


@settings
class Nested:
    """A verifier of verifiers."""

    first: Verifier = plain
    second: Verifier | None = None
    several: list[Verifier] = Field(default_factory=list)
    named: dict[str, Verifier] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if "bad" in self.named:
            raise ValueError("named: bad is no name")

    def __call__(self, task, trajectory) -> Score:
        return Score(1.0)


class Unsettled:
    """A verifier whose state is not in settings."""

    def __call__(self, task, trajectory) -> Score:
        return Score(1.0)


ready = Strict(high=0.5)


def problems(spec: Any, seat: Any = "verifier") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(seat, spec, "verifier")
    return caught.value.problems


def implementations() -> list[tuple[str, str]]:
    return [(room, name) for room, names in REGISTRY.items() for name in names]


@pytest.mark.parametrize(("room", "name"), implementations())
def test_every_registered_name_is_an_implementation(room, name):
    found = find(room, name)
    assert name_of(found) == name, "the registry holds another address than the object's own"
    cls = found if is_settings(found) else settings_model(found)
    if not any(field.is_required() for field in cls.__pydantic_fields__.values()):
        made = build(room, name)
        assert isinstance(made, SEATS[room])
        assert build(room, describe(made)) == made


def test_every_seat_has_a_room():
    assert SEATS.keys() == REGISTRY.keys()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'zscore'\? valid: .*leave_one_out"):
        find("advantage", "z_score")


def test_an_address_is_as_good_as_a_name():
    assert find("verifier", address(exact)) is exact
    with pytest.raises(ConfigError, match="has no exat; did you mean 'exact'"):
        find("verifier", f"{__name__}:exat")
    with pytest.raises(ConfigError, match="cannot import no_such_module"):
        find("verifier", "no_such_module:thing")


def test_the_working_directory_can_be_imported_from(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").write_text("def judge(task, trajectory): ...\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    assert find("verifier", "lies_here:judge").__name__ == "judge"


def test_settings_are_bound_and_defaults_filled_in():
    made = build("verifier", {address(exact): {"strict": True}})
    assert made == Bound(exact, strict=True, tolerance=1e-6)
    assert made(None, None).value == 1.0
    assert pickle.loads(pickle.dumps(made)) == made


def test_what_an_object_lacks_is_named():
    assert "is no TaskSource: it has no state_dict, load_state_dict" in problems(ready, "tasks")[0]


def test_a_function_without_settings_is_itself():
    assert build("verifier", address(plain)) is plain
    assert build(Verifier, {address(plain): None}) is plain


def test_objects_pass_through():
    for made in (plain, ready, Bound(exact, strict=True), functools.partial(exact, strict=True), Unsettled()):
        assert build(Verifier, made) is made
    assert build("verifier", f"{__name__}:ready") is ready


def test_annotations_hold_parts():
    assert build(list[Verifier], [address(plain), plain]) == [plain, plain]
    assert build(dict[str, Verifier], {"a": address(plain)}) == {"a": plain}
    assert build(Verifier | None, None) is None


def test_nested_parts_are_built():
    strict = {address(Strict): {"high": 0.3}}
    made = build("verifier", {address(Nested): {"first": strict, "several": [strict], "named": {"one": strict}}})
    assert made == Nested(first=Strict(high=0.3), several=[Strict(high=0.3)], named={"one": Strict(high=0.3)})


def test_every_problem_is_found_with_its_path():
    strict = {address(Strict): {"hgih": 0.28, "sampling": {"top_p": 2}}}
    path = f"verifier.{address(Nested)}"
    assert problems({address(Nested): {"first": "mth", "several": [plain, strict], "named": {"one": 3}}}) == [
        f"{path}.first = 'mth': no verifier has this name; did you mean 'math'? valid: "
        f"{', '.join(sorted(REGISTRY['verifier']))}, or an address such as my_module:my_verifier",
        f"{path}.several.1.{address(Strict)}.sampling.top_p = 2: should be less than or equal to 1",
        f"{path}.several.1.{address(Strict)}.hgih = 0.28: unknown setting; did you mean 'high'? "
        "valid: high, label, pair, sampling, where",
        f"{path}.named.one = 3: is no Verifier; those with a name: {', '.join(REGISTRY['verifier'])}",
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({address(exact): {"tolerance": -1}}, "tolerance = -1: should be greater than or equal to 0"),
        ({address(exact): {"tolerence": 1}}, "tolerence = 1: unknown setting; did you mean 'tolerance'"),
        ({address(exact): 3}, "exact = 3: should be a mapping of settings"),
        (address(demanding), "demanding.limit: required"),
        ({address(Nested): {"named": {"bad": plain}}}, "Nested: named: bad is no name"),
        ({"math": {}, "choice": {}}, "one name, with its settings below it, belongs here; found: math, choice"),
        ({}, "found: none"),
        (None, "None: is no Verifier; those with a name: math"),
        (Strict, "is a class, where an instance belongs"),
        (address(Unsettled), "is a class, where an instance belongs .*@hone.settings"),
        ({f"{__name__}:ready": {"high": 1}}, "takes no settings"),
        ({1: {}}, "'?1'?: no verifier has this name"),
        (
            "hone.math.advantages:zscore",
            r"is called with \(task, trajectory\), and this cannot be: too many",
        ),
        (demanding, "missing a required argument: 'limit'"),
    ],
)
def test_what_is_wrong_is_said(spec, problem):
    (found,) = problems(spec)
    assert found.startswith("verifier")
    assert re.search(problem, found)


def test_a_function_is_described_with_its_defaults():
    assert describe(exact) == {address(exact): {"strict": False, "tolerance": 1e-6}}
    assert describe(functools.partial(exact, strict=True)) == {address(exact): {"strict": True, "tolerance": 1e-6}}
    assert describe(plain) == address(plain)


def test_registered_names_are_used():
    assert describe(build(Advantage, "centred")) == "centred"


def test_whatever_cannot_be_rebuilt_is_recorded_and_refused():
    assert describe(Unsettled()) == address(Unsettled)
    inner = lambda task, trajectory: Score(1.0)  # noqa: E731
    with pytest.raises(ConfigError):
        build("verifier", describe(inner))


leaves = st.one_of(
    st.just(plain),
    st.just(exact),
    st.builds(lambda strict, x: Bound(exact, strict=strict, tolerance=x), st.booleans(), st.floats(0, 9)),
    st.builds(lambda limit: functools.partial(demanding, limit=limit), st.integers()),
    st.builds(
        Strict,
        pair=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
        where=st.sampled_from([Path("a/b"), Path("c")]),
        label=st.none() | st.text() | st.sampled_from(["1e-5", "null", "on", "12:30", "~"]),
        high=st.floats(min_value=0, exclude_min=True, allow_nan=False),
        sampling=st.builds(
            SamplingParams, temperature=st.floats(0, 2), stop=st.lists(st.text(min_size=1, max_size=3), max_size=2)
        ),
    ),
)
verifiers = st.recursive(
    leaves,
    lambda inner: st.builds(
        Nested,
        first=inner,
        second=st.none() | inner,
        several=st.lists(inner, max_size=3),
        named=st.dictionaries(st.sampled_from("xyz"), inner),
    ),
    max_leaves=6,
)


@given(verifiers)
def test_building_inverts_describing(verifier):
    spec = describe(verifier)
    assert build("verifier", spec) == verifier
    assert build("verifier", document.read(document.write(spec))) == verifier
    assert describe(build("verifier", spec)) == spec
