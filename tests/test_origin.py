"""What a run is made of, and what of it may change when it is resumed."""

import json
import logging
import os
import resource
from pathlib import Path

import loop_parts as parts
import pytest
from loop_parts import Letters, Spy

import hone
from hone import checkpoint, origin
from hone.cli import main
from hone.synthesis.provenance import digest_of_file

CONFIG = """
model: {{path: {model}, dtype: float32}}
tasks: {{files: {{path: [rows.jsonl], prompt: "{{q}}"}}}}
verifier: loop_parts:low
sampling: {{max_tokens: 4}}
steps: 1
prompts: 2
siblings: 2
verification: {{workers: 1}}
hooks: [{{log: {{tensorboard: false, rollouts: false}}}}]
folder: run
device: cpu
"""


def write_rows(path, letters):
    Path(path).write_text("".join(json.dumps({"q": letter}) + "\n" for letter in letters))


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model_path):
    """A working directory with a configuration, its rows, and a run of one step."""
    monkeypatch.chdir(tmp_path)
    write_rows("rows.jsonl", "abcd")
    Path("tiny.yaml").write_text(CONFIG.format(model=tiny_model_path))
    assert main(["train", "tiny.yaml"]) == 0
    return tmp_path


def edit(old, new):
    path = Path("run/config.yaml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def steps():
    return [json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()]


def test_changed_settings_are_shown_and_refused_unless_allowed(here, capsys):
    edit("lr: 1.0e-06", "lr: 0.01")
    edit("steps: 1\n", "steps: 2\n")
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main(["resume", "run"]) == 2
    told = capsys.readouterr().err
    assert "hone: run/checkpoints/step-1: these settings are not those of the run" in told
    assert "  optimizer.lr: 1e-06 -> 0.01\n" in told
    assert "  steps: 1 -> 2\n" in told
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before

    assert main(["resume", "run", "steps=2"]) == 2  # for just this key
    told = capsys.readouterr().err
    assert "optimizer.lr" in told
    assert "  steps:" not in told

    assert main(["resume", "run", "steps=2", "optimizer.lr=0.01"]) == 0
    assert "INFO: changed: optimizer.lr: 1e-06 -> 0.01" in capsys.readouterr().err
    assert steps() == [1, 2]
    assert main(["resume", "run"]) == 0  # accepted once, they are the run's
    edit("siblings: 2\n", "siblings: 3\n")
    assert main(["resume", "run", "steps=3", "--allow", "settings"]) == 0
    assert steps() == [1, 2, 3]


def test_over_how_many_processes_rows_lie_may_change(here, capsys):
    edit("sequence_parallel: 1", "sequence_parallel: 2")
    assert main(["resume", "run"]) == 2
    assert "sequence_parallel: 2: the run has 1 processes" in capsys.readouterr().err  # and nothing of other settings


def test_what_was_accepted_stays_so_if_the_run_dies_at_once(here, capsys):
    config = hone.load_config("run/config.yaml", ["steps=9"])
    config.hooks.append(Spy(at={2: lambda state: 1 / 0}))
    with pytest.raises(ZeroDivisionError):
        hone.Trainer(config).fit(resume=True, allow=["steps", "hooks"])
    about = checkpoint.read_about(Path("run/checkpoints/step-1"))
    assert about["settings"]["steps"] == 9


def test_other_versions_are_told_and_not_refused(here, capsys):
    path = Path("run/checkpoints/step-1")
    about = checkpoint.read_about(path)
    about["versions"]["torch"] = "1.0"
    (path / checkpoint.ABOUT).write_text(json.dumps(about))
    (path / checkpoint.SUMS).unlink()
    checkpoint._seal(path)
    capsys.readouterr()
    assert main(["resume", "run"]) == 0
    told = capsys.readouterr().err
    assert 'WARNING: another version than the checkpoint\'s, so results may differ: torch: "1.0" -> ' in told


def test_changed_data_are_refused_unless_allowed(here, capsys):
    write_rows("rows.jsonl", "abce")
    capsys.readouterr()
    assert main(["resume", "run", "steps=2"]) == 2
    assert 'allow "data" to go on with them:\n  tasks: rows.jsonl\n' in capsys.readouterr().err
    assert steps() == [1]
    assert main(["resume", "run", "steps=2", "--allow", "data"]) == 0
    assert "INFO: changed: tasks: rows.jsonl" in capsys.readouterr().err
    assert main(["resume", "run", "steps=3"]) == 0
    assert steps() == [1, 2, 3]


def test_where_the_data_lie_does_not_matter_but_what_they_are(here):
    now = origin.described(hone.load_config("tiny.yaml"))
    assert list(now["data"]) == ["tasks"]
    Path("moved.jsonl").write_bytes(Path("rows.jsonl").read_bytes())
    moved = origin.described(hone.load_config("tiny.yaml", ["tasks.files.path=moved.jsonl"]))
    assert list(origin._changed_data(now["data"], moved["data"])) == []
    write_rows("more.jsonl", "x")
    for paths in ("[more.jsonl, rows.jsonl]", "[rows.jsonl, more.jsonl]"):
        other = origin.described(hone.load_config("tiny.yaml", [f"tasks.files.path={paths}"]))
        assert list(origin._changed_data(now["data"], other["data"])) == ["tasks: more.jsonl"]
    swapped = origin.described(hone.load_config("tiny.yaml", ["tasks.files.path=[more.jsonl, rows.jsonl]"]))
    assert list(origin._changed_data(other["data"], swapped["data"])) == ["tasks: the order of its files"]


def test_the_fingerprint_of_a_large_file_is_cheap_and_sees_its_ends(tmp_path):
    path, size = tmp_path / "large", 200 * 2**20
    with path.open("wb") as file:
        file.truncate(size)
    seen = {digest_of_file(path)}
    for place in (0, size - 1, size - 2**20):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        seen.add(digest_of_file(path))
    with path.open("ab") as file:
        file.write(b"\0")
    seen.add(digest_of_file(path))
    assert len(seen) == 5
    small = tmp_path / "small"
    small.write_bytes(bytes(3 * 2**20))
    before = digest_of_file(small)
    for place in (0, 2**20, 3 * 2**20 - 1):
        data = bytearray(3 * 2**20)
        data[place] = 1
        small.write_bytes(data)
        assert digest_of_file(small) != before


@pytest.mark.parametrize(
    ("old", "new", "allow", "refused"),
    [
        ({"verifier": "math"}, {"verifier": {"choice": {"strict": True}}}, ["verifier"], []),
        ({"verifier": "math"}, {"verifier": {"choice": {"strict": True}}}, ["verifier.choice.strict"], []),
        ({"hooks": [{"budget": {"tokens": 1}}]}, {"hooks": [{"budget": {"tokens": 2}}]}, ["hooks.0.budget.tokens"], []),
        ({"hooks": ["a", "b"]}, {"hooks": ["a"]}, ["hooks.0"], ["hooks.1"]),
        ({"steps": 1, "step": 1}, {"steps": 2, "step": 2}, ["step"], ["steps"]),
        ({"stages": {}}, {"stages": {"2": {"siblings": 8}}}, [], ["stages", "stages.2.siblings"]),
        ({"a": None}, {"a": {}}, [], ["a"]),
        ({"a": float("inf")}, {"a": float("inf")}, [], []),
    ],
)
def test_which_differences_an_override_allows(tmp_path, old, new, allow, refused):
    path = tmp_path / "step-1"
    path.mkdir()
    (path / checkpoint.ABOUT).write_text(json.dumps({"settings": old}))
    now = {"settings": new, "data": {}, "versions": {}}
    if not refused:
        assert origin.accept(path, now, allow) is (old != new)
        return
    with pytest.raises(ValueError, match="not those of the run") as told:
        origin.accept(path, now, allow)
    assert [line.strip().partition(":")[0] for line in str(told.value).splitlines()[1:]] == refused


# Damage, a full disk, and other processes, from end to end.


@pytest.fixture
def fit(tiny_model_path, tmp_path):
    def fit(*hooks, resume=False, **changes):
        log = {"log": {"tensorboard": False}}
        config = parts.settings(tiny_model_path, tmp_path / "run", hooks=[*hooks, log], steps=6, **changes)
        return hone.Trainer(hone.Config(**({"checkpoint": {"every": 2}} | config))).fit(resume=resume, allow=["hooks"])

    return fit


def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(fit, tmp_path, caplog):
    def harm(state):
        with (state.folder / "checkpoints/step-4/model.safetensors").open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            byte = file.read(1)
            file.seek(-5, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
        raise KeyError("power cut")

    with pytest.raises(KeyError):
        fit(Spy(at={5: harm}))
    caplog.set_level(logging.INFO, "hone")
    run = fit(resume=True)
    assert "step-4 is damaged (model.safetensors is not what was written)" in caplog.text
    assert "resumed from" in caplog.text
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in run.checkpoints] == ["step-4", "step-6"]


def limit(most):
    """A hook's act: no file can grow beyond this any more, which is an error like that of a full disk."""

    def act(state):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return act


@pytest.fixture
def unlimited():
    yield
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def lift():
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("most", [40_000, 250_000, 0])  # in the model's files, in the trainer's state, in the log
def test_a_full_disk_ends_a_run_with_what_there_is(fit, tmp_path, unlimited, most):
    folder = tmp_path / "run"
    with pytest.raises(OSError, match=rf"nothing more can be written to {folder} \(\d+ MiB are free there\); ") as told:
        fit(Spy(at={4: limit(most)}))
    lift()
    assert str(told.value).endswith(f"hone resume goes on from {folder / 'checkpoints/step-2'}")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-2"]
    assert checkpoint.damage(folder / "checkpoints/step-2") is None
    resumed = fit(resume=True)
    assert [row["step"] for row in resumed.metrics] == [1, 2, 3, 4, 5, 6]
    assert {row["step"] for row in resumed.rollouts} == {1, 2, 3, 4, 5, 6}


def test_a_run_that_was_killed_before_it_had_a_checkpoint_begins_anew(fit, tmp_path):
    whole = fit()
    rows = [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in whole.metrics]
    for path in sorted((tmp_path / "run" / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(FileExistsError, match="holds a run"):
        fit()
    again = fit(resume=True)
    assert [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in again.metrics] == rows
    assert len(list(again.rollouts)) == 36


def test_one_that_was_killed_as_soon_as_it_had_begun_is_none(fit, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert fit().steps == 6


def test_two_processes_do_not_write_to_one_run(fit, tmp_path):
    def second(state):
        with pytest.raises(FileExistsError, match="another process is writing to this run"):
            fit(resume=True)
        seen.append(state.step)

    seen = []
    fit(Spy(at={3: second}))
    assert seen == [3]


def test_the_best_of_a_run_is_found(fit, tmp_path, tiny_model_path):
    heldout = {"letters": {"tasks": Letters(), "items": 4, "every": 1}}
    run = fit(eval=heldout, verifier=parts.letter_e, checkpoint={"keep": 1, "best": "eval/letters/accuracy"})
    values = {row["step"]: row["eval/letters/accuracy"] for row in run.metrics if row["step"]}
    best = max(values, key=values.__getitem__)
    assert run.best.name == f"step-{best}"
    assert [path.name for path in run.checkpoints] == sorted({f"step-{best}", "step-6"})
    trained = hone.Trainer(
        hone.Config(**parts.settings(str(tmp_path / "run/checkpoints/best"), tmp_path / "next", steps=1))
    )
    assert trained.fit().steps == 1


def test_a_metric_of_no_evaluation_is_refused(tiny_model_path, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint\.best = '-eval/leters/.*there is no such evaluation.*letters"):
        hone.Config(
            **parts.settings(
                tiny_model_path,
                tmp_path,
                checkpoint={"best": "-eval/leters/length"},
                eval={"letters": {"tasks": Letters()}},
            )
        )


def test_processes_that_read_other_files_are_refused(monkeypatch):
    mine = {"data": {"tasks": {"/here/train.jsonl": "a", "/here/more.jsonl": "b"}}}
    elsewhere = {"tasks": ["a", "b"]}
    monkeypatch.setattr(origin.ranks, "each", lambda work: [work(), elsewhere])
    assert origin.agreed(mine) is mine  # wherever they lie
    elsewhere["tasks"] = ["a", "c"]
    with pytest.raises(ValueError, match="tasks: the processes of this run read files that are not the same"):
        origin.agreed(mine)
