"""The command: what it prints, how it exits, and how it takes Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest
import yaml

import hone
from hone.cli import main

COMMAND = [sys.executable, "-m", "hone.cli"]
CONFIG = """
model: {{path: {model}, dtype: float32}}
tasks: loop_parts:Letters
verifier: loop_parts:low
sampling: {{max_tokens: 5}}
steps: 3
prompts: 2
siblings: 3
optimizer: {{lr: 1e-2}}
verification: {{workers: 1}}
hooks: [{{log: {{tensorboard: false}}}}]
folder: run
device: cpu
"""


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model_path):
    """An empty working directory with a configuration in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG.format(model=tiny_model_path))
    return tmp_path


def test_calibrate_measures_how_long_the_policy_thinks_without_the_processor(here, capsys):
    given = ["sampler.native.processors=[{alphaone: {wait: W, slow: [W], end: e}}]", "sampling.max_tokens=40"]
    assert main(["calibrate", "tiny.yaml", *given, "--questions", "12"]) == 0
    first = capsys.readouterr().out
    found = dict(line.split(": ") for line in first.splitlines())
    assert found["answers"] == "12"
    assert 1 <= float(found["n_think"]) <= 40
    assert (
        main(["calibrate", "tiny.yaml", *given, "sampler.native.processors.0.alphaone.n_think=1", "--questions", "12"])
        == 0
    )
    assert capsys.readouterr().out == first
    for words, message in [
        (["tiny.yaml"], "there is none that is calibrated, such as alphaone"),
        (["tiny.yaml", *given, "--questions", "0"], "--questions 0: should be at least 1"),
    ]:
        assert main(["calibrate", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "tiny.yaml", *given]) == 2
    assert "alphaone.n_think: required; `hone calibrate CONFIG` estimates it" in capsys.readouterr().err


@pytest.fixture
def start(here):
    """Starts ``hone`` in a process and a session of its own."""
    started = []

    def start(*arguments, **options):
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background has none
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for child in family(process):
            child.kill()
        process.kill()
        process.communicate()


