"""Whole runs of several processes: the run of one, whatever the layout; saved on some, resumed on others."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from launchers import LAUNCHERS, launched

import hone
from hone import checkpoint, runtime

CONFIG = """
model: {{path: {model}, dtype: float32}}
tasks: {{loop_parts:Letters: {{kinds: 9}}}}
verifier: loop_parts:low
sampler: {{native: {{max_sequences: 6}}}}
sampling: {{max_tokens: 5}}
steps: {steps}
prompts: 5
siblings: 3
max_rounds: 2
objective: {{policy_gradient: {{weights: [{{high_entropy: {{keep: 0.5}}}}], penalties: [{{kl_penalty: {{coefficient: 0.1}}}}]}}}}
update: {{minibatches: 2, tokens: 40}}
optimizer: {{lr: 1.0e-2, eps: 1.0e-2, weight_decay: 0.1}}
eval: {{letters: {{tasks: {{loop_parts:Letters: {{}}}}, items: 11, every: 1, siblings: 2}}}}
hooks:
  - prorl: {{triggers: [{{every: {{steps: 2}}}}], target: best, metric: eval/letters/accuracy, rollback: true}}
  - log: {{tensorboard: false}}
  - guard: {{every: 2}}
checkpoint: {{every: 1, keep: 9, best: eval/letters/accuracy}}
verification: {{workers: 1}}
limits: {{sampling: 60, update: 60}}
device: cpu
"""  # noqa: E501  it is YAML
STEPS = 4


@pytest.fixture(scope="session")
def config(tiny_model_path, tmp_path_factory):
    """``config(steps=4, **settings)``: the path of a file; settings are lines of it."""

    def write(steps=STEPS, **settings):
        path = tmp_path_factory.mktemp("config") / "config.yaml"
        text = CONFIG.format(model=tiny_model_path, steps=steps)
        path.write_text(text)
        data = hone.load_config(path, settings)
        path.write_text(data.dump())
        return str(path)

    return write


@pytest.fixture(scope="session")
def alone(config, processes):
    """The run of one process."""
    return processes("train", 1, config=config())[0] / "run"


def rows(folder):
    text = (folder / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [{name: v for name, v in row.items() if not name.startswith(("time/", "memory/"))} for row in found]


def rollouts(folder):
    found = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    return [
        (r["step"], r["task"], r["sibling"], r["kept"], [s["text"] for s in r["segments"]], r["verdict"]) for r in found
    ]


def saved(folder, step=STEPS):
    return checkpoint.load(folder / "checkpoints" / f"step-{step}")


def same_run(folder, other, *, first=0, tolerance=1e-5):
    """Metrics, trajectories, weights and moments, from a step on."""
    one, two = ([row for row in rows(path) if row["step"] >= first] for path in (folder, other))
    assert [set(row) for row in one] == [set(row) for row in two]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4 if first else tolerance)
        assert a.get("guard/findings", 0.0) == 0.0
    assert rollouts(folder) == rollouts(other)
    mine, theirs = saved(folder), saved(other)
    assert mine.keys() == theirs.keys()
    for name, weight in theirs["policy"].items():
        assert torch.allclose(mine["policy"][name], weight, atol=tolerance), name
    moments = [state["learner"]["optimizer"]["state"] for state in (mine, theirs)]
    for place, wanted in moments[1].items():
        assert moments[0][place]["step"] == wanted["step"]
        assert torch.allclose(moments[0][place]["exp_avg"], wanted["exp_avg"], atol=tolerance)
    assert mine["tasks"] == theirs["tasks"]


def logits(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(1, 9)[None]).logits


@pytest.mark.parametrize(
    ("n", "settings"),
    [
        (2, {}),
        pytest.param(4, {}, marks=pytest.mark.slow),
        (2, {"update.sequence_parallel": 2}),
        pytest.param(4, {"engine": "fsdp", "update.sequence_parallel": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"engine": "fsdp"}, marks=pytest.mark.slow),  # "saved on four" is one of these, too
        pytest.param(2, {"engine": "fsdp", "model.offload": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_run_is_that_of_one_process(n, settings, config, alone, processes):
    folder, told = processes("train", n, config=config(**settings))
    assert [one["leads"] for one in told] == [True] + [False] * (n - 1)
    same_run(folder / "run", alone)
    left, wanted = ({str(p.relative_to(at)) for p in at.rglob("*")} for at in (folder / "run", alone))
    assert left == wanted
    last = Path("checkpoints", f"step-{STEPS}")
    assert torch.allclose(logits(folder / "run" / last), logits(alone / last), atol=1e-4)


def test_saved_on_four_resumed_on_one_and_two(config, alone, processes, tmp_path):
    before, _ = processes("train", 4, config=config(steps=2, engine="fsdp"))
    for n, engine in ((1, "fsdp"), (2, "ddp")):
        folder = tmp_path / f"{n}"
        shutil.copytree(before / "run", folder / "run", symlinks=True)
        processes("train", n, folder, config=config(engine=engine), resume=True, allow=["settings"])
        same_run(folder / "run", alone, first=3, tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the most that was held cannot be told")
def test_a_process_holds_no_more_of_a_checkpoint_than_its_part(config, tiny_folder, processes):
    """Of two moments, of 51 MiB each; the weights are there."""
    large = {"model.path": tiny_folder("llama", hidden_size=1024, intermediate_size=2048), "eval": {}, "hooks": []}
    settings = large | {"checkpoint.best": None}
    folder, _ = processes("train", 1, config=config(steps=1, **settings))
    wanted = checkpoint.load(folder / "run" / "checkpoints" / "step-1")["learner"]["optimizer"]["state"]
    whole = sum(own["exp_avg"].nbytes for own in wanted.values()) / 2**20
    assert whole > 50
    _, found = processes("resume", 2, folder, config=config(steps=1, engine="fsdp", **settings))
    for one in found:
        assert all(torch.equal(one["moments"][place], own["exp_avg"]) for place, own in wanted.items())
    assert found[1]["more"] < 80  # half of two moments, and what comes with it; the whole file has 152


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", {"fsdp": {"replicas": 2}}], ids=str)
def test_saved_on_one_resumed_on_four(engine, config, alone, processes):
    folder, _ = processes("train", 1, config=config(steps=2))
    processes("train", 4, folder, config=config(engine=engine), resume=True, allow=["settings"])
    same_run(folder / "run", alone, first=3, tolerance=1e-4)


@pytest.mark.slow
def test_adapters(config, processes):
    wanted = processes("train", 1, config=config(**{"model.lora.rank": 4}))[0] / "run"
    for n, engine in ((2, "ddp"), (2, "fsdp")):
        folder, _ = processes("train", n, config=config(**{"model.lora.rank": 4, "engine": engine}))
        same_run(folder / "run", wanted)


def test_ctrl_c_in_one_process_ends_all_and_the_run_goes_on(config, alone, processes):
    folder, told = processes("train", 2, config=config(), fault=[1, 2, signal.SIGINT])
    assert [(one["interrupted"], one["step"]) for one in told] == [(True, 3)] * 2
    processes("train", 1, folder, config=config(), resume=True)
    same_run(folder / "run", alone, first=3, tolerance=1e-4)


@pytest.fixture(scope="session")
def ahead(config, processes):
    """The run of one process that samples two steps ahead."""
    return processes("train", 1, config=config(max_staleness=2))[0] / "run"


@pytest.mark.parametrize(
    ("n", "engine"),
    [pytest.param(2, "ddp", marks=pytest.mark.slow), (2, "fsdp"), pytest.param(4, "fsdp", marks=pytest.mark.slow)],
)
def test_a_run_that_samples_ahead_is_that_of_one_process(n, engine, config, ahead, processes):
    folder, _ = processes("train", n, config=config(max_staleness=2, engine=engine))
    same_run(folder / "run", ahead)
    told = [(row["staleness/updates"], row.get("staleness/dropped", 0)) for row in rows(ahead) if row["step"]]
    assert told == [(0, 0), (1, 0), (0, 10), (1, 0)]  # after step 2 the run goes back to better weights


def test_ctrl_c_in_one_process_that_samples_ahead_ends_all(config, processes):
    """What was cut short is sampled again by newer weights, so that what follows is another run's."""
    settings = {"max_staleness": 1, "steps": 6}
    folder, told = processes("train", 2, config=config(**settings), fault=[1, 2, signal.SIGINT])
    assert [(one["interrupted"], one["step"]) for one in told] == [(True, 3)] * 2
    _, told = processes("train", 2, folder, config=config(**settings), resume=True)
    assert [(one["interrupted"], one["step"]) for one in told] == [(False, 6)] * 2
    tasks = [row["task"] for row in map(json.loads, (folder / "run" / "rollouts.jsonl").open()) if not row["sibling"]]
    assert tasks == [f"letter-{i % 9}" for i in range(len(tasks))]  # each in its turn, none twice


