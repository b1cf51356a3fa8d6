"""A run that SIGKILL ends at any moment, and that is resumed, is the run that was never killed, bit for bit."""

import json
import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from loop_parts import same

import hone

HERE = Path(__file__).parent
CONFIG = """
model: {{path: {model}, dtype: float32}}
tasks:
  mixture:
    sources:
      read: {{files: {{path: {rows}, prompt: "{{q}}", answer: "{{a}}"}}}}
      made:
        synthrl:
          source: loop_parts:Letters
          writer: synthesis_parts:Twice
          store: {store}
          rollouts: 3
          seed_passes: 1
          min_passes: 0
          drop: 0
          success: 0.2
          attempts: 1
          instruction: "{{question}}"
          refresh: 2
verifier: loop_parts:low
sampling: {{max_tokens: 5}}
steps: 9
prompts: 3
siblings: 3
max_rounds: 2
objective: {{policy_gradient: {{penalties: [{{kl_penalty: {{coefficient: 0.1}}}}]}}}}
shapers: [{{kl_reward: {{coefficient: 0.1}}}}]
update: {{minibatches: 2, epochs: 2}}
optimizer: {{lr: 1.0e-2, schedule: cosine, warmup_steps: 2, weight_decay: 0.1}}
stages: {{3: {{siblings: 4, sampling.max_tokens: 6}}}}
eval: {{letters: {{tasks: {{loop_parts:Letters: {{kinds: 3}}}}, items: 3, every: 2, siblings: 2}}}}
hooks:
  - prorl:
      triggers: [{{every: {{steps: 2}}}}]
      target: best
      metric: eval/letters/accuracy
      rollback: true
      restart_schedule: true
  - budget: {{tokens: 900}}
  - log: {{tensorboard: false}}
checkpoint: {{every: 2, keep: 2, best: eval/letters/accuracy}}
verification: {{workers: 1}}
device: cpu
"""
AHEAD = CONFIG.replace("refresh: 2", "refresh: 0") + "max_staleness: 2\n"
TRIED, USUAL = range(30), range(100, 102)


class Killer:
    """The process that starts runs, and what a run is that is left alone."""

    def __init__(self, folder, model, config=CONFIG):
        self.folder, self.model, self.config, self.mark = folder, model, config, uuid.uuid4().hex
        paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "killed.py")],
            env={**os.environ, "PYTHONPATH": paths, "HONE_TEST": self.mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ended = self.run("whole")
        assert ended["status"] == 0, ended["log"]
        self.whole, self.counts, self.seconds = left(folder / "whole"), ended["counts"], ended["seconds"]

    def run(self, name, *, resume=False, kill=None):
        config = self.folder / f"{name}.yaml"
        rows = self.folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"q": letter, "a": letter}) + "\n" for letter in "klmnopqrs"))
        config.write_text(self.config.format(model=self.model, rows=rows, store=self.folder / f"{name}-set"))
        job = {"config": str(config), "folder": str(self.folder / name), "resume": resume, "kill": kill}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def point(self, number):
        """A random moment: where to die, at which of its calls there, and how far into it."""
        draw = random.Random(number)
        names = [*sorted(self.counts), "clock"]
        place = names[number % len(names)]
        when = draw.uniform(0.1, 0.9) * self.seconds if place == "clock" else draw.randint(1, self.counts[place])
        return [place, when, draw.random()]

    def orphans(self):
        return [p for p in psutil.process_iter() if p.pid != self.process.pid and self.mark in str(environment(p))]

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def environment(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.fixture(scope="module")
def killer(tmp_path_factory, tiny_model_path):
    made = Killer(tmp_path_factory.mktemp("killed"), tiny_model_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ahead(tmp_path_factory, tiny_model_path):
    made = Killer(tmp_path_factory.mktemp("ahead"), tiny_model_path, AHEAD)
    yield made
    made.close()


def left(folder):
    """All that a run leaves, but for times."""
    from hone import checkpoint

    run = hone.Run(folder)
    state = checkpoint.load(checkpoint.latest(folder))
    entries = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return {
        "state": state,
        "metrics": [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in run.metrics],
        "tasks": [(row["step"], row["task"]) for row in run.rollouts],
        "rollouts": list(run.rollouts),
        "evaluations": {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("evals/*/*"))},
        "resets": (folder / "resets.jsonl").read_bytes(),
        "checkpoints": entries,
        "best": run.best.name,
        "damage": [checkpoint.damage(path) for path in run.checkpoints],
    }


def test_the_run_has_all_that_could_be_lost(killer):
    whole = killer.whole
    last = whole["metrics"][-1]["step"]
    assert 6 <= last < 9  # the budget ends it
    assert {"best", f"step-{last}"} < set(whole["checkpoints"])
    assert whole["metrics"][-1]["reset/count"] >= 2
    assert whole["state"]["reference"]
    assert sum(row.get("tokens/aside", 0) > 0 for row in whole["metrics"]) > 2
    assert any("/synth-" in name for _, name in whole["tasks"])
    assert any(name.startswith("read/") for _, name in whole["tasks"])
    assert whole["damage"] == [None] * len(whole["damage"])
    assert min(killer.counts.values()) > 0


@pytest.mark.parametrize(
    "number", [*(pytest.param(number, marks=pytest.mark.slow) for number in TRIED), *USUAL], ids=str
)
def test_a_killed_run_that_is_resumed_is_the_run_that_was_not(killer, number):
    resumed(killer, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", TRIED)
def test_so_is_one_that_samples_ahead(ahead, number):
    """What waits at a checkpoint is in it, and resets leave weights that have sampled."""
    assert ahead.whole["state"]["ahead"].keys() == {"waiting", "lost"}
    assert any(row.get("staleness/dropped") for row in ahead.whole["metrics"])
    resumed(ahead, number)


def resumed(killer, number):
    name = f"run-{number}"
    kills = [killer.point(number), *([killer.point(number + 1000)] if number % 3 == 0 else [])]
    begun = False
    for kill in kills:
        ended = killer.run(name, resume=begun, kill=kill)
        assert ended["status"] in ((-9,) if not begun else (-9, 0)), (kill, ended["log"])  # a second one may come late
        begun = Path(killer.folder, name, "config.yaml").exists()
    ended = killer.run(name, resume=begun)
    assert ended["status"] == 0, (kills, ended["log"])
    found = left(killer.folder / name)
    for what, value in killer.whole.items():
        assert same(found[what], value), (kills, what)
    deadline = time.monotonic() + 20
    while killer.orphans() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not killer.orphans()  # the workers of a killed run end, too
