"""hone score: nothing changes with the same verifier, and what changes with another is told."""

import json
import shutil
import sys
from pathlib import Path

import loop_parts as parts
import pytest

import hone
from hone.cli import main
from hone.evaluation import evaluate, load_evaluation
from hone.report.lines import JsonLines
from hone.scoring import score

VERIFIERS = """
from hone.types import Score


def even(task, trajectory):
    text = trajectory.response
    if len(text) > 3 and text[0] in "aeiou":
        raise LookupError("a vowel")
    return Score(float(sum(map(ord, text)) % 2 == 0), {"long": float(len(text))}, answer=text[:1] or None)


def odd(task, trajectory):
    return 1 - even(task, trajectory).value


def named(task, trajectory):
    return task.answer == "b" and task.prompt[-1]["content"] == "b" and task.meta == {}
"""
PART = {"tasks": {"loop_parts:Letters": {"kinds": 3}}, "items": 3, "siblings": 3, "sampling": {"temperature": 1.0}}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_path):
    """A run with shaped rewards, a stage of another verifier, and an evaluation; its checkpoint is evaluated."""
    home = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.syspath_prepend(home)
        Path("scoring_parts.py").write_text(VERIFIERS)
        settings = parts.settings(
            tiny_model_path, Path("run"), verifier="scoring_parts:even", eval={"three": PART}, gate="everything",
            shapers=[{"overlong": {"max_length": 5, "buffer": 2, "factor": 0.5}}],
            stages={2: {"verifier": "scoring_parts:odd"}}, verification={"workers": 1, "timeout": 100},
        )  # fmt: skip
        hone.Trainer(hone.Config(**settings)).fit()
        evaluate(load_evaluation("run"), ["run"], folder="out")
    sys.modules.pop("scoring_parts")
    return home


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it, in the working directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Path("run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_verifier_changes_nothing(run):
    before = contents(run)
    folder, results = score(run)
    assert folder == run / "scores-1"
    assert set(results) == {"rollouts.jsonl", "evals/three/step-0.jsonl", "evals/three/step-3.jsonl"}
    for name, found in results.items():
        assert (found["changed"], found["up"], found["down"]) == (0, 0, 0)
        assert found["errors before"] == found["errors now"]
        assert found["old"] == pytest.approx(found["new"])
        old, new = list(JsonLines(run / name)), list(JsonLines(folder / name))
        assert len(old) == len(new) == found["answers"]
        for row, again in zip(old, new, strict=True):
            # Rewards were shaped; verdicts were not.
            assert (again["verdict"], again["error"]) == (row["verdict"], row["error"])
            assert again["extracted"] == row["extracted"]
            assert again["parts"].items() <= row["parts"].items()
            assert again["before"]["reward"] == row["reward"]
    shaped = [row for row in JsonLines(run / "rollouts.jsonl") if row["reward"] != row["verdict"]]
    assert shaped
    assert {path: text for path, text in contents(run).items() if path in before} == before


def test_an_evaluation_is_scored_with_another_verifier(run):
    folder, results = score("out", overrides=["eval.three.verifier=scoring_parts:odd"])
    assert set(results) == {"three/base.jsonl", "three/run.step-3.jsonl"}
    for name, found in results.items():
        assert found["changed"] == found["answers"] - found["errors now"] == found["up"] + found["down"]
        assert found["new"] == pytest.approx(1 - found["old"])
        assert len(JsonLines(folder / name)) == 9
    # What was scored before is not read for answers again.
    again, results = score("out")
    assert again.name == "scores-2"
    assert set(results) == {"three/base.jsonl", "three/run.step-3.jsonl"}
    assert all(found["changed"] == 0 for found in results.values())


def test_question_answer_and_meta_are_remembered(run):
    folder, _ = score(run, overrides=["eval.three.verifier=scoring_parts:named"])
    for row in JsonLines(folder / "evals/three/step-0.jsonl"):
        assert row["reward"] == (row["task"] == "letter-1")


def test_the_command_tells_old_against_new(run, capsys):
    Path("changed.yaml").write_text(Path("run/config.yaml").read_text())
    capsys.readouterr()
    assert main(["score", "run", "changed.yaml", "--output", "there", "eval.three.verifier=scoring_parts:odd"]) == 0
    out = capsys.readouterr().out
    results = json.loads(Path("there/results.json").read_text())
    changed = results["evals/three/step-0.jsonl"]["changed"]
    [line] = [line for line in out.splitlines() if "step-0" in line]
    assert f" {changed} " in line
    assert main(["score", "run", "--output", "there"]) == 2
    assert "there is there already; give another --output" in capsys.readouterr().err


def test_a_verifier_that_reads_tokens_fails_and_does_not_pay_zero(run):
    folder, results = score(run, overrides=["eval.three.verifier=loop_parts:low"])
    found = results["evals/three/step-0.jsonl"]
    assert (found["errors now"], found["new"]) == (9, None)
    row = JsonLines(folder / "evals/three/step-0.jsonl")[0]
    assert row["reward"] is None
    assert "hold texts and no tokens" in row["error"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere is not the folder of a run or of an evaluation"),
        (["run", "a.yaml", "b.yaml"], "one configuration at most, not 2"),
        (["empty"], "empty holds no answers"),
        (["old"], "line 1 has no question, meta: it was written by an earlier version"),
        (["run", "other.yaml"], "the configuration has no eval.three; its evaluations: four"),
    ],
)
def test_mistakes_are_told_in_a_line(run, capsys, arguments, told):
    for name in ("empty", "old"):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(Path("run/config.yaml").read_text())
    row = JsonLines(run / "rollouts.jsonl")[0]
    Path("old/rollouts.jsonl").write_text(json.dumps({k: v for k, v in row.items() if k not in ("question", "meta")}))
    with Path("old/rollouts.jsonl").open("a") as file:
        file.write("\n")
    Path("other.yaml").write_text(Path("run/config.yaml").read_text().replace("  three:", "  four:"))
    capsys.readouterr()
    assert main(["score", *arguments]) == 2
    [note] = capsys.readouterr().err.strip().splitlines()
    assert note.startswith("hone: ")
    assert told in note
