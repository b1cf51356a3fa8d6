"""hone eval on tiny models: what is measured, what is kept, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import loop_parts as parts
import pytest
import yaml

import hone
from hone.cli import main
from hone.evaluation import evaluate, load_evaluation
from hone.judging import VerificationError
from hone.math.passk import pass_at_k
from hone.report.lines import JsonLines

CONFIG = """
model: {{path: {model}, dtype: float32}}
sampling: {{max_tokens: 4}}
verification: {{workers: 1, timeout: 100}}
sampler: {{native: {{max_sequences: {sequences}}}}}
device: cpu
folder: run
eval:
  letters:
    tasks: {{loop_parts:Letters: {{kinds: 6}}}}
    verifier: evaluation_parts:{verifier}
    items: 20
    siblings: 4
    sampling: {{temperature: 1.0}}
"""
VERIFIERS = """
import os, time
from hone.types import Score


def even(task, trajectory):
    text = trajectory.response
    return Score(float(sum(map(ord, text)) % 2 == 0), answer=text[:1] or None)


def moody(task, trajectory):
    if task.answer in "bc":
        raise LookupError("lost")
    return even(task, trajectory)


def late(task, trajectory):
    time.sleep(0.1)
    return even(task, trajectory)


def flipped(task, trajectory):
    return Score(1 - even(task, trajectory).value)