@pytest.mark.parametrize("signal_number", [0, signal.SIGKILL], ids=["error", "killed"])
def test_what_ends_one_process_that_samples_ahead_ends_all(signal_number, config, processes):
    _, told = processes("train", 2, config=config(max_staleness=2), fault=[1, 1, signal_number], fails=True)
    assert told["statuses"] == [1, -signal_number or 1]
    assert told["seconds"] < 40
    assert signal_number or "EndedElsewhere: MemoryError in process 1 of 2: the cat sat on the GPU" in told["logs"][0]


def test_an_error_in_one_process_ends_all_with_its_message(config, processes):
    _, told = processes("train", 2, config=config(), fault=[1, 1, 0], fails=True)
    assert told["statuses"] == [1, 1]
    assert told["seconds"] < 40
    assert "MemoryError: the cat sat on the GPU" in told["logs"][1]
    assert "EndedElsewhere: MemoryError in process 1 of 2: the cat sat on the GPU" in told["logs"][0]


def test_a_process_that_is_killed_ends_all(config, processes):
    _, told = processes("train", 2, config=config(), fault=[1, 1, signal.SIGKILL], fails=True)
    assert told["statuses"] == [1, -signal.SIGKILL]
    assert told["seconds"] < 40
    assert "another process of the run has ended without a word" in told["logs"][0]


