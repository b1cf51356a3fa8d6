"""hone's update alone, on groups made by hand: rows, loss, backward, AdamW."""

import time

import torch

from benchmarks import memory, work
from benchmarks.arithmetic import useful_tokens
from benchmarks.engine import Turns
from benchmarks.rates import wait
from hone.build import build
from hone.learner import Learner
from hone.policies.causal_lm import CausalLM
from hone.runtime import device
from hone.sections import OptimizerConfig, UpdateConfig


def main() -> None:
    turns = Turns()
    s = turns.settings
    policy = CausalLM(path=s["folder"], dtype=s["dtype"], random_weights=0 if s["random"] else None)
    policy.load(device(s["device"]))
    objective, update = build("objective", "policy_gradient"), UpdateConfig(**s.get("update", {}))
    learner = Learner(policy, objective, OptimizerConfig(lr=1e-12), update, steps=10**6, temperature=1.0)
    vocabulary = policy.text_config.vocab_size
    learner.update(work.groups(1, 8, 2, 8, vocabulary), 0)  # moments of the optimiser, kernels
    turns.reply()
    for step, request in enumerate(turns, start=1):
        made = work.groups(
            request["groups"], request["context"], request["siblings"], request["response"], vocabulary, seed=step
        )
        shape = work.shape_of(made)
        memory.reset()
        memory.device_reset(s["device"])
        before = memory.peak(children=False)
        held = torch.cuda.memory_allocated(s["device"]) if s["device"].startswith("cuda") else 0
        started = time.perf_counter()
        learner.update(made, step)
        wait(s["device"])
        seconds = time.perf_counter() - started
        on_device = memory.device_peak(s["device"])
        turns.reply(
            seconds=seconds, useful=useful_tokens(shape), trained=sum(sum(r) for _, r in shape), **memory.peaks(),
            grown=memory.peak(children=False) - before if on_device is None else on_device - held,
            device_peak=on_device,
        )  # fmt: skip


if __name__ == "__main__":
    main()