def family(process):
    """The processes below it."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_until(condition, process, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def interrupt(process):
    """What a terminal does: Ctrl-C goes to the process and to its children."""
    children = family(process)
    for each in (process, *children):
        each.send_signal(signal.SIGINT)
    return children


def ended(process, children, seconds=20.0):
    """The exit status, what was printed, and that nothing is left of it."""
    out, err = process.communicate(timeout=seconds)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert "Traceback" not in err
    assert "destroyed but it is pending" not in err
    return process.returncode, out, err


def lines(path="run/metrics.jsonl"):
    path = Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# Commands.


def test_train_plot_and_resume(here, capsys):
    evaluation = "eval={letters: {tasks: {loop_parts:Letters: {kinds: 3}}, items: 3}}"
    assert main(["train", "tiny.yaml", "steps=2", "sampling.max_tokens=4", evaluation]) == 0
    out = capsys.readouterr().out
    for told in ("steps: 2", "letters: ", "before: ", "after: ", "run folder: run", "run/curves.png"):
        assert told in out
    assert {row["segments"][1]["tokens"] for row in lines("run/rollouts.jsonl")} <= {1, 2, 3, 4}
    assert yaml.safe_load(Path("run/config.yaml").read_text())["sampling"]["max_tokens"] == 4

    Path("run").rename("1")  # a name that YAML reads as a number
    assert main(["resume", "1", "steps=4", "sampling.max_tokens=2"]) == 0
    assert "run folder: 1" in capsys.readouterr().out
    assert [row["step"] for row in lines("1/metrics.jsonl")] == [0, 1, 2, 3, 4]
    rollouts = lines("1/rollouts.jsonl")
    assert max(row["segments"][1]["tokens"] for row in rollouts if row["step"] > 2) == 2
    assert not Path("run").exists()

    assert main(["plot", "1"]) == 0
    assert capsys.readouterr().out.strip() == "1/curves.png"
    assert main(["plot", "1", "--output", "here/picture.png"]) == 0
    assert Path("here/picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_resume_continues_as_configured(here):
    assert main(["train", "tiny.yaml", "steps=1", "optimizer.lr=0.02"]) == 0
    assert main(["resume", "run", "steps=2"]) == 0
    assert hone.load_config("run/config.yaml").steps == 2
    assert main(["resume", "run", "steps=3", "optimizer.lr=0.01"]) == 0
    assert [row["lr"] for row in lines()] == [0.02, 0.02, 0.01]


def test_the_folder_is_named_after_the_file(here, capsys):
    for _ in range(2):
        assert main(["train", "tiny.yaml", "steps=1", "folder="]) == 0
    assert "run folder: runs/tiny-2" in capsys.readouterr().out
    assert main(["resume", "runs/tiny-1", "steps=2"]) == 0
    assert len(lines("runs/tiny-1/metrics.jsonl")) == 2


def test_schema(here, capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(hone.document.read(Path("tiny.yaml").read_text()), schema)


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hone {hone.__version__}\n"


def test_a_reader_that_leaves_is_no_failure(start):
    process = start("schema")
    process.stdout.close()  # as head does, before there is anything to read
    status = process.wait(60)
    assert (status, process.stderr.read()) == (141, "")


def test_a_table_is_read_without_progress_bars(start):
    from pandas import DataFrame

    DataFrame({"q": ["a", "b"], "a": ["c", "d"]}).to_parquet("rows.parquet")
    process = start(
        "train", "tiny.yaml", "steps=1", "tasks={files: {path: rows.parquet, prompt: '{q}', answer: '{a}'}}"
    )
    status, _, err = ended(process, [], seconds=60.0)
    assert (status, err) == (0, "")


def test_check(here, capsys):
    assert main(["check", "tiny.yaml", "steps=7"]) == 0
    out = capsys.readouterr().out
    assert "ok   one step of a miniature" in out
    assert not Path("run").exists()
    assert main(["check", "tiny.yaml", "tasks={loop_parts:Letters: {limit: 0}}"]) == 1
    assert "FAIL tasks: ValueError: the source has no tasks" in capsys.readouterr().out


# What the user can mend.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "."], "directory"),
        (["train", "broken.yaml"], "broken.yaml: line 2: "),
        (["train", "tiny.yaml", "optimiser.lr=1"], "did you mean 'optimizer'"),
        (["train", "tiny.yaml", "optimizer.lr"], "should be path=value"),
        (["train", "tiny.yaml", "steps=many"], "steps = 'many'"),
        (["train", "tiny.yaml", "model=./nowhere"], "there is no folder './nowhere'"),
        (["train", "tiny.yaml", "device=abacus"], "device: 'abacus' cannot be used here"),
        (["train", "tiny.yaml", "verifier=loop_parts:lost"], "loop_parts has no lost"),
        (["train", "tiny.yaml", "tasks={files: {path: no.jsonl, prompt: '{q}'}}"], "no file 'no.jsonl'"),
        (["train", "tiny.yaml", "eval={e: {tasks: {files: {path: no.jsonl, prompt: '{q}'}}}}"], "no file 'no.jsonl'"),
        (["train", "tiny.yaml", "tasks={loop_parts:Letters: {limit: 0}}"], "tasks: the source has no tasks"),
        (
            ["train", "tiny.yaml", "verifier=loop_parts:broken"],
            "step 1: no verdict on any of 6 answers; on 6 of them: ",
        ),
        (["train", "tiny.yaml", "folder=tiny.yaml"], "tiny.yaml"),
        (["train", "tiny.yaml", "verifier=loop_parts:moody", "verification.on_error=stop"], "the reference is lost"),
        (["check", "missing.yaml"], "missing.yaml"),
        (["resume", "."], "not the folder of a run: it has no config.yaml"),
        (["resume", "begun"], "no checkpoint to resume from in begun/checkpoints"),
        (["plot", "missing"], "no run at missing"),
    ],
)
def test_mistakes_are_told_in_a_line(here, capsys, arguments, told):
    Path("broken.yaml").write_text("model: x\n  tasks: [\n")
    Path("begun").mkdir()
    shutil.copy("tiny.yaml", "begun/config.yaml")
    assert main(arguments) == 2
    notes = capsys.readouterr().err.strip().splitlines()
    assert notes[-1].startswith("hone: ")
    assert told in notes[-1]
    assert all(note.startswith("WARNING: no verdict on ") for note in notes[:-1])
    assert not Path("run").exists()


def test_a_folder_is_not_overwritten(here, capsys):
    assert main(["train", "tiny.yaml", "steps=1"]) == 0
    before = Path("run/metrics.jsonl").read_text()
    capsys.readouterr()
    assert main(["train", "tiny.yaml"]) == 2
    assert "run holds a run; resume it, or give another folder" in capsys.readouterr().err
    assert Path("run/metrics.jsonl").read_text() == before


def test_defects_keep_their_traceback(here):
    with pytest.raises(ValueError, match="a defect"):
        main(["train", "tiny.yaml", "advantage=loop_parts:bad_advantage"])


@pytest.mark.parametrize("arguments", [[], ["dance"], ["train"]])
def test_a_wrong_command_line_shows_the_right_one(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: hone" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["score", "check", "calibrate", "serve"])
def test_what_runs_in_one_process_refuses_several_in_one_line(here, monkeypatch, capsys, command):
    """The first of them says so; another that ended with a fault might have the launcher end the first before."""
    before = set(Path().rglob("*"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    for place, status in (("0", 2), ("2", 0)):
        monkeypatch.setenv("RANK", place)
        assert main([command, "tiny.yaml"]) == status
        out, told = capsys.readouterr()
        assert out == ""
        start = f"hone: `hone {command}` runs in one process, and the launcher started 3; of several run train"
        assert (told.startswith(start) and told.count("\n") == 1) if place == "0" else told == ""
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize("command", ["train", "eval", "mine"])
def test_deepspeed_is_refused_in_one_line_that_names_its_counterparts(here, monkeypatch, capsys, command):
    """As ``accelerate launch --use_deepspeed`` says it."""
    before = set(Path().rglob("*"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for place, status in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", place)
        assert main([command, "tiny.yaml"]) == status
        told = capsys.readouterr().err
        assert told.count("\n") == (place == "0")
        assert all(name in told for name in ("DeepSpeed", "engine=fsdp", "model.offload=true")) or place != "0"
    assert set(Path().rglob("*")) == before


def test_deepspeed_is_refused_of_a_trainer_too(here, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="engine=fsdp"):
        hone.Trainer(hone.load_config("tiny.yaml")).fit()


def test_notes_of_hone_are_shown_and_those_of_libraries_are_left_to_them(here, capsys):
    tasks = "tasks={loop_parts:Letters: {limit: 2}}"
    for name in ("run", "again"):
        assert main(["train", "tiny.yaml", tasks, f"folder={name}"]) == 0
        assert capsys.readouterr().err.count("INFO: stopped at step 1: the task source has no more tasks") == 1


def test_help_needs_nothing_heavy():
    code = """
