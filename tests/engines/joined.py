"""What processes that have joined see of their engines: torchrun starts this with a model, a folder and jobs."""

import sys
from pathlib import Path

import torch
from engine_parts import ENGINE, context, run, tokens

from hone import ranks, runtime
from hone.build import build
from hone.policies.causal_lm import CausalLM
from hone.samplers import vllm_compat
from hone.samplers.vllm_engine import VLLMSampler
from hone.seats import SamplingParams

GROWN = 1.05
"""What an update does to every weight."""


def requests():
    """Those of odd places are ten times as long, so that engines in step would wait for each other for ever."""
    return [(context(3 + i, seed=i), SamplingParams(seed=i, max_tokens=40 if i % 2 else 4)) for i in range(8)]


def played(sampler, policy, chosen):
    """What the engine samples by the first weights, by others, by these after it has ended and begun again."""

    def take():
        sampler.sync(policy)
        return [tokens(made) for made in run(sampler, *chosen)]

    first = take()
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(GROWN)
    policy.advance()
    second = take()
    sampler.close()
    return first, second, take()


def shares(model):
    """This process's half of the samples, the weights that its engine has, and whether all can still talk after it."""
    found = {}
    for engine in ("ddp", "fsdp"):
        policy, sampler = CausalLM(path=model, dtype="float32"), VLLMSampler(engine=ENGINE, check_every=1)
        build("engine", engine).load(policy, torch.device("cpu"))
        halves = played(sampler, policy, requests()[ranks.index() :: ranks.count()])
        worker = sampler._engine._engine.model_executor.driver_worker.worker
        sampler.close()
        found[engine] = {"played": halves, "fingerprint": sampler.fingerprint(), "met": ranks.each(ranks.index)}
        found[engine]["device"] = worker.local_rank  # where there are GPUs
    return found


def refused(model, engine):
    """What a sync says of these settings."""
    policy, sampler = CausalLM(path=model, dtype="float32"), VLLMSampler(engine=engine)
    policy.load(torch.device("cpu"))
    try:
        sampler.sync(policy)
    except ValueError as error:
        return str(error)
    finally:
        sampler.close()


def refusals(model):
    """What both are told of settings, and of what only one of them cannot do."""
    found = [refused(model, {"tensor_parallel_size": 2})]
    vllm_compat.free_memory = lambda device: ((2 if ranks.index() else 9) << 30, 10 << 30)
    return [*found, refused(model, {})]


def fails(model):
    """The second cannot load while the first waits for it inside vLLM."""
    from vllm.v1.worker.cpu_worker import CPUWorker

    def load_model(self, *args, **kwargs):
        raise MemoryError("the cat sat on the GPU")

    if ranks.index():
        CPUWorker.load_model = load_model
    refused(model, ENGINE)


if __name__ == "__main__":
    model, folder, *jobs = sys.argv[1:]
    with runtime.joined("cpu", 60.0):
        for job in jobs:
            torch.save(globals()[job](model), Path(folder, f"{job}-{ranks.index()}.pt"))
            ranks.each(lambda: None)
