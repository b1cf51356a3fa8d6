import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import yaml

from hone import cli, collate, peaks
from hone.learner import Learner
from hone.objectives.policy_gradient import PolicyGradient
from hone.planning import hardware
from hone.planning.memory import Layout
from hone.planning.plan import Planner
from hone.planning.remedies import remedies
from hone.planning.report import conclusion
from hone.policies.causal_lm import CausalLM
from hone.sections import OptimizerConfig, UpdateConfig


def test_every_entry_of_the_table_loads():
    table = hardware.shipped()
    assert {"cpu", "h100", "h200", "a100-80g", "rtx4090"} <= table.keys()
    assert table["h100"].dtype("auto") == "bfloat16"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mine: {title: x}", "mine: memory"),
        ("- 1", "should hold a mapping"),
        ("a: {}\nb: {}", "say which"),
        ("mine: [", "is not YAML"),
    ],
)
def test_a_bad_table_is_told(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        hardware.load(str(path))


def test_an_unknown_name_is_told_with_those_that_are_known():
    with pytest.raises(ValueError, match="cpu, h100"):
        hardware.load("h1000")


def test_what_does_not_fit_is_told_with_what_would(tiny_config, gear):
    config = tiny_config(prompts=16, siblings=16, sampling={"max_tokens": 400}, update={"tokens": 16384})
    planner = Planner(config, gear())
    need = planner.plan().peak[1]
    tight = Planner(config, gear(memory=0.6 * need))
    plan = tight.plan()
    assert plan.peak[0] == "update"
    assert not plan.fits
    ways = remedies(tight, plan)
    assert any(way.startswith("update.tokens=") for way in ways)
    assert "model.gradient_checkpointing=true" in ways
    [tokens] = [int(way.partition("=")[2]) for way in ways if way.startswith("update.tokens=")]
    config.update.tokens = tokens
    assert Planner(config, gear(memory=0.6 * need)).plan().fits
    config.update.tokens = 2 * tokens
    assert not Planner(config, gear(memory=0.6 * need)).plan().fits


def test_weights_that_fit_no_device_fit_several(tiny_config, gear):
    config = tiny_config(shape={"num_hidden_layers": 6})
    need = Planner(config, gear()).plan().peak[1]
    tight = Planner(config, gear(memory=0.8 * need))
    assert any(way.startswith("--sharding fsdp --devices") for way in remedies(tight, tight.plan()))


def test_cost_and_time_of_a_run(tiny_config, gear):
    plan = Planner(tiny_config(), gear()).plan(Layout(4))
    assert plan.seconds == 10 * plan.step
    assert plan.cost == pytest.approx(3.6 * 4 * plan.seconds / 3600)
    assert Planner(tiny_config(), gear(price=None)).plan().cost is None


def test_time_by_hand(tiny_config, gear):
    plan = Planner(tiny_config(), gear(layer=1e-3)).plan()
    shape = plan.shape
    passes = 20  # six sequences at once
    assert plan.sampling["layers"] == pytest.approx(passes * 2 * 1e-3)
    arithmetic, moving = 2 * (shape.products + shape.head) * 6 / 1e12, (shape.products + shape.head) * 4 / 1e9
    assert plan.sampling["weights"] == pytest.approx(passes * math.hypot(arithmetic, moving))
    assert plan.update["optimiser"] == pytest.approx(shape.trained * 52 / 1e9)
    assert plan.update["gathering"] == 0


@pytest.fixture
def written(tiny_config, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config(checkpoint={"at_end": False}, steps=3, gate="everything").dump())
    return path


def test_a_step_that_plays_ahead_takes_as_long_as_the_slower_of_the_two(tiny_config, gear):
    """Where servers play; on one device the two share what it has."""
    servers = {"vllm_server": {"exchange": "/dev/shm/hone"}}
    plans = [Planner(tiny_config(max_staleness=1, **sampler), gear()).plan() for sampler in ({"sampler": servers}, {})]
    beside, shared = ([sum(part.values()) for part in (plan.sampling, plan.update)] for plan in plans)
    assert plans[0].step == max(beside)
    assert plans[1].step == pytest.approx(sum(shared))
    assert ["of its own" in "".join(conclusion(plan)) for plan in plans] == [True, False]


def test_of_several_devices_each_plays_ahead_by_a_copy_of_all_weights(tiny_config, gear):
    config = tiny_config(max_staleness=1, model={"dtype": "float32"})
    held = [Planner(config, gear()).plan(Layout(n, "fsdp")).phases["update"].device for n in (1, 2)]
    assert held[1]["weights"] == pytest.approx(held[0]["weights"] / 2)
    assert held[1]["older weights"] == held[0]["older weights"] == held[0]["weights"]


def test_the_command_refuses_what_cannot_fit(written, tmp_path, capsys):
    table = yaml.safe_load(hardware.TABLE.read_text())
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"small": {**table["cpu"], "memory": 1e6, "reserve": 9e5}}))
    assert cli.main(["plan", str(written), "--hardware", str(tmp_path / "small.yaml")]) == 1
    assert "does not fit" in capsys.readouterr().out
    assert cli.main(["plan", str(written), "--hardware", "h100", "prompts=3"]) == 0
    assert "3 x 3" in capsys.readouterr().out
    assert cli.main(["plan", str(written), "--devices", "1025"]) == 2
    assert "1 to 1024" in capsys.readouterr().err


def test_a_run_shows_what_was_predicted_and_what_it_took(written, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert cli.main(["train", str(written), f"folder={run}"]) == 0
    capsys.readouterr()
    assert cli.main(["plan", str(run), "--hardware", "cpu"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("memory/update", "time/sample", "predicted", "measured"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(row["memory/update"] > 100 for row in rows if row["step"])


def taken(folder, small, groups):
    """Bytes that an update takes in a process that has freed nothing before, which the C library would use again."""
    torch.set_num_threads(1)
    policy = CausalLM(path=str(folder), dtype="float32", head_memory_mb=8)
    policy.load(torch.device("cpu"))
    learner = Learner(policy, PolicyGradient(), OptimizerConfig(), UpdateConfig(tokens=8192), steps=10, temperature=1.0)
    assert len(collate.batches(groups, policy, tokens=8192, temperature=1.0)) == 1
    learner.update(small, 0)  # the moments
    peaks.peak()
    before = peaks.peak()
    learner.update(groups, 1)
    return (peaks.peak() - before) * 2**20


def test_an_update_takes_the_memory_that_was_predicted(tiny_config, tiny_folder, gear, make_group):
    shape = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64, "num_hidden_layers": 4,
             "max_position_embeddings": 2048}  # fmt: skip
    config = tiny_config(shape=shape, prompts=4, siblings=4, sampling={"max_tokens": 250}, model={"head_memory_mb": 8})
    planner = Planner(config, gear(reserve=0.0), prompt=24)
    phase = planner.plan().phases["update"]
    folder, groups = tiny_folder(**shape), [make_group(24, (250,) * 4, seed=i) for i in range(4)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        measured = fresh.submit(taken, folder, [make_group(4, (2, 2))], groups).result()
    own = sum(phase.device[name] for name in ("activations", "logits", "gradient of the head", "gradients"))
    assert own == pytest.approx(measured, rel=0.15)
