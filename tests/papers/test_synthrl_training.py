"""Between a source and the trainer, with real policies; and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from loop_parts import Letters, settings
from synthesis_parts import Player, Scripted, Tasks, Twice, tagged, task

import hone
from hone import document
from hone.papers.synthrl import SynthRL
from hone.policies.causal_lm import CausalLM
from hone.samplers.native import NativeSampler
from hone.session import Session, make, within
from hone.synthesis.provenance import fingerprint
from hone.synthesis.rewriting import SLOT

EASY = {"rollouts": 4, "seed_passes": 1, "min_passes": 0, "drop": 0, "success": 0.2, "attempts": 1, "instruction": SLOT}
"""A random model has seeds and rewrites by this."""


def synthrl(folder, **changes):
    return SynthRL(**({"source": Letters(), "writer": Twice(), "store": str(folder), "batch": 3} | EASY | changes))


def config(model, folder, **changes):
    return hone.Config(**settings(model, folder / "run", **changes))


def asked(run):
    return [(row["step"], row["task"]) for row in run.rollouts if row["sibling"] == 0]


# Refreshing, without a model


def refreshing(tmp_path, player, count=6, **changes):
    texts = [f"n{i} seed c=14" for i in range(count)]
    source = SynthRL(
        source=Tasks(task(text, name=f"t/{i}") for i, text in enumerate(texts)),
        writer=Scripted(lambda text, n: tagged(f"harder {text.split()[0]} c=9")),
        store=str(tmp_path / "set"),
        instruction=SLOT,
        attempts=1,
        **({"refresh": 2} | changes),
    )
    source.bind(player)
    return source


def test_each_block_is_synthesised_when_its_first_task_is_asked_for(tmp_path):
    player = Player()
    source = refreshing(tmp_path, player)
    assert player.rollouts == 0
    first = list(islice(source, 4))
    assert {t.id.partition("/synth-")[0] for t in first} == {"t/0", "t/1"}
    assert sum("/synth-" in t.id for t in first) == 2
    spent = player.rollouts
    assert spent == 2 * 4 * 16  # two seeds and two rewrites, each of them twice
    player.weights = "weights-1"
    next(source)
    assert player.rollouts == 2 * spent
    rows = [json.loads(line) for line in (tmp_path / "set" / "accepted.jsonl").read_text().splitlines()]
    assert [row["provenance"]["solver"] for row in rows] == ["weights-0"] * 2 + ["weights-1"] * 2


def test_the_current_policy_measures_again_what_an_earlier_one_measured(tmp_path):
    player = Player()
    list(refreshing(tmp_path, player))
    spent = player.rollouts
    list(refreshing(tmp_path, player))
    assert player.rollouts == spent
    player.weights = "weights-1"
    source = refreshing(tmp_path, player)
    list(source)
    assert player.rollouts == 2 * spent
    assert source.writer.calls.total() == 0, "the rewrites themselves are there"


def test_without_refresh_the_store_is_read_and_nothing_is_played(tmp_path):
    player = Player()
    list(refreshing(tmp_path, player))
    spent = player.rollouts
    tasks = list(refreshing(tmp_path, player, refresh=0))
    assert player.rollouts == spent
    assert sum("/synth-" in t.id for t in tasks) == 6


def test_a_writer_that_is_down_does_not_end_training(tmp_path, caplog):
    source = refreshing(tmp_path, Player(), count=20, refresh=10)
    source.writer.reply = lambda text, n: ConnectionError("down")
    tasks = list(source)
    assert [t.id for t in tasks] == [f"t/{i}" for i in range(20)]
    assert "no rewrites of 10 tasks: scripted: 8 requests in a row failed" in caplog.text


def test_interrupted_while_it_synthesises_it_is_where_it_was(tmp_path):
    player = Player()
    source = refreshing(tmp_path, player)
    list(islice(source, 4))
    state = source.state_dict()
    play = player.play
    player.play = lambda *args, **rest: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        next(source)
    assert source.state_dict() == state
    player.play = play
    assert {t.id.partition("/synth-")[0] for t in source} == {"t/2", "t/3", "t/4", "t/5"}


# With the trainer


def test_training_sees_tasks_and_rewrites_and_resumes_exactly(tmp_path, tiny_model_path):
    def run(name, steps, resume=False):
        made = config(
            tiny_model_path, tmp_path / name, tasks=synthrl(tmp_path / name / "set", refresh=3), steps=steps,
            checkpoint={"every": 1},
        )  # fmt: skip
        return hone.Trainer(made).fit(resume=resume, allow=("steps",))

    whole = run("whole", 5)
    names = [name for _, name in asked(whole)]
    assert any("/synth-" in name for name in names)
    assert len(set(names)) == len(names)
    run("parted", 2)
    parted = run("parted", 5, resume=True)
    assert asked(parted) == asked(whole)
    for name in ("reward/mean", "loss", "grad_norm", "tokens/sampled"):
        assert [row[name] for row in parted.metrics] == [row[name] for row in whole.metrics]
    assert whole.metrics[0]["tokens/aside"] > 0


def test_a_run_that_is_resumed_behind_a_refresh_pays_for_it_once(tmp_path, tiny_model_path):
    """The checkpoint is older than the last refresh: that is made again, and comes out of the journal."""

    def run(steps, resume=False):
        made = config(
            tiny_model_path, tmp_path, tasks=synthrl(tmp_path / "set", refresh=2), steps=steps, checkpoint={"every": 2}
        )
        return hone.Trainer(made).fit(resume=resume, allow=("steps",))

    first = run(3)
    for path in Path(first.folder, "checkpoints").glob("step-3*"):
        path.rename(path.with_name("lost"))
    journal = (tmp_path / "set" / "journal.jsonl").read_text()
    again = run(3, resume=True)
    assert asked(again) == asked(first)
    assert (tmp_path / "set" / "journal.jsonl").read_text() == journal
    spent = [[row.get("tokens/aside") for row in found.metrics] for found in (first, again)]
    assert spent[0] == spent[1]  # it costs what it cost
    assert any(spent[0])


def test_the_command_makes_a_set_and_leaves_the_source_where_it_was(tmp_path, tiny_model_path):
    told = []
    made = config(tiny_model_path, tmp_path, tasks=synthrl(tmp_path / "set", limit=7))
    [summary] = make(made, "synth", told.append)
    assert summary["tasks"] == 7
    assert summary["accepted"] > 0
    assert told[-1] == f"7 tasks, {summary['accepted']} rewrites accepted"
    assert len(told) == 3
    assert made.tasks.source.cursor == 0
    run = hone.Trainer(made).fit()
    assert any("/synth-" in name for _, name in asked(run))
    assert all(row.get("tokens/aside", 0) == 0 for row in run.metrics)


def test_sessions_find_the_sources_within(tmp_path):
    inner, avoided = Letters(), Letters()
    source = synthrl(tmp_path, source=inner, avoid=[avoided])
    assert list(within(source)) == [source, inner, avoided]


def test_the_verifier_has_the_weights_of_the_initial_policy(tmp_path, tiny_model_path):
    made = config(tiny_model_path, tmp_path, tasks=synthrl(tmp_path / "set", limit=4))
    make(made, "synth", lambda line: None)
    policy = CausalLM(path=tiny_model_path, dtype="float32")
    policy.load("cpu")
    initial = fingerprint(tiny_model_path, policy.state_dict())
    assert {row["provenance"]["solver"] for row in rows(tmp_path)} == {initial}


def test_another_policy_verifies_only_when_it_is_asked_for(tmp_path, tiny_model_path, tiny_folder):
    own = CausalLM(path=tiny_folder("qwen3"), dtype="float32")
    source = synthrl(tmp_path / "set", limit=4, solver=own, solver_sampler=NativeSampler())
    with Session(config(tiny_model_path, tmp_path, tasks=source)) as session:
        next(source)
        assert own.model is None, "nothing needs it before something is played"
        source.make(lambda line: None)
        assert source.solver_sampler._policy is own
        assert session.sampler._policy is session.policy
        [solver] = {row["provenance"]["solver"] for row in rows(tmp_path)}
        assert solver == fingerprint(own.path, own.state_dict()) != session.fingerprint()


def test_a_second_copy_of_the_initial_policy_verifies_while_the_policy_learns(tmp_path, tiny_model_path):
    own = CausalLM(path=tiny_model_path, dtype="float32")
    source = synthrl(tmp_path / "set", refresh=2, solver=own, solver_sampler=NativeSampler())
    made = config(tiny_model_path, tmp_path, tasks=source, steps=4)
    hone.Trainer(made).fit()
    assert len({row["provenance"]["solver"] for row in rows(tmp_path)}) == 1
    source = synthrl(tmp_path / "other" / "set", refresh=2)
    hone.Trainer(config(tiny_model_path, tmp_path / "other", tasks=source, steps=4)).fit()
    assert len({row["provenance"]["solver"] for row in rows(tmp_path / "other")}) > 1


def rows(folder):
    text = "".join((folder / "set" / f"{name}.jsonl").read_text() for name in ("accepted", "rejected"))
    return [json.loads(line) for line in text.splitlines()]


YAML = """
tasks:
  synthrl:
    source: {reasoning_gym: {tasks: gcd}}
    writer: {policy: {sampling: {max_tokens: 30}}}
    judge: {openai: {model: judge, base_url: "http://localhost:1/v1"}}
    store: data/synth
    acceptance: posterior
    avoid: [{reasoning_gym: {tasks: gcd, split: heldout}}]
    environment: {single_turn: {system: s}}
    sampling: {max_tokens: 20}
    solver: {causal_lm: {path: smollm2-135m}}
    solver_sampler: native
