"""Measure what a method adds to an update of plain GRPO, and to a whole step.

    python scripts/overhead.py [--rounds 9] [--micro 256] [--dtype bfloat16] [--only high_entropy] [--cpu-time]

In every round each method updates the same groups once, right beside plain GRPO with as many micro-batches, by turns
before and after it, at a learning rate that changes nothing to speak of. The overhead is the median (and the middle
half) over the rounds of the ratio of the two, less 1; where the machine is noisy, the ratio of the fastest of each says
more. A whole step is the update and the sampling of its groups; what high_entropy adds to that, by recording entropies,
is measured by itself, in as many rounds, and added. Prints Markdown rows.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import hone
from hone.build import build
from hone.learner import Learner
from hone.seats import State
from hone.sections import OptimizerConfig, UpdateConfig
from hone.session import Session
from hone.types import Group

FIELD = {"weights": [{"high_entropy": {"keep": 0.2}}]}
MICRO_FIELD = {"weights": [{"high_entropy": {"keep": 0.2, "pool": "micro_batch"}}]}
KL = {"penalties": [{"kl_penalty": {"coefficient": 1.0e-4, "estimator": "k2"}}]}
WHOLE = 10**6
"""Tokens of a micro-batch that holds everything."""


@dataclass
class Case:
    """A method: its objective, tokens of a micro-batch, and what else of it runs."""

    objective: dict
    tokens: int = WHOLE
    recorded: bool = False
    """Whether the sampler records entropies."""
    reference: bool = False
    hook: bool = False


def cases(micro: int) -> dict[str, Case]:
    """The methods by name."""
    return {
        "high_entropy": Case(FIELD, recorded=True),
        "high_entropy, several micro-batches": Case(FIELD, micro, recorded=True),
        "high_entropy, several micro-batches, nothing recorded: one more forward pass": Case(FIELD, micro),
        "high_entropy, several micro-batches, pool: micro_batch": Case(MICRO_FIELD, micro),
        "prorl and its KL, without the reference pass": Case(KL, hook=True),
        "prorl and its KL, with the reference pass": Case(KL, reference=True, hook=True),
        "none, against itself: the noise": Case({}),
    }


Work = Callable[[], None]
Clock = Callable[[], float]


class Bench:
    """A policy, groups that it has sampled, and whatever updates it."""

    def __init__(self, session: Session, config: hone.Config, prompts: int, folder: str) -> None:
        self.session, self.config = session, config
        self.tasks = [next(config.tasks) for _ in range(prompts)]
        self.groups = {recorded: self.sample(recorded) for recorded in (False, True)}
        self.reference = session.policy.frozen_copy()
        self.learner = Learner(
            session.policy, config.objective, OptimizerConfig(lr=1e-12), UpdateConfig(), steps=10**6, temperature=1.0
        )
        for groups in self.groups.values():
            self.learner.annotate(groups, self.reference)
        self.hook = build("hook", {"prorl": {"triggers": ["every", {"spike": {"limit": 1.0}}]}})
        self.state = State(0, 10**6, Path(folder), session.policy, reference=self.reference)
        self.hook.on_start(self.state)

    def sample(self, recorded: bool) -> list[Group]:
        """Groups of which half of each is as if right, so that every group is in the update."""
        params = replace(self.config.sampling.keyed("overhead"), entropies=recorded)
        groups = self.session.play(self.tasks, self.config.siblings, params)
        for group in groups:
            for i, trajectory in enumerate(group):
                trajectory.reward, trajectory.advantage = float(i % 2), float(i % 2) - 0.5
        return groups

    def updates(self, case: Case) -> Work:
        """An update by a method."""
        objective = build("objective", {"policy_gradient": case.objective})
        groups, learner, state = self.groups[case.recorded], self.learner, self.state

        def once() -> None:
            learner.objective, learner.settings = objective, UpdateConfig(tokens=case.tokens)
            for trajectory in (trajectory for group in groups for trajectory in group):
                trajectory.version = self.session.policy.version  # of weights that are the same but for 1e-12
            if case.reference:
                learner.annotate(groups, self.reference)
            state.metrics = learner.update(groups, state.step)
            state.step += 1
            if case.hook:
                self.hook.on_step(state)

        return once

    def describe(self, micro: int) -> str:
        """How much there is."""
        groups = self.groups[False]
        self.learner.settings = UpdateConfig(tokens=micro)
        parts, trained = len(self.learner._batches(groups)), sum(t.trained for group in groups for t in group)
        return (
            f"{len(groups)} x {len(groups[0])} answers, {trained} trained tokens; {parts} micro-batches where several"
        )


def measure(rounds: int, micro: int, dtype: str, only: str, prompts: int, cpu_time: bool) -> None:
    """Sample and update in rounds, and print."""
    clock = time.process_time if cpu_time else time.perf_counter
    chosen = {name: case for name, case in cases(micro).items() if only in name}
    config = hone.load_config("configs/quickstart.yaml", {"model.dtype": dtype, "eval": {}})
    with Session(config) as session, TemporaryDirectory() as folder:
        bench = Bench(session, config, prompts, folder)
        pairs = {"": (lambda: bench.sample(True), lambda: bench.sample(False))}
        pairs |= {name: (bench.updates(case), bench.updates(Case({}, case.tokens))) for name, case in chosen.items()}
        seconds = in_rounds(pairs, rounds, clock)
        print(bench.describe(micro))
    recording, sampling = seconds.pop("")
    print(f"{rounds} rounds; {'processor time' if cpu_time else 'elapsed time'}")
    print("| method | update, s | over plain GRPO | fastest over fastest | of a whole step |")
    print("| --- | --- | --- | --- | --- |")
    print(row("sampling, with entropies recorded", recording, sampling))
    for name, (own, plain) in seconds.items():
        print(row(name, own, plain, recording if chosen[name].recorded else sampling, sampling))


def in_rounds(
    pairs: dict[str, tuple[Work, Work]], rounds: int, clock: Clock
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of both of each pair, one right after the other, by turns first; a round before these warms up."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for turn in range(rounds + 1):
        for name, pair in pairs.items():
            for which in (0, 1) if turn % 2 else (1, 0):
                started = clock()
                pair[which]()
                if turn:
                    seconds[name][which].append(clock() - started)
    return seconds


def row(name: str, own: list[float], plain: list[float], *sampling: list[float]) -> str:
    """A row of the table; ``sampling`` is that of the method and the plain one."""
    over = [a / b - 1 for a, b in zip(own, plain, strict=True)]
    low, middle, high = statistics.quantiles(over, n=4)
    fastest = min(own) / min(plain) - 1
    steps = zip(own, plain, *sampling, strict=True) if sampling else ()
    whole = f"{statistics.median((a + s) / (b + t) - 1 for a, b, s, t in steps):+.1%}" if sampling else ""
    spread = f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"
    return f"| {name} | {statistics.median(own):.2f} | {spread} | {fastest:+.1%} | {whole} |"


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--micro", type=int, default=256, help="tokens of a micro-batch, where there are several")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--cpu-time", action="store_true", help="of this process, where others want the cores as well")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
