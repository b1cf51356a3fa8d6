"""Measure what a method adds to an update of plain GRPO, and to a whole step.

    python scripts/overhead.py [--rounds 9] [--micro 256] [--dtype bfloat16] [--only high_entropy] [--cpu-time]

In every round each method updates the same groups once, right beside plain GRPO with as many micro-batches, by turns
before and after it, at a learning rate that changes nothing to speak of. The overhead is the median (and the middle
half) over the rounds of the ratio of the two, less 1; where the machine is noisy, the ratio of the fastest of each says
more. A whole step is the update and the sampling of its groups, which no method here changes. Prints Markdown rows.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import hone
from hone.build import build
from hone.learner import Learner
from hone.seats import State
from hone.sections import OptimizerConfig, UpdateConfig
from hone.session import Session

FIELD = {"weights": [{"high_entropy": {"keep": 0.2}}]}
MICRO_FIELD = {"weights": [{"high_entropy": {"keep": 0.2, "pool": "micro_batch"}}]}
KL = {"penalties": [{"kl_penalty": {"coefficient": 1.0e-4, "estimator": "k2"}}]}
WHOLE = 10**6
"""Tokens of a micro-batch that holds everything."""


Case = tuple[dict, int, bool, bool]
"""The objective's settings, tokens of a micro-batch, whether the reference is run, and whether the hook is."""


def cases(micro: int) -> dict[str, Case]:
    """The methods by name."""
    return {
        "high_entropy": (FIELD, WHOLE, False, False),
        "high_entropy, several micro-batches: one more forward pass": (FIELD, micro, False, False),
        "high_entropy, several micro-batches, pool: micro_batch": (MICRO_FIELD, micro, False, False),
        "prorl and its KL, without the reference pass": (KL, WHOLE, False, True),
        "prorl and its KL, with the reference pass": (KL, WHOLE, True, True),
        "none, against itself: the noise": ({}, WHOLE, False, False),
    }


def measure(rounds: int, micro: int, dtype: str, only: str, prompts: int, cpu_time: bool) -> None:
    """Sample once, update in rounds, and print."""
    clock = time.process_time if cpu_time else time.perf_counter
    chosen = {name: case for name, case in cases(micro).items() if only in name}
    config = hone.load_config("configs/quickstart.yaml", {"model.dtype": dtype, "eval": {}})
    with Session(config) as session, TemporaryDirectory() as folder:
        tasks = [next(config.tasks) for _ in range(prompts)]
        started = clock()
        groups = session.play(tasks, config.siblings, config.sampling.keyed("overhead"))
        sampling = clock() - started
        for group in groups:  # as if half of each had been right, so that every group is in the update
            for i, trajectory in enumerate(group):
                trajectory.reward, trajectory.advantage = float(i % 2), float(i % 2) - 0.5
        reference = session.policy.frozen_copy()
        learner = Learner(
            session.policy, config.objective, OptimizerConfig(lr=1e-12), UpdateConfig(), steps=10**6, temperature=1.0
        )
        learner.annotate(groups, reference)
        hook = build("hook", {"prorl": {"triggers": ["every", {"spike": {"limit": 1.0}}]}})
        state = State(0, 10**6, Path(folder), session.policy, reference=reference)
        hook.on_start(state)

        def play(objective: dict, tokens: int, runs_reference: bool, runs_hook: bool) -> Callable[[], None]:
            built = build("objective", {"policy_gradient": objective})

            def once() -> None:
                learner.objective, learner.settings = built, UpdateConfig(tokens=tokens)
                if runs_reference:
                    learner.annotate(groups, reference)
                state.metrics = learner.update(groups, state.step)
                state.step += 1
                if runs_hook:
                    hook.on_step(state)

            return once

        pairs = {name: (play(*case), play({}, case[1], False, False)) for name, case in chosen.items()}
        seconds = in_rounds(pairs, rounds, clock)
        trained = sum(t.trained for group in groups for t in group)
        learner.settings = UpdateConfig(tokens=micro)
        parts = len(learner._batches(groups))
    print(f"{len(groups)} x {config.siblings} answers, {trained} trained tokens; {parts} micro-batches where several")
    print(f"sampling {sampling:.2f} s; {rounds} rounds; {'processor time' if cpu_time else 'elapsed time'}")
    print("| method | update, s | over plain GRPO | fastest over fastest | of a whole step |")
    print("| --- | --- | --- | --- | --- |")
    for name, (own, plain) in seconds.items():
        print(row(name, own, plain, sampling))


def in_rounds(
    pairs: dict[str, tuple[Callable[[], None], Callable[[], None]]], rounds: int, clock: Callable[[], float]
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


def row(name: str, own: list[float], plain: list[float], sampling: float) -> str:
    """A row of the table."""
    over = [a / b - 1 for a, b in zip(own, plain, strict=True)]
    whole = statistics.median((a - b) / (b + sampling) for a, b in zip(own, plain, strict=True))
    low, middle, high = statistics.quantiles(over, n=4)
    fastest = min(own) / min(plain) - 1
    spread = f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"
    return f"| {name} | {statistics.median(own):.2f} | {spread} | {fastest:+.1%} | {whole:+.1%} |"


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
