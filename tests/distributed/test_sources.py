"""Sources that play to make their tasks, in several processes: what they store is what one process stores."""

import json
import signal
from pathlib import Path

import pytest
from launchers import launched

import hone

LETTERS = {"loop_parts:Letters": {"kinds": 7}}
EASY = {
    "rollouts": 4,
    "seed_passes": 1,
    "min_passes": 0,
    "drop": 0,
    "success": 0.2,
    "attempts": 2,
    "instruction": "{question}",
}
"""A random model has seeds and rewrites by this."""
MINE = {"failures": {"source": LETTERS, "store": "", "success": 0.5, "attempts": 6, "chunk": 2, "keep": 2, "batch": 3}}
SYNTH = {"synthrl": {"source": LETTERS, "store": "", "writer": {"synthesis_parts:Twice": {}}, "batch": 3, **EASY}}


@pytest.fixture(scope="session")
def config(tiny_model_path, tmp_path_factory):
    """``config(tasks, **settings)``: the path of a file."""

    def write(tasks, **changes):
        folder = tmp_path_factory.mktemp("config")
        [(name, settings)] = tasks.items()
        made = hone.Config(
            **{
                "model": {"path": tiny_model_path, "dtype": "float32"},
                "tasks": {name: settings | {"store": str(folder / "store")}},
                "verifier": "loop_parts:low",
                "sampler": {"native": {"max_sequences": 6}},
                "sampling": {"max_tokens": 5},
                "steps": 3,
                "prompts": 3,
                "siblings": 3,
                "gate": "everything",
                "optimizer": {"lr": 1e-2, "eps": 1e-2},
                "hooks": [{"log": {"tensorboard": False}}],
                "verification": {"workers": 1},
                "limits": {"sampling": 60, "update": 60},
                "device": "cpu",
            }
            | changes
        )
        (folder / "config.yaml").write_text(made.dump())
        return str(folder / "config.yaml")

    return write


def lines(path):
    return Path(path).read_text().splitlines()


def same_set(folder, other):
    """What a synthesis stored: the same rows in the same order, and once each what was paid for."""
    for name in ("accepted.jsonl", "rejected.jsonl"):
        assert lines(folder / "store" / name) == lines(other / "store" / name)
    paid, wanted = (lines(at / "store" / "journal.jsonl") for at in (folder, other))
    assert sorted(paid) == sorted(wanted)
    assert len({json.loads(line)["key"] for line in paid}) == len(paid)


@pytest.mark.parametrize("engine", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_failures_are_those_of_one_process(engine, config, processes):
    path = config(MINE, engine=engine)
    alone, [wanted] = processes("make", 1, config=path, command="mine")
    folder, told = processes("make", 2, config=path, command="mine")
    assert lines(folder / "store") == lines(alone / "store")
    assert len(lines(folder / "store")) == 7
    assert told[0]["made"] == told[1]["made"] == [wanted["made"][0] | {"store": str(folder / "store")}]
    assert (told[0]["told"], told[1]["told"]) == (wanted["told"], [])


@pytest.fixture(scope="session")
def synthesised(config, processes):
    """By one process: its folder, what it told, and the configuration."""
    path = config(SYNTH)
    alone, [told] = processes("make", 1, config=path, command="synth")
    assert told["made"][0]["accepted"] > 2
    return alone, told, path


def test_a_synthesised_set_is_that_of_one_process(synthesised, processes):
    alone, wanted, path = synthesised
    folder, told = processes("make", 2, config=path, command="synth")
    same_set(folder, alone)
    assert told[0]["made"] == told[1]["made"] == wanted["made"]
    assert (told[0]["told"], told[1]["told"]) == (wanted["told"], [])


@pytest.mark.parametrize("place", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_in_one_process_it_comes_to_the_same_set(place, synthesised, processes):
    alone, wanted, path = synthesised
    folder, told = processes("make", 2, config=path, command="synth", fault=[place, 3], fails=True)
    assert told["statuses"][place] == -signal.SIGKILL
    assert told["statuses"][1 - place] == 1
    assert 0 < len(lines(folder / "store" / "journal.jsonl")) < len(lines(alone / "store" / "journal.jsonl"))
    _, told = processes("make", 2, folder, config=path, command="synth")
    assert told[1]["made"] == wanted["made"]
    same_set(folder, alone)


REFRESHED = {"synthrl": SYNTH["synthrl"] | {"refresh": 2}}


def steps(folder):
    """Of each step its tasks, its rewards and the tokens that were sampled aside."""
    run = hone.Run(folder / "run")
    tasks = [(row["step"], row["task"], row["verdict"]) for row in run.rollouts]
    return tasks, [(row["step"], row["reward/mean"], row.get("tokens/aside", 0)) for row in run.metrics]


@pytest.fixture(scope="session")
def refreshed(config, processes):
    """A run of one process that synthesises while it trains: its folder and its configuration."""
    path = config(REFRESHED, steps=4)
    folder, _ = processes("train", 1, config=path, store=True)
    tasks, told = steps(folder)
    assert any("/synth-" in name for _, name, _ in tasks)
    assert sum(aside > 0 for *_, aside in told) > 1, told
    return folder, path


def questions(folder):
    return [json.loads(line)["question"] for line in lines(folder / "store" / "accepted.jsonl")]


@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_run_that_synthesises_is_that_of_one_process(engine, config, refreshed, processes):
    alone, _ = refreshed
    folder, _ = processes("train", 2, config=config(REFRESHED, steps=4, engine=engine), store=True)
    assert steps(folder) == steps(alone)
    assert questions(folder) == questions(alone)


@pytest.mark.slow
def test_interrupted_in_one_process_a_run_that_synthesises_goes_on(refreshed, processes):
    alone, path = refreshed
    folder, told = processes("train", 2, config=path, store=True, fault=[1, 1, signal.SIGINT])
    assert [(one["interrupted"], one["step"]) for one in told] == [(True, 2)] * 2
    processes("train", 2, folder, config=path, store=True, resume=True)
    assert steps(folder) == steps(alone)
    assert list(dict.fromkeys(questions(folder))) == questions(alone)


@pytest.mark.parametrize("part", [pytest.param("judge", marks=pytest.mark.slow), "writer"])
def test_the_first_process_asks_and_all_hear_of_it(part, config, processes):
    """A judge that is the run's own policy, whose tokens count; and a writer that is soon down."""
    chosen = {"judge": {"policy": {"sampling": {"max_tokens": 3}}}, "writer": {"synthesis_parts:Fails": {}}}[part]
    path = config(
        {"synthrl": REFRESHED["synthrl"] | {"refresh": 12, "source": {"loop_parts:Letters": {}}, part: chosen}}, steps=2
    )
    alone, [wanted] = processes("train", 1, config=path, store=True)
    folder, told = processes("train", 2, config=path, store=True)
    assert steps(folder) == steps(alone)
    assert told[0]["sampled"] == told[1]["sampled"] == wanted["sampled"] > 0
    replies = [json.loads(line)["value"] for line in lines(folder / "store" / "journal.jsonl") if "reply" in line]
    asked = [reply for reply in replies if "for" in reply]
    assert len(asked) == 1 if part == "writer" else sum(reply["tokens"] for reply in asked) > 3


@pytest.mark.slow
def test_a_launcher(config, processes, tmp_path):
    path = config(MINE)
    alone, _ = processes("make", 1, config=path, command="mine")
    done = launched("torchrun", "mine", path, f"tasks.failures.store={tmp_path / 'store'}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("tasks with a failure: ") == 1
    assert lines(tmp_path / "store") == lines(alone / "store")