def test_what_waits_behind_a_slow_process_moves_to_another(processes):
    _, found = processes("playing", 2)
    told, heard = zip(*found, strict=True)
    assert told[0] == told[1]
    assert sorted(heard[0]) == list(enumerate(place for _, place in told[0]["played"]))  # of every group, once
    assert heard[0][0][1] == 1  # while its own first one was still being played
    assert heard[1] == []
    assert [name for name, _ in told[0]["played"]] == [f"{i}" for i in range(20)]  # each once, in their order
    by_the_slow_one = sum(place == 0 for _, place in told[0]["played"])
    assert 2 <= by_the_slow_one <= 5
    assert told[0]["failed"] == "no room for 1"


def test_what_several_processes_cannot_do(config, processes):
    _, told = processes("refusals", 2, config=config())
    assert (
        told[0]
        == told[1]
        == [
            "device: 'cuda:1' is one for 2 processes; give 'cuda', and each has its own",
            "engine: a Own cannot be sharded (load(device, shard)); use ddp",
            "engine.fsdp.replicas: 2 processes do not make 3 replicas",
            "model: process 1 loaded other weights than the first: is it one file?",
        ]
    )


def test_what_runs_in_one_process_says_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="started 2 processes, and only `hone train`"):
        runtime.device("cpu")


def test_what_one_process_refuses_all_refuse(config, processes, tmp_path):
    """A folder that holds a run: only the first process looks."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    _, told = processes("train", 2, tmp_path, config=config(), fails=True)
    assert told["statuses"] == [1, 1]
    assert "FileExistsError" in told["logs"][0]
    assert "EndedElsewhere" in told["logs"][1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers(launcher, config, alone, tmp_path):
    done = launched(launcher, "train", config(), f"folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ended at step 4 of 4") == 1
    same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_launcher_shows_the_message_of_the_process_that_failed(config, tmp_path):
    path = Path(config())
    path.write_text(path.read_text().replace("loop_parts:low", "loop_parts:broken"))
    done = launched("torchrun", "train", str(path), f"folder={tmp_path / 'run'}")
    assert done.returncode != 0
    assert done.stderr.count("hone: step 1: no verdict on any of") == 1, done.stderr
