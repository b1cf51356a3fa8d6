"""hone eval in several processes: the results of one, and what was cut off goes on."""

import json
from pathlib import Path

import loop_parts as parts
import pytest
from launchers import launched

from hone.report.lines import JsonLines

TASKS = 12
CONFIG = """
model: {{path: {model}, dtype: float32}}
sampling: {{max_tokens: 4}}
verification: {{workers: 1, timeout: 100}}
sampler: {{native: {{max_sequences: 3}}}}
engine: {engine}
device: cpu
limits: {{sampling: 60, update: 60}}
eval:
  letters:
    tasks: {{loop_parts:Letters: {{kinds: 12}}}}
    verifier: loop_parts:low
    items: 20
    siblings: 3
    sampling: {{temperature: 1.0}}
"""


@pytest.fixture(scope="session")
def config(tiny_model_path, tmp_path_factory):
    """``config(engine="ddp")``: the path of a file."""

    def write(engine="ddp"):
        path = tmp_path_factory.mktemp("config") / "tiny.yaml"
        path.write_text(CONFIG.format(model=tiny_model_path, engine=engine))
        return str(path)

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_model_path):
    return str(parts.trained(tiny_model_path, tmp_path_factory.mktemp("trained") / "first", steps=1))


@pytest.fixture(scope="session")
def alone(config, trained, processes):
    """The evaluation of one process: the base model and a checkpoint."""
    return processes("evaluate", 1, config=config(), checkpoints=[trained])[0] / "out"


def rows(folder, name):
    found = JsonLines(Path(folder, "letters", f"{name}.jsonl"))
    return sorted(found, key=lambda row: (row["group"], row["sibling"]))


def same(folder, other):
    """Byte for byte the same results, and answer for answer the same rows; they are written as they are finished."""
    assert (folder / "results.json").read_bytes() == (other / "results.json").read_bytes()
    for name in ("base", "first.step-1"):
        ours, theirs = rows(folder, name), rows(other, name)
        assert len(ours) == TASKS * 3
        assert [(r["task"], r["sibling"], r["reward"], r["verdict"], r["stop"], r["segments"]) for r in ours] == [
            (r["task"], r["sibling"], r["reward"], r["verdict"], r["stop"], r["segments"]) for r in theirs
        ]
    left, wanted = ({str(p.relative_to(at)) for p in at.rglob("*")} for at in (folder, other))
    assert left == wanted


@pytest.mark.parametrize(
    ("n", "engine"), [(2, "ddp"), (2, "fsdp"), pytest.param(4, "ddp", marks=pytest.mark.slow)], ids=str
)
def test_the_results_are_those_of_one_process(n, engine, config, trained, alone, processes):
    folder, told = processes("evaluate", n, config=config(engine), checkpoints=[trained])
    same(folder / "out", alone)
    wanted = json.loads((alone / "results.json").read_text())
    assert [one["results"] for one in told] == [wanted] * n
    assert [done for *_, label, done, _ in told[0]["told"] if label == "base"] == list(range(TASKS + 1))
    assert not any(one["told"] for one in told[1:])  # the first tells of all, whoever played it


def test_ctrl_c_in_one_ends_all_and_what_was_played_is_kept(config, trained, alone, processes):
    folder, told = processes("evaluate", 2, config=config(), checkpoints=[trained], fault=["letter-8", "ctrl-c"])
    assert [one["results"] for one in told] == ["interrupted"] * 2
    kept = (folder / "out" / "letters" / "base.jsonl").read_text()
    assert 5 * 3 <= kept.count("\n") < TASKS * 3  # it is the fifth that waited for room
    assert not (folder / "out" / "results.json").exists()
    _, told = processes("evaluate", 2, folder, config=config(), checkpoints=[trained])
    assert (folder / "out" / "letters" / "base.jsonl").read_text().startswith(kept)  # nothing was played twice
    same(folder / "out", alone)
    _, told = processes("evaluate", 2, folder, config=config(), checkpoints=[trained])
    assert [one["told"] for one in told] == [[], []]  # all is there


def test_an_error_in_one_ends_all_with_its_message(config, processes):
    folder, told = processes("evaluate", 2, config=config(), fault=["letter-8", "error"], fails=True)
    assert told["statuses"] == [1, 1]
    assert told["seconds"] < 40
    assert all("MemoryError: the cat sat on the GPU" in log for log in told["logs"])
    assert sum("EndedElsewhere: the cat sat on the GPU" in log for log in told["logs"]) == 1
    assert not (folder / "out" / "results.json").exists()


def test_what_the_first_process_refuses_all_refuse(config, processes, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    _, told = processes("evaluate", 2, tmp_path, config=config(), fails=True)
    assert told["statuses"] == [1, 1]
    assert "holds something else; give another --output" in told["logs"][0]
    assert "EndedElsewhere" in told["logs"][1]


@pytest.mark.slow
def test_torchrun(config, trained, alone, tmp_path):
    done = launched("torchrun", "eval", config(), trained, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("results: ") == 1
    same(tmp_path / "out", alone)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "score"])
def test_torchrun_and_what_runs_in_one_process(command, config):
    done = launched("torchrun", command, config())
    assert done.returncode != 0
    told = f"hone: `hone {command}` runs in one process, and the launcher started 2; of several run train, resume, eval"
    assert done.stderr.count(told) == 1, done.stderr
