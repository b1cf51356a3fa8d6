import json
import struct
import sys
import warnings
from pathlib import Path

import pytest

from hone.report.curves import figure
from hone.report.run import Run


def titles(run: Run) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure(run).axes if axes.get_title(loc="left")]


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_a_full_run_has_all_panels(write_run) -> None:
    run = Run(write_run())
    assert titles(run) == [
        "Reward",
        "Evaluation",
        "Response length",
        "Entropy",
        "Gradient norm",
        "Drift",
        "Clipped",
        "Groups",
        "Time",
    ]
    path = run.plot()
    assert path == run.folder / "curves.png"
    width, height = png_size(path.read_bytes())
    assert width > 1500
    assert height > 1000


def test_only_panels_with_data(write_run) -> None:
    folder = write_run(0)
    rows = [{"step": s, "reward/mean": 0.5, "grad_norm": None, "eval/x/length": 3.0, "loss": 1.0} for s in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert titles(Run(folder)) == ["Reward"]


@pytest.mark.parametrize("steps", [0, 1, 2, 9, 10, 300])
def test_any_number_of_steps(write_run, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Run(write_run(steps)).plot().stat().st_size > 5000


def test_the_values_are_on_the_axes(write_run) -> None:
    axes = {a.get_title(loc="left"): a for a in figure(Run(write_run())).axes}
    line = axes["Evaluation"].lines[0]
    assert list(line.get_xdata()) == [0, 10, 20]
    assert list(line.get_ydata()) == [0.1, 0.25, 0.5]
    assert line.get_label() == "heldout: 0.10 → 0.50"
    assert [patch.get_data().values[0] for patch in axes["Time"].patches] == [2.0, 2.5, 3.5]
    assert {text.get_text() for text in axes["Groups"].get_legend().get_texts()} == {"kept", "dropped"}
    left, right = axes["Entropy"].get_xlim()
    assert left < 0 < 20 < right


def test_gaps_and_spikes(write_run) -> None:
    folder = write_run()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[5] |= {"reward/mean": None, "time/sample": None, "grad_norm": 1000.0}
    del rows[6]["reward/std"], rows[7]["groups/dropped"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    axes = {a.get_title(loc="left"): a for a in figure(Run(folder)).axes}
    assert axes["Gradient norm"].get_yscale() == "log"
    update = axes["Time"].patches[-1].get_data().values
    assert update[4] == 1.5, "what is missing counts as nothing; the rest of the step is still drawn"
    assert update[3] == 3.5
    Run(folder).plot()


@pytest.mark.parametrize("name", ["λ-七", "cost $x_{$ 100%", "_hidden", "a<b>&c"])
def test_any_name(write_run, name: str) -> None:
    folder = write_run(3, name=name)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, f"eval/{name}/accuracy": 0.5}) + "\n")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        assert Run(folder).plot().exists()


def test_another_place(write_run, tmp_path: Path) -> None:
    run = Run(write_run(2))
    assert run.plot(tmp_path / "deep" / "x.png") == tmp_path / "deep" / "x.png"
    assert (tmp_path / "deep" / "x.png").exists()
    assert not (run.folder / "curves.png").exists()


def test_a_notebook_gets_the_picture_and_the_folder_is_left_alone(write_run) -> None:
    run = Run(write_run(2))
    before = sorted(run.folder.iterdir())
    assert png_size(run._repr_png_())
    assert sorted(run.folder.iterdir()) == before


def test_pyplot_is_not_touched(write_run) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    Run(write_run(2)).plot()
    assert ("matplotlib.pyplot" in sys.modules) == loaded