verifier: reasoning_gym
"""


def test_a_configuration_with_every_part_loads_and_dumps(tiny_model_path):
    made = hone.Config(model=tiny_model_path, **document.read(YAML))
    assert hone.Config(**document.read(made.dump())) == made
    dumped = document.read(made.dump())["tasks"]["synthrl"]
    assert dumped["judge"]["openai"]["key_env"] == "OPENAI_API_KEY"
    assert dumped["rollouts"] == 16
    assert not [name for name in dumped if name.startswith("_")]
    assert next(made.tasks).id.startswith("reasoning_gym/gcd")


def test_a_rewritten_reasoning_gym_task_is_judged_by_the_seeds_entry():
    from hone.synthesis.rewriting import rewritten
    from hone.tasks.reasoning_gym import ReasoningGym
    from hone.types import Segment, Trajectory
    from hone.verifiers.reasoning_gym import ReasoningGymVerifier

    verifier = ReasoningGymVerifier()
    for name in ("gcd", "chain_sum", "countdown"):
        seed = next(ReasoningGym(tasks=name))
        harder = rewritten(seed, "Another text altogether.", "x")
        assert harder.meta["entry"] == seed.meta["entry"]
        right = verifier.example(seed)
        for text, value in ((right, 1), ("<answer>-1</answer>", 0)):
            assert verifier(harder, Trajectory(harder, [Segment("response", "policy", (), text=text)])).value == value


# Killed


CHILD = """
import asyncio, json, random, sys, time
sys.path[:0] = [{tests!r}]
from synthesis_parts import Player, Tasks, tagged, task
from hone.papers.synthrl import SynthRL

