"""Runs of several processes, forked from one that has imported what is slow: starting them takes no time.

It reads a JSON object a line, ``{"job", "processes", "folder", ...}``, has so many processes do the job, each with the
environment that torchrun gives, and answers with the exit statuses and the log. Process ``i`` leaves what the job
returned in ``<folder>/<i>.pt``.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import hone


def gradients(folder, engine, places):
    """The gradient of every optimiser step, by case, put together; and the metrics. ``places`` are chosen cases."""
    import torch

    from hone import ranks, runtime
    from hone.build import build
    from hone.learner import Learner
    from hone.policies.causal_lm import CausalLM
    from hone.sections import OptimizerConfig, UpdateConfig
    from hone.shards import full

    found = {}
    with runtime.joined("cpu", 60.0):
        engine = build("engine", engine)
        for name, case in torch.load(f"{folder}/cases.pt", weights_only=False).items():
            if places and name not in places:
                continue
            policy = CausalLM(**case["policy"])
            engine.load(policy, torch.device("cpu"))
            reference = policy.frozen_copy() if case["reference"] else None
            learner = Learner(
                policy,
                build("objective", case["objective"]),
                OptimizerConfig(lr=1e-2, eps=1.0, max_grad_norm=1e9),  # what is nearly 0 must not become a step
                UpdateConfig(**case["update"]),
                steps=10,
                temperature=1.0,
                engine=engine,
            )
            if reference is not None:
                learner.annotate(case["groups"], reference)
            seen = []

            def spy(step, policy=policy, seen=seen):
                seen.append(torch.cat([full(p.grad).flatten() for p in policy.parameters()]).clone())
                return step()

            learner.optimizer.step = partial(spy, learner.optimizer.step)
            widths = []
            embedding = policy.model.get_input_embeddings()
            embedding.register_forward_pre_hook(lambda _, given, widths=widths: widths.append(given[0].shape[1]))
            whole = learner.gradient(case["groups"], tokens=40) if "whole" in case else None
            metrics = learner.update(case["groups"], 0)
            weights = torch.cat([value.flatten() for _, value in policy.masters.rounded()])
            found[name] = {
                "gradients": seen,
                "metrics": metrics,
                "weights": weights.float(),
                "widths": widths,
                "whole": whole,
            }
            for scored in (policy, *([reference.policy] if reference else ())):
                if hasattr(scored.model, "unshard"):
                    assert scored.model._get_fsdp_state()._comm_ctx.post_forward_order == []  # or it would grow
        found["place"] = ranks.index()
    return found


def train(folder, config, resume=False, allow=(), fault=None, store=False):
    """A run; its folder tells what it did. With ``store`` its source stores what it makes beside it."""
    config = hone.load_config(config)
    config.folder = str(Path(folder, "run"))
    if store:
        config.tasks.store = f"{folder}/store"
    trainer = hone.Trainer(config)
    if fault:
        place, step, signal_number = fault
        _hurt(trainer, step if os.environ["RANK"] == str(place) else None, signal_number)
    trainer.fit(resume=resume, allow=allow)
    told = {"interrupted": trainer.interrupted, "leads": trainer.leads, "step": trainer.state.step}
    return told | {"sampled": trainer.session.sampled}


def make(folder, config, command, fault=None):
    """What a source makes, in the folder. ``fault`` is a process, and how many plays it survives."""
    from hone import session
    from hone.collect import Collector

    if fault and os.environ["RANK"] == str(fault[0]):
        play, left = Collector.play, iter(range(fault[1]))

        def hurt(*given, **named):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return play(*given, **named)

        Collector.play = hurt
    config, told = hone.load_config(config), []
    config.tasks.store = f"{folder}/store"
    return {"made": session.make(config, command, told.append), "told": told}


def evaluate(folder, config, checkpoints=(), fault=None):
    """An evaluation, and whether Ctrl-C ended it. ``fault`` is a task that is never answered, and what happens then."""
    from hone.envs.single_turn import SingleTurn
    from hone.evaluation import evaluate, load_evaluation

    if fault:
        task_id, kind = fault
        play_group = SingleTurn.play_group

        async def hurt(self, task, n, **rest):
            if task.id == task_id and kind == "error":
                raise MemoryError("the cat sat on the GPU")
            if task.id == task_id:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(1e6)
            return await play_group(self, task, n, **rest)

        SingleTurn.play_group = hurt
    told = []
    try:
        results = evaluate(
            load_evaluation(config), checkpoints, folder=f"{folder}/out", progress=lambda *given: told.append(given)
        )
    except KeyboardInterrupt:
        return {"results": "interrupted", "told": told}
    return {"results": results, "told": told}


def resume(folder, config):
    """MiB that a process holds more at most while it restores a run, and what its optimiser then knows."""
    from hone import snapshot
    from hone.peaks import peak
    from hone.shards import full

    restore, found = snapshot.restore, {}

    def measured(trainer, path):
        peak()
        before = peak()
        restore(trainer, path)
        found["more"] = peak() - before
        found["moments"] = [full(own["exp_avg"]) for own in trainer.learner.optimizer.state.values()]

    snapshot.restore = measured
    trainer = hone.Trainer(hone.load_config(config, {"folder": f"{folder}/run"}))
    trainer.fit(resume=True, allow=["settings"])
    return found


def refusals(folder, config):
    """What several processes are told that they cannot do."""
    import torch

    from hone import ranks, runtime
    from hone.engines.ddp import DDP
    from hone.engines.fsdp import FSDP

    class Own:
        def load(self, device): ...

    found, config = [], hone.load_config(config)
    with runtime.joined("cpu", 60.0):
        config.model.random_weights = 7 + ranks.index()
        for refused in (
            lambda: runtime.device("cuda:1"),
            lambda: FSDP().load(Own(), torch.device("cpu")),
            lambda: FSDP(replicas=3).load(config.model, torch.device("cpu")),
            lambda: DDP().load(config.model, torch.device("cpu")),
        ):
            try:
                refused()
            except ValueError as error:
                found.append(str(error))
    return found


def playing(folder):
    """Who played which of twenty tasks where the first process is slow, what it hears of meanwhile; and what comes of a
    failure in the second while the first would go on for days."""
    from loop_parts import low

    from hone import ranks, runtime
    from hone.collect import Collector
    from hone.seats import SamplingParams
    from hone.types import Group, Task, Trajectory

    class Uneven:
        async def play_group(self, task, n, **rest):
            await asyncio.sleep(0.01 if ranks.index() else 0.4)
            return Group(task, [Trajectory(task, [], 1.0)], metrics={"by": ranks.index()})

    class Failing:
        async def play_group(self, task, n, **rest):
            if ranks.index():
                raise LookupError(f"no room for {task.id}")
            await asyncio.sleep(1e6)

    class Two:
        max_sequences = 2

    tasks = [Task(f"{i}", []) for i in range(20)]
    told = []
    with runtime.joined("cpu", 60.0):
        collector = Collector(Uneven(), Two(), low, workers=1)
        try:
            played = collector.play(
                tasks, 2, SamplingParams(), finished=lambda place, group: told.append((place, group))
            )
            try:
                collector.play(tasks[:2], 2, SamplingParams(), environment=Failing())
            except LookupError as error:
                failed = str(error)
        finally:
            collector.close()
    heard = [(place, group.metrics["by"]) for place, group in told]
    return {"played": [(group.task.id, group.metrics["by"]) for group in played], "failed": failed}, heard


def _hurt(trainer, step, signal_number):
    """At a step, in its update, an error; or before that a signal."""

    from loop_parts import Still

    class Fault(Still):
        def before_update(self, state):
            if state.step == step and signal_number:
                os.kill(os.getpid(), signal_number)
            elif state.step == step:
                backward = trainer.learner._backward

                def fail(*args):
                    backward(*args)
                    raise MemoryError("the cat sat on the GPU")

                trainer.learner._backward = fail

    trainer.hooks.append(Fault())


def start(job, place, port, log):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stdin.close()
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        size = job.pop("processes")
        os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import torch

        torch.set_num_threads(1)
        torch.save(globals()[job.pop("job")](**job), f"{job['folder']}/{place}.pt")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(job):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = [Path(job["folder"], f"{place}.log") for place in range(job["processes"])]
    for log in logs:
        log.unlink(missing_ok=True)
    began = time.monotonic()
    children = [start(dict(job), place, port, log) for place, log in enumerate(logs)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    texts = [log.read_text()[-3000:] if log.exists() else "" for log in logs]
    return {"statuses": statuses, "seconds": time.monotonic() - began, "logs": texts}


def main():
    import torch
    import torch.distributed.fsdp  # noqa: F401
    import transformers

    from hone import shards  # noqa: F401
    from hone.config import load_config  # noqa: F401
    from hone.trainer import Trainer  # noqa: F401

    transformers.utils.logging.disable_progress_bar()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
