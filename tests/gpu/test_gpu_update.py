"""A GPU's update is a CPU's: scores, gradients, weights; packed by blocks, compiled, recomputed, offloaded."""

import copy

import pytest
import torch

from hone import collate
from hone.build import build
from hone.learner import Learner
from hone.sections import OptimizerConfig, UpdateConfig


@pytest.fixture
def groups(make_group):
    return [make_group(40, (5, 9, 33, 8), seed=1), make_group(7, (150, 12, 3, 64), seed=2)]


def learner(policy, tokens=4096, lr=1e-3, clip=1.0):
    optimizer = OptimizerConfig(lr=lr, max_grad_norm=clip)
    return Learner(
        policy, build("objective", "policy_gradient"), optimizer, UpdateConfig(tokens=tokens), steps=9, temperature=0.9
    )


def scores(policy, groups):
    found = {}
    for batch in collate.batches(groups, policy, tokens=4096, temperature=0.9):
        with torch.no_grad():
            made = policy.score(batch)
        for name, values in (("logprobs", made.logprobs), ("entropy", made.entropy)):
            found |= {(name, index): v for index, v in collate.spread(values, batch).items()}
    return found


def close(some, others, tolerance):
    assert some.keys() == others.keys()
    for name, values in some.items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(others[name]), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("kind", "compile"), [("llama", False), ("gemma3", False), ("qwen3", False), ("llama", True), ("gemma3", True)]
)
def test_scores_and_gradients_are_those_of_a_cpu(kind, compile, on, groups):
    cpu, gpu = on("cpu", kind), on("cuda", kind, compile=compile)
    assert gpu.packs == cpu.packs
    close(scores(gpu, groups), scores(cpu, groups), 1e-4)
    found, wanted = (learner(policy).gradient(groups, tokens=4096) for policy in (gpu, cpu))
    torch.testing.assert_close(found, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=1e-3)


def test_trees_by_blocks_are_used(on):
    assert on("cuda").packs


def test_bfloat16_is_near(on, groups):
    """Logits of these models are large, so single steps may be far off; they are so on a CPU as well."""
    exact = scores(on("cuda"), groups)
    for device in ("cpu", "cuda"):
        near = scores(on(device, dtype="bfloat16"), groups)
        gaps = torch.cat([(torch.tensor(v) - torch.tensor(exact[n])).abs() for n, v in near.items()])
        assert gaps.mean() < 0.15


@pytest.mark.parametrize(
    "settings", [{"gradient_checkpointing": True}, {"lora": {"rank": 4}}, {"head_memory_mb": 1}, {"offload": True}]
)
def test_settings_change_nothing_but_memory(settings, on, groups):
    plain = {"lora": settings["lora"]} if "lora" in settings else {}
    cpu, gpu = on("cpu", **plain), on("cuda", **settings)
    found, wanted = (learner(policy).gradient(groups, tokens=4096) for policy in (gpu, cpu))
    torch.testing.assert_close(found, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_update_is_that_of_a_cpu(dtype, on, groups):
    trained = []
    for device in ("cpu", "cuda"):
        policy = on(device, dtype=dtype)
        before = copy.deepcopy({name: value.cpu() for name, value in policy.state_dict().items()})
        metrics = learner(policy, lr=1e-3).update(groups, 0)
        moved = {n: v.cpu() - before[n] for n, v in policy.state_dict().items()}
        trained.append((metrics, torch.cat([v.flatten() for v in moved.values()])))
    (of_cpu, moved), (of_gpu, there) = trained
    wide = dtype == "float32"
    assert of_gpu["grad_norm"] == pytest.approx(of_cpu["grad_norm"], rel=1e-3 if wide else 0.1)
    assert of_gpu["loss"] == pytest.approx(of_cpu["loss"], abs=1e-4 if wide else 0.05)
    alike = torch.nn.functional.cosine_similarity(moved, there, dim=0)
    assert alike > (0.999 if wide else 0.8)  # AdamW's first step is the sign of a gradient


def test_micro_batches_change_nothing(on, groups):
    policy = on("cuda")
    whole = learner(policy).gradient(groups, tokens=4096)
    for tokens in (64, 200):
        torch.testing.assert_close(learner(policy).gradient(groups, tokens=tokens), whole, atol=1e-5, rtol=1e-3)


def test_the_same_update_twice_gives_the_same_loss(on, groups):
    first, second = (learner(on("cuda", dtype="bfloat16")).update(groups, 0) for _ in range(2))
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-6)


def test_long_rows_and_many_lengths(on, make_group):
    """Compiled once for all of them, and every block of a row is right."""
    cpu, gpu = on("cpu"), on("cuda")
    for n in (1, 30, 127, 128, 129, 400):
        some = [make_group(n, (n, 2 * n + 1, 3), seed=n)]
        close(scores(gpu, some), scores(cpu, some), 2e-4)