import sys
from hone.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "transformers", "pydantic", "numpy", "datasets", "rich", "yaml"} & sys.modules.keys()
assert not heavy, heavy
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 5
    for command in ("train", "resume", "check", "plot", "schema"):
        assert f"    {command}" in done.stdout


# Ctrl-C.


def test_ctrl_c_saves_and_resume_finishes(start, capsys):
    process = start("train", "tiny.yaml", "steps=100000")
    wait_until(lambda: len(lines()) >= 2, process)
    status, out, err = ended(process, interrupt(process))
    assert (status, err.count("stopping: saving a checkpoint")) == (130, 1)
    done = lines()
    assert [row["step"] for row in done] == list(range(1, len(done) + 1))
    assert f"steps: {len(done)}" in out
    assert [path.name for path in Path("run/checkpoints").iterdir()] == [f"step-{len(done)}"]
    assert main(["resume", "run", f"steps={len(done) + 2}"]) == 0
    assert f"INFO: resumed from run/checkpoints/step-{len(done)}" in capsys.readouterr().err
    rows = lines()
    assert [row["step"] for row in rows] == list(range(1, len(done) + 3))
    assert rows[: len(done)] == done


def test_ctrl_c_does_not_wait_for_the_first_evaluation(start):
    evaluation = "eval={letters: {tasks: loop_parts:Letters, items: 2}}"
    process = start("train", "tiny.yaml", evaluation, "verifier=loop_parts:slow", "verification.timeout=100")
    wait_until(lambda: Path("run/config.yaml").exists(), process)
    time.sleep(1.0)
    status, out, _ = ended(process, interrupt(process))
    assert status == 130
    assert "steps: 0" in out
    assert main(["resume", "run", "verifier=loop_parts:low"]) == 0
    assert lines()[-1]["step"] == 3
    assert "eval/letters/accuracy" in lines()[0]
    assert "eval/letters/accuracy" in lines()[3]


def test_a_second_ctrl_c_ends_it_at_once(start):
    process = start("train", "tiny.yaml", "steps=100000", "hooks=[loop_parts:SlowEnd, {log: {tensorboard: false}}]")
    wait_until(lambda: len(lines()) >= 1, process)
    children = interrupt(process)
    wait_until(lambda: list(Path("run").glob("checkpoints/step-*")), process)
    time.sleep(0.5)  # it is in the hook's minute now
    assert process.poll() is None
    interrupt(process)
    status, _, _ = ended(process, children)
    assert status == 130
    assert all(isinstance(row["step"], int) for row in lines())


def test_the_terminal_is_as_it_was(start, here):
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [*COMMAND, "train", "tiny.yaml", "steps=100000"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TERM": "xterm", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    written = bytearray()
    os.set_blocking(ours, False)

    def read():
        try:
            written.extend(os.read(ours, 1 << 16))
        except BlockingIOError:
            time.sleep(0.02)
        return len(lines()) >= 3

    try:
        wait_until(read, process)
        children = interrupt(process)
        while process.poll() is None:
            read()
        read()
        assert process.returncode == 130
        assert psutil.wait_procs(children, timeout=5)[1] == []
        assert b"\x1b[?25l" in written  # the view had hidden the cursor
        assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
        assert b"Traceback" not in written
        assert b"KeyboardInterrupt" not in written
        assert b"stopping: saving a checkpoint" in written
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
