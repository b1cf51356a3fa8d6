"""Settings under which an engine starts in two seconds, and what the tests ask of one."""

import asyncio
import random

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
    import torch

    with torch.no_grad():
        scores = score_groups(policy, groups, temperature=temperature)
    pairs = zip((c.segments[0].logprobs for c in completions), scores, strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
