"""What the README says is so: its examples run, its names exist, and its tables leave nothing out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hone
from hone import document
from hone.cli import main
from hone.registry import REGISTRY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
CONFIG, EXTENDED = (text for kind, text in BLOCKS if kind == "yaml")
SCRIPT, MODULE = (text for kind, text in BLOCKS if kind == "python")


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]


METHODS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in section("Methods").splitlines()
    if line.startswith("|") and not line.startswith(("| method", "| ---"))
]


def test_the_configuration_trains_and_logs_the_metrics_that_are_listed(tmp_path, tiny_model_path):
    assert len(CONFIG.splitlines()) <= 15
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    small = {
        "model": tiny_model_path, "device": "cpu", "steps": 1, "prompts": 2, "siblings": 2, "max_rounds": 1,
        "gate": "everything", "eval.heldout.items": 2, "folder": str(tmp_path / "run"),
    }  # fmt: skip
    run = hone.Trainer.from_config(hone.load_config(tmp_path / "config.yaml", small)).fit()
    listed = set(re.findall(r"`([a-z_]+(?:/\w+)?)`", section("What a run leaves").partition("Metrics are")[2]))
    evaluated = {name.replace("/heldout/", "/<name>/") for row in run.metrics for name in row if "heldout" in name}
    assert {name for row in run.metrics for name in row if "heldout" not in name} == listed
    assert all(f"`{name}`" in README for name in evaluated)
    left = {path.name for path in run.folder.iterdir()} | {"curves.png"}
    tree = section("What a run leaves").partition("```text")[2].partition("```")[0]
    assert set(re.findall(r"^  ([\w.]+)", tree, re.MULTILINE)) == left


def test_the_python_example_runs(tmp_path, tiny_model_path):
    assert sum(map(bool, SCRIPT.splitlines())) <= 11
    script = SCRIPT.replace("smollm2-135m", tiny_model_path).replace("steps=25", "steps=1, device='cpu'")
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path, timeout=180, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "steps: 1 in" in done.stdout
    rollouts = hone.Run(tmp_path / "runs" / "run-1").rollouts
    assert len(rollouts) == 64
    assert all(row["error"] is None for row in rollouts)


def test_a_module_of_ones_own_is_named_by_its_address(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = hone.Config(**document.read(CONFIG) | document.read(EXTENDED))
    task = hone.Task("t", [], answer="2")
    trajectories = [
        hone.Trajectory(task, [hone.Segment("response", "policy", (), text=t)]) for t in ("2.001", "3", "?")
    ]
    values = [config.verifier(task, trajectory) for trajectory in trajectories]
    assert values == [True, False, 0.0]
    for trajectory, value in zip(trajectories, (0.9, 0.3, None), strict=True):
        trajectory.reward = value
    config.advantage([hone.types.Group(task, trajectories)])
    assert [t.advantage for t in trajectories] == [pytest.approx(0.3), 0.0, None]


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row[0])
def test_a_method_is_configured_as_the_table_says(row):
    _, configuration, file, paper = row
    for fragment in re.findall(r"`([^`]+)`", configuration):
        hone.Config(**document.read(CONFIG) | document.read(fragment))
    text = (ROOT / "src" / "hone" / file.strip("`")).read_text(encoding="utf-8")
    for number, link in re.findall(r"\[([\d.]+)\]\(https://arxiv.org/abs/([\d.]+)\)", paper):
        assert number == link
        assert number in text


@pytest.mark.parametrize("room", REGISTRY)
def test_every_registered_name_is_mentioned(room):
    mentioned = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", PROSE))))
    assert REGISTRY[room].keys() <= mentioned


def test_the_commands_are_those_of_the_command_line(capsys):
    for name in re.findall(r"^\| `hone (\w+)", README, re.MULTILINE):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert set(offered) <= set(re.findall(r"`hone (\w+)", README))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    files = {link.partition("#")[0] for link in linked} - {""}
    assert {file for file in files if not (ROOT / file).exists()} == set()
    headings = {
        re.sub(r"[^\w -]", "", line).strip().replace(" ", "-")
        for line in text.lower().splitlines()
        if line.startswith("#")
    }
    assert {link[1:] for link in linked if link.startswith("#")} <= headings
