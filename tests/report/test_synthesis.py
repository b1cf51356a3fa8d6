import struct
import sys
import warnings

import pytest

from hone.report.synthesis import figure, plot, synthesis
from hone.synthesis.store import Store


def tally(passes):
    return {"passes": passes, "wrong": 16 - passes, "truncated": 0, "errors": 0, "wanted": 16, "tokens": 100}


def row(seed, attempt=None, reason=None, solver="w", **passes):
    made = {
        "seed": {"id": f"t/{seed}", "hash": f"h{seed}", "question": f"seed {seed}"},
        "provenance": {"solver": solver},
    }
    made["rollouts"] = {name: tally(count) for name, count in passes.items()}
    if attempt is not None:
        made |= {"attempt": attempt, "question": f"harder {seed}"}
    return made | ({"reason": reason} if reason else {"id": f"t/{seed}/synth-{attempt}"})


ACCEPTED = [
    row(1, 2, before=16, after=6, fresh_before=15, fresh_after=8),
    row(2, 1, before=14, after=8, fresh_before=13, fresh_after=10),
]
REJECTED = [
    row(1, 1, "too hard", before=16, after=2),
    row(3, 1, "not harder", before=12, after=12),
    row(3, 2, "unchanged", before=12),
    row(3, 3, "not harder", before=12, after=11),
    row(4, None, "hard seed", before=3),
    row(5, None, "unmeasured seed", before=0),
]


@pytest.fixture
def store(tmp_path):
    Store(tmp_path / "set").write(ACCEPTED, REJECTED)
    return tmp_path / "set"


def test_the_text_tells_shift_and_reasons(store):
    lines = synthesis(store).splitlines()
    assert lines[0] == f"{store}: 2 rewrites of 2 seeds, of 5 tasks looked at; 28.6% of the union, 0 nearly alike"
    told = {line[:32].strip(): line[32:].split() for line in lines[2:] if line}
    assert told["passes of 16"] == ["questions", "mean", "lowest", "highest"]
    assert told["all tasks"] == ["4", "11.25", "3", "16"]
    assert told["seeds"] == ["3", "14.00", "12", "16"]
    assert told["seeds with a rewrite"] == ["2", "15.00", "14", "16"]
    assert told["their rewrites"] == ["2", "7.00", "6", "8"]
    assert told["these seeds, played afresh"] == ["2", "14.00", "13", "15"]
    assert told["their rewrites, played afresh"] == ["2", "9.00", "8", "10"]
    assert told["not harder"] == ["2"]
    assert told["too hard"] == told["hard seed"] == told["unmeasured seed"] == ["1"]


def test_the_picture_shows_the_counts(store):
    left, middle, right = figure(store).axes
    assert [axes.get_title(loc="left") for axes in (left, middle, right)] == [
        "As selected",
        "Played afresh",
        "Rejected",
    ]
    bars = {patch.get_x() + 0.5: patch.get_height() for patch in left.patches[:17]}
    assert bars[16] == bars[14] == 1
    assert sum(bars.values()) == 2
    assert [line.get_xdata()[0] for line in middle.lines] == [14.0, 9.0]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["seeds, mean 15.00", "rewrites, mean 7.00"]
    assert right.patches[0].get_width() == 2


def test_a_png_is_written_and_pyplot_is_not_touched(store, tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    path = plot(store, tmp_path / "deep" / "shift.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1500
    assert height > 400
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize(
    ("accepted", "rejected"), [([], []), ([], REJECTED), (ACCEPTED, []), ([row(1, 1, before=16, after=6)], [])]
)
def test_any_set_can_be_shown(tmp_path, accepted, rejected):
    Store(tmp_path / "$x_1$").write(accepted, rejected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f"{len(accepted)} rewrites" in synthesis(tmp_path / "$x_1$")
        assert plot(tmp_path / "$x_1$", tmp_path / "x.png").stat().st_size > 3000


def test_where_there_is_no_set_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no synthesised data set in"):
        synthesis(tmp_path)


def test_the_command_tells_and_draws_what_is_in_the_store(store, tmp_path, capsys):
    from hone.cli import main

    (tmp_path / "x.yaml").write_text(
        f"""
        model: nowhere
        verifier: math
        tasks:
          synthrl: {{source: {{reasoning_gym: {{tasks: gcd}}}}, writer: policy, store: {store}}}
        """
    )
    assert main(["synth", str(tmp_path / "x.yaml"), "--report"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(synthesis(store))
    assert out.endswith(f"{store / 'shift.png'}\n")
    assert (store / "shift.png").stat().st_size > 3000