"""


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model_path):
    parts.at_work(monkeypatch, tmp_path, evaluation_parts=VERIFIERS)

    def write(verifier="even", sequences=64, model=tiny_model_path):
        Path("tiny.yaml").write_text(CONFIG.format(model=model, verifier=verifier, sequences=sequences))
        return load_evaluation("tiny.yaml")

    write()
    return write


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_path):
    return parts.trained(tiny_model_path, tmp_path_factory.mktemp("trained") / "first", steps=2)


def rows(path):
    """In the order of the tasks: they are written in that of finishing."""
    return sorted(JsonLines(Path(path)), key=lambda row: (row["group"], row["sibling"]))


def test_what_is_measured_is_what_the_rows_say(here, trained):
    whole = evaluate(here(), [trained], folder="out")
    assert whole == json.loads(Path("out/results.json").read_text())
    result = whole["evaluations"]["letters"]
    assert (result["tasks"], result["samples"]) == (6, 4)  # the source begins anew after 6
    assert list(result["checkpoints"]) == ["base", "first/step-2"]
    for label, own in result["checkpoints"].items():
        saved = rows(f"out/letters/{label.replace('/', '.')}.jsonl")
        assert len(saved) == own["answers"] == 24
        by_task = {row["task"]: [] for row in saved}
        for row in saved:
            by_task[row["task"]].append(row["reward"])
        counts = [(4, sum(rewards)) for rewards in by_task.values()]
        for k in range(1, 5):
            expected = sum(pass_at_k(n, int(c), k) for n, c in counts) / 6
            assert own["pass@k"][str(k)]["mean"] == pytest.approx(expected)
        assert own["accuracy"]["mean"] == pytest.approx(own["pass@k"]["1"]["mean"])
        assert own["accuracy"]["low"] <= own["accuracy"]["mean"] <= own["accuracy"]["high"]
        assert own["maj@k"]["1"]["mean"] is not None
        tokens = [row["segments"][-1]["tokens"] for row in saved]
        assert own["length"] == pytest.approx(sum(tokens) / 24)
        assert own["truncated"] == sum(row["stop"] == "length" for row in saved) / 24
        assert own["errors"] == {}
    difference = result["differences"]["first/step-2"]["accuracy"]
    base, other = (own["accuracy"]["mean"] for own in result["checkpoints"].values())
    assert difference["difference"]["mean"] == pytest.approx(other - base)
    assert 0 < difference["p"] <= 1
    assert Path("out/passk.png").read_bytes().startswith(b"\x89PNG")


def test_equal_weights_draw_equal_answers(here, tiny_model_path):
    """Checkpoints are given the same noise: a copy of the base model answers as it does, word by word."""
    shutil.copytree(tiny_model_path, "copy")
    shutil.copytree(tiny_model_path, "torn")
    Path("torn/SHA256SUMS").write_text("half a line")
    result = evaluate(here(), ["copy"], folder="out")["evaluations"]["letters"]
    base, copy = ([row["segments"] for row in rows(f"out/letters/{name}.jsonl")] for name in ("base", "copy"))
    assert base == copy
    assert len({row["segments"][-1]["text"] for row in rows("out/letters/base.jsonl")}) > 12  # and siblings differ
    assert result["differences"]["copy"]["accuracy"]["p"] == 1
    assert result["checkpoints"]["base"] == result["checkpoints"]["copy"]


def test_a_checkpoint_is_the_policy_that_was_trained(here, trained, tiny_model_path):
    """The evaluation at the end of a run, made again from its checkpoint, has the same answers."""
    part = {
        "tasks": {"loop_parts:Letters": {"kinds": 3}}, "items": 3, "siblings": 2, "sampling": {"temperature": 1.0},
    }  # fmt: skip
    lora = {"path": tiny_model_path, "dtype": "float32", "lora": {"rank": 2, "save": "adapter"}}
    for name, model in (("full", {"path": tiny_model_path, "dtype": "float32"}), ("lora", lora)):
        made = parts.settings(
            tiny_model_path, Path(name), model=model, eval={"three": part}, steps=2, optimizer={"lr": 0.05}
        )
        hone.Trainer(hone.Config(**made)).fit()
        evaluate(load_evaluation(name), [name], folder=f"out-{name}")
        for when, label in ((0, "base"), (2, f"{name}.step-2")):
            before, again = rows(f"{name}/evals/three/step-{when}.jsonl"), rows(f"out-{name}/three/{label}.jsonl")
            assert [row["segments"] for row in again] == [row["segments"] for row in before]
            assert [row["reward"] for row in again] == [row["reward"] for row in before]
        assert rows(f"out-{name}/three/base.jsonl") != rows(f"out-{name}/three/{name}.step-2.jsonl")


def start(*arguments):
    path = os.pathsep.join([str(Path.cwd()), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "hone.cli", "eval", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_what_was_cut_off_goes_on_to_the_same_results(here, trained, how):
    evaluate(here("late", sequences=4), [trained], folder="whole")
    process = start("tiny.yaml", str(trained), "--output", "cut")
    path = Path("cut/letters/base.jsonl")
    deadline = time.monotonic() + 300
    while not path.exists() or len(JsonLines(path)) < 8:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, told = process.communicate(timeout=300)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert "the same command goes on" in told
        assert "Traceback" not in told
    kept = path.read_bytes()
    assert 0 < len(JsonLines(path)) < 24
    assert not Path("cut/results.json").exists()
    path.write_bytes(kept + b'{"task": "letter-5", "sibl')  # as if it had died while writing
    evaluate(here("late", sequences=4), [trained], folder="cut")
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])  # nothing was played twice
    assert len(rows(path)) == 24
    assert Path("cut/results.json").read_bytes() == Path("whole/results.json").read_bytes()


def test_a_group_of_which_a_row_is_missing_is_played_anew(here):
    config = here()
    before = evaluate(config, folder="out")
    path = Path("out/letters/base.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:9]))  # two groups, and one row of a third
    assert evaluate(here(), folder="out") == before
    assert sorted(path.read_text().splitlines()) == sorted("".join(lines).splitlines())


def test_a_second_start_plays_nothing_and_loads_no_weights(here, monkeypatch):
    before = evaluate(here(), folder="out")
    monkeypatch.setattr("hone.evaluation.Session", None)
    assert evaluate(here(), folder="out") == before
    assert evaluate(here(), folder="out", seed=1) != before  # other resampling needs no sampling


def test_an_error_is_not_a_zero(here):
    own = evaluate(here("moody"), folder="out")["evaluations"]["letters"]["checkpoints"]["base"]
    saved = rows("out/letters/base.jsonl")
    judged = [row["reward"] for row in saved if row["reward"] is not None]
    assert own["errors"] == {"LookupError": 8}
    assert len(judged) == 16
    assert own["accuracy"]["mean"] == pytest.approx(sum(judged) / 16)
    # A task without one verdict is not finished: when the verifier is mended, it is judged.
    text = Path("evaluation_parts.py").read_text().replace('raise LookupError("lost")', "return 1.0")
    Path("evaluation_parts.py").write_text(text)
    own = evaluate(here("moody"), folder="out")["evaluations"]["letters"]["checkpoints"]["base"]
    assert own["errors"] == {}
    assert own["accuracy"]["mean"] == pytest.approx((sum(judged) + 8) / 24)


def test_no_verdict_at_all_is_no_result(here):
    here()
    with pytest.raises(VerificationError, match="no verdict on any of 24 answers"):
        evaluate(load_evaluation("tiny.yaml", ["eval.letters.verifier=loop_parts:broken"]), folder="out")
    assert not Path("out/results.json").exists()


def test_settings_that_do_not_matter_may_change(here):
    before = evaluate(here(), folder="out")
    changed = ["verification.workers=2", "verification.timeout=9", "sampler.native.max_sequences=3", "steps=7"]
    assert evaluate(load_evaluation("tiny.yaml", changed), folder="out") == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "there is no checkpoint 'nowhere'; give the folder of a run"),
        (["empty"], "empty holds no checkpoint: neither trainer.pt of a run, nor a saved model's config.json"),
        (["begun"], "the run begun has no checkpoint in begun/checkpoints"),
        (["copy", "copy"], "is given 2 times"),
        (["torn"], "is damaged: SHA256SUMS is torn; give another"),
        (["--no-base"], "there is nothing to evaluate"),
        (["eval={}"], "there is no eval section"),
        (["other"], "other: its tokenizer is not that of base: 262 tokens against 261, 1 of them"),
        (["eval.letters.sampling.max_tokens=600"], "eval.letters: base has 512 positions, and task 'letter-0' needs"),
        (["eval.letters.tasks={loop_parts:Letters: {limit: 0}}"], "eval.letters.tasks: the source has no tasks"),
        (["--output", "begun"], "begun is the folder of a training run; give another --output"),
        (["--output", "empty"], "empty holds something else; give another --output"),
    ],
)
def test_mistakes_are_told_in_a_line(here, capsys, tiny_model_path, arguments, told):
    from transformers import AutoTokenizer

    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    Path("begun").mkdir()
    shutil.copy("tiny.yaml", "begun/config.yaml")
    Path("begun/metrics.jsonl").touch()
    shutil.copytree(tiny_model_path, "copy")
    shutil.copytree(tiny_model_path, "torn")
    Path("torn/SHA256SUMS").write_text("half a line")
    shutil.copytree(tiny_model_path, "other")
    tokenizer = AutoTokenizer.from_pretrained("other")
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained("other")
    files = {path for path in Path().rglob("*") if "pycache" not in str(path)}
    arguments = arguments if "--output" in arguments else [*arguments, "--output", "out"]
    assert main(["eval", "tiny.yaml", *arguments]) == 2
    notes = capsys.readouterr().err.strip().splitlines()
    assert notes[-1].startswith("hone: ")
    assert told in notes[-1]
    left = {path for path in Path().rglob("*") if "pycache" not in str(path)} - files
    assert not [path for path in left if path.suffix == ".jsonl" or path.name == "results.json"]


def test_other_settings_are_refused_with_what_differs(here, capsys, tiny_model_path):
    assert main(["eval", "tiny.yaml", "--output", "out"]) == 0
    told = capsys.readouterr().out
    assert "letters: 6 tasks, 4 answers each" in told
    before = Path("out/results.json").read_bytes()
    changed = [
        "eval.letters.siblings=2",
        "eval.letters.sampling.temperature=0.5",
        "eval.letters.verifier=loop_parts:low",
    ]
    assert main(["eval", "tiny.yaml", "--output", "out", *changed]) == 2
    told = capsys.readouterr().err
    assert "eval.letters.siblings: 4 -> 2\n" in told
    assert "eval.letters.sampling.temperature: 1.0 -> 0.5\n" in told
    assert 'eval.letters.verifier: "evaluation_parts:even" -> "loop_parts:low"' in told
    assert told.count("\n") == 4
    assert Path("out/results.json").read_bytes() == before


def test_other_weights_behind_a_label_are_refused(here, trained, tiny_model_path):
    shutil.copytree(trained, "first")
    config = here()
    evaluate(config, ["first/checkpoints/step-1"], folder="out")
    path = Path("out/letters/first.step-1.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    shutil.rmtree("first/checkpoints/step-1")
    shutil.copytree("first/checkpoints/step-2", "first/checkpoints/step-1")
    with pytest.raises(ValueError, match="the weights of first/step-1 have changed since"):
        evaluate(here(), ["first/checkpoints/step-1"], folder="out")
    shutil.copytree("first", "elsewhere/first")
    with pytest.raises(ValueError, match=r"first/step-1 was .*, and is .* now"):
        evaluate(here(), ["elsewhere/first/checkpoints/step-1"], folder="out")


def test_other_data_are_refused(here):
    Path("rows.jsonl").write_text('{"q": "1", "a": "x"}\n')
    source = "eval.letters.tasks={files: {path: rows.jsonl, prompt: '{q}', answer: '{a}'}}"
    evaluate(load_evaluation("tiny.yaml", [source]), folder="out")
    Path("rows.jsonl").write_text('{"q": "1", "a": "y"}\n')
    with pytest.raises(ValueError, match="task 'rows/0' had another answer: the data have changed"):
        evaluate(load_evaluation("tiny.yaml", [source]), folder="out")


def test_a_configuration_need_not_say_how_to_train(here):
    written = yaml.safe_load(Path("tiny.yaml").read_text())
    assert not {"tasks", "verifier"} & written.keys()
    config = load_evaluation("tiny.yaml")
    assert config.tasks is not config.eval["letters"].tasks
    assert config.verifier == config.eval["letters"].verifier
    del written["eval"]
    Path("none.yaml").write_text(
        yaml.safe_dump({**written, "tasks": "loop_parts:Letters", "verifier": "loop_parts:low"})
    )
    assert main(["eval", "none.yaml"]) == 2


def test_the_folder_is_named_after_the_configuration(here, trained, capsys):
    assert main(["eval", "tiny.yaml"]) == 0
    out = capsys.readouterr().out
    assert "results: evals/tiny/results.json" in out
    shutil.copytree(trained, "mine")
    part = "eval={a: {tasks: {loop_parts:Letters: {kinds: 2}}, items: 2}}"
    assert main(["eval", "mine", "mine", part]) == 0  # the configuration of a run, and its newest checkpoint
    out = capsys.readouterr().out
    assert "evals/mine/results.json" in out
    assert "mine/step-2" in out


def test_labels_tell_runs_apart(here, trained):
    from hone.candidates import find

    for name in ("a", "b"):
        shutil.copytree(trained, Path(name, "first"))
    labels = [each.label for each in find(here(), ["a/first", "b/first", trained], base=True)]
    assert labels[0] == "base"
    assert labels[1:3] == ["a/first/checkpoints/step-2", "b/first/checkpoints/step-2"]
    assert [each.label for each in find(here(), ["a/first"], base=False)] == ["first/step-2"]


def test_greedy_siblings_are_noted(here, caplog):
    config = here()
    part = config.eval["letters"]
    config.eval["letters"] = replace(part, sampling=replace(part.sampling, temperature=0.0))
    evaluate(config, folder="out")
    assert "4 siblings without a temperature are all alike" in caplog.text