class Writer:
    name = "seeded"
    def bind(self, player): ...
    async def write(self, messages, *, seed):
        await asyncio.sleep(0.003)
        name = messages[-1]["content"].split()[0]
        return tagged(f"harder {{name}} take {{seed % 1000}} p={{seed % 90 / 100 + 0.05}}")

class Slow(Player):
    def play(self, *args, **rest):
        groups = super().play(*args, **rest)
        time.sleep(0.01)
        return groups

source = SynthRL(
    source=Tasks(task(f"n{{i}} seed p=0.9", name=f"t/{{i}}") for i in range(10)), writer=Writer(), store=sys.argv[1],
    instruction="{{question}}", attempts=3, batch=3, fresh="require",
)
source.bind(Slow())
print(json.dumps(source.make(lambda line: None)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_killed_at_several_points_it_comes_to_the_same_set(tmp_path):
    code = CHILD.format(tests=str(Path(__file__).parents[1]))

    def start(store):
        return subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True)

    whole, _ = start(tmp_path / "whole").communicate(timeout=60)
    journal = tmp_path / "killed" / "journal.jsonl"
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().count(b"\n")
    killed = 0
    for point in (1, lines // 5, lines // 2, 4 * lines // 5):
        child = start(tmp_path / "killed")
        while child.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= point):
            time.sleep(0.001)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.communicate()
    assert killed >= 3
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')
    last, _ = start(tmp_path / "killed").communicate(timeout=60)
    assert json.loads(last) == json.loads(whole)
    assert json.loads(whole)["accepted"] > 0
    for name in ("accepted", "rejected"):
        assert (tmp_path / "killed" / f"{name}.jsonl").read_bytes() == (
            tmp_path / "whole" / f"{name}.jsonl"
        ).read_bytes()
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len({row["key"] for row in kept}) == len(kept) == lines, "nothing was paid for twice"
