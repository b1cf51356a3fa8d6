"""Settings under which an engine starts in two seconds, and what the tests ask of one."""

import asyncio
import random

import loop_parts as parts
import torch
import yaml
from launchers import launched

import hone
from hone import checkpoint
from hone.types import Group, Segment, Task, Trajectory

WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""A model that vLLM's attention on a CPU takes: it wants heads of 32 at least."""
ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
END = 256


def context(n, seed=0):
    draw = random.Random(seed)
    return Segment("prompt", "given", tuple(draw.randrange(250) for _ in range(n)))


def run(sampler, *requests, **options):
    async def gather():
        tasks = [sampler.sample([prompt], params) for prompt, params in requests]
        return await asyncio.wait_for(asyncio.gather(*tasks, **options), timeout=60)

    return asyncio.run(gather())


def tokens(completion):
    return completion.segments[0].actions


def worst_gap(policy, score_groups, requests, completions, temperature=1.0):
    """Of the policy's own log-probabilities and those of the samples, in nats."""
    task = Task("t", [])
    groups = [
        Group(task, [Trajectory(task, [prompt, *completion.segments], reward=0.0)])
        for (prompt, _), completion in zip(requests, completions, strict=True)
    ]
    with torch.no_grad():
        scores = score_groups(policy, groups, temperature=temperature)
    pairs = zip((c.segments[0].logprobs for c in completions), scores, strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def train_as_one(model, folder, *, engine, lag, sampler):
    """A run of one process and one of two have the same answers, versions and weights, and the guard finds nothing."""
    settings = {"steps": 4, "prompts": 4, "siblings": 4, "hooks": [{"guard": {"every": 2}}], "gate": "everything"}
    settings |= {"sampler": sampler, "engine": engine, "checkpoint": {"every": 1}}
    settings |= {"tasks": "loop_parts:Letters", "verifier": "loop_parts:low", "max_staleness": lag}
    found = []
    for several in (False, True):
        made = parts.settings(model, folder / f"{several}", **settings)
        (folder / "config.yaml").write_text(yaml.safe_dump(made))
        if several:
            done = launched("torchrun", "train", str(folder / "config.yaml"), timeout=500)
            assert done.returncode == 0, done.stderr[-3000:]
            found.append(hone.Run(made["folder"]))
        else:
            found.append(hone.Trainer(hone.load_config(folder / "config.yaml")).fit())
    for each in found:
        assert {row["step"]: row["version"] for row in each.rollouts} == {s: max(0, s - 1 - lag) for s in range(1, 5)}
        gaps = [row["mismatch/max"] for row in each.metrics if "mismatch/max" in row]
        assert max(gaps[: None if not lag else 1]) < 1e-3
        assert sum(row["guard/findings"] for row in each.metrics if "guard/findings" in row) == 0
    fields = ("step", "task", "reward", "segments")
    played = [[[row[name] for name in fields] for row in each.rollouts] for each in found]
    assert played[0] == played[1]
    weights = [checkpoint.load(each.checkpoints[-1])["policy"] for each in found]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-5)
