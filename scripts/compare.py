"""Compare GRPO with each of the four papers, and with all of them, at equal sampled tokens.

    python scripts/compare.py [--seeds 3] [--tokens 12000] [--only grpo prorl ...] [key=value ...]

Every run is `hone train configs/compare.yaml` with the overrides of its variant, in a process of its own; a run that
is finished is not run again. All start from the same policy: SmolLM2-135M after a first run of plain GRPO, for as it
is, it hardly ever succeeds at a second attempt, and reflections have nothing to learn from. Leaves table.md and
compare.png in the output folder. Intervals are of 95 %, by Student's t over the seeds; the difference to GRPO is paired
by seed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hone import Run

CONFIG = "configs/compare.yaml"
T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]
"""Two-sided quantiles of Student's t, by degrees of freedom from 1."""
SYSTEM = "Write the equation and its result. Example: 12 + 7 = 19"
AGAIN = "Write the equation of the question again, with the right result."
"""With the default prompts, so small a model does not succeed at a second attempt once in a hundred."""
GYM = {"tasks": {"chain_sum": {"config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}}}}
OBJECTIVE = "objective.policy_gradient"


def papers(seed: int, store: Path) -> dict[str, dict[str, Any]]:
    """The overrides that switch each paper on."""
    return {
        "reflect_retry": {"environment": {"reflect_retry": {
            "system": SYSTEM, "reflection_tokens": 16, "retry_prompt": AGAIN, "truncated_retry": "judge",
        }}},
        "high_entropy": {f"{OBJECTIVE}.weights": ["high_entropy"]},
        "prorl": {
            f"{OBJECTIVE}.surrogate.ppo_clip.high": 0.4,
            f"{OBJECTIVE}.penalties": [{"kl_penalty": {"coefficient": 1e-3, "estimator": "k2"}}],
            "hooks.1": {"prorl": {"triggers": [{"every": {"steps": 10}}]}},
        },
        "synthrl": {"tasks": {"synthrl": {
            "source": {"reasoning_gym": {**GYM, "seed": seed}},
            "writer": "scripts.splitting:Split",
            "store": str(store),
            "environment": {"single_turn": {"system": SYSTEM}},
            "rollouts": 8, "seed_passes": 6, "min_passes": 2, "drop": 1, "attempts": 2, "fresh": "off", "limit": 64,
            "batch": 64,
        }}},
    }  # fmt: skip


def overrides(variant: str, seed: int, folder: Path, tokens: int) -> dict[str, Any]:
    """All settings in which a run differs from the base."""
    each = papers(seed, folder.with_name(f"synthesis-{seed}"))
    chosen = each if variant == "all" else {variant: each[variant]} if variant != "grpo" else {}
    own = {"seed": seed, "folder": str(folder), "hooks.0.budget.tokens": tokens}
    if "synthrl" not in chosen:
        own["tasks.reasoning_gym.seed"] = seed
    merged = own | {key: value for settings in chosen.values() for key, value in settings.items()}
    if "hooks.1" in merged:  # a list is replaced as a whole
        hooks = [{"budget": {"tokens": merged.pop("hooks.0.budget.tokens")}}, merged.pop("hooks.1")]
        merged["hooks"] = hooks
    return merged


def warm(chosen: argparse.Namespace) -> str:
    """The policy that all variants start from: its checkpoint's folder."""
    folder = chosen.output / "warm"
    settings = overrides("grpo", 1000, folder, chosen.warm) | {"checkpoint.at_end": True}
    return str(train("warm", settings, folder, chosen.warm, chosen).checkpoints[-1])


def synthesise(seed: int, start: str, chosen: argparse.Namespace) -> None:
    """The data set of SynthRL, made once before training, as in the paper; what is in its store costs nothing again."""
    settings = overrides("synthrl", seed, chosen.output / f"synthrl-{seed}", chosen.tokens) | {"model": start}
    hone("synth", f"synthesis {seed}", settings, chosen, os.cpu_count() or 1)


def hone(command: str, name: str, settings: dict[str, Any], chosen: argparse.Namespace, threads: int) -> None:
    """One command in a process of its own."""
    arguments = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    line = [sys.executable, "-m", "hone.cli", command, CONFIG, *arguments, *chosen.overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{' '.join(line)}\n{done.stderr[-2000:]}")


def train(name: str, settings: dict[str, Any], folder: Path, tokens: int, chosen: argparse.Namespace) -> Run:
    """One run, unless it is finished already."""
    if (folder / "metrics.jsonl").exists():
        run = Run(folder)
        if run.metrics and run.metrics[-1].get("tokens/total", 0) >= tokens:
            return run
        shutil.rmtree(folder)
    hone("train", name, settings, chosen, max(1, (os.cpu_count() or 1) // chosen.parallel))
    run = Run(folder)
    print(f"{name}: {run.summary().splitlines()[0]}", flush=True)
    return run


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = T95[min(len(values), 10) - 2] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def accuracy(run: Run, when: str) -> float:
    """Of the held-out first answers."""
    return run.evaluations["heldout"][when].accuracy


def table(found: dict[str, list[Run]]) -> str:
    """A Markdown table with a row for each variant."""
    lines = [
        "| variant | seeds | steps | tokens | held-out before | after | less GRPO | update share | s / 1000 tokens |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for variant, runs in found.items():
        after = [accuracy(run, "last") for run in runs]
        base = [accuracy(run, "last") for run in found.get("grpo", [])]
        less = interval([a - b for a, b in zip(after, base, strict=True)]) if len(base) == len(after) else "-"
        steps = statistics.median(run.steps for run in runs)
        tokens = statistics.median(run.metrics[-1]["tokens/total"] for run in runs)
        update, step = (sum(float(run.series(f"time/{name}")[1].sum()) for run in runs) for name in ("update", "step"))
        rate = 1000 * step / sum(run.metrics[-1]["tokens/total"] for run in runs)
        first = interval([accuracy(run, "first") for run in runs])
        lines.append(
            f"| {variant} | {len(runs)} | {steps:g} | {tokens:g} | {first} | {interval(after)} "
            f"| {'' if variant == 'grpo' else less} | {update / step:.2f} | {rate:.1f} |"
        )
    return "\n".join(lines)


def draw(found: dict[str, list[Run]], path: Path) -> None:
    """Rewards over sampled tokens, and the held-out accuracy of every run."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4), layout="constrained")
    left, right = picture.subplots(1, 2)
    colours = ["#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"]
    for place, ((variant, runs), colour) in enumerate(zip(found.items(), colours, strict=False)):
        for run in runs:
            at = run.series("tokens/total")[1]
            rewards = run.series("reward/mean")[1]
            width = max(1, len(rewards) // 12)
            smooth = np.convolve(rewards, np.ones(width) / width, mode="valid")
            left.plot(at[len(at) - len(smooth) :], smooth, color=colour, alpha=0.6, linewidth=1,
                      label=variant if run is runs[0] else None)  # fmt: skip
        after = [accuracy(run, "last") for run in runs]
        right.plot([place] * len(after), after, "o", color=colour, alpha=0.6)
        right.plot([place - 0.25, place + 0.25], [statistics.mean(after)] * 2, color=colour)
    left.set(title="training reward (of what each method is paid for)", xlabel="sampled tokens")
    right.set(title="held-out accuracy of the first answer, after", xticks=range(len(found)))
    right.set_xticklabels(found, rotation=20)
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=130)


def main() -> None:
    """Run what is missing, and write table and picture."""
    variants = ["grpo", *papers(0, Path()), "all"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--tokens", type=int, default=12000, help="sampled tokens of each run, without those of synthesis"
    )
    parser.add_argument("--warm", type=int, default=6000, help="sampled tokens of the first run")
    parser.add_argument("--only", nargs="+", choices=variants, default=variants)
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every run")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that runs that are compared with each other had the same neighbours.
    jobs = [(variant, seed) for seed in range(chosen.seeds) for variant in chosen.only]
    start = warm(chosen)
    if {"synthrl", "all"} & set(chosen.only):
        for seed in range(chosen.seeds):
            synthesise(seed, start, chosen)

    def run(job: tuple[str, int]) -> Run:
        folder = chosen.output / "-".join(map(str, job))
        settings = overrides(*job, folder, chosen.tokens) | {"model": start}
        return train(folder.name, settings, folder, chosen.tokens, chosen)

    with ThreadPoolExecutor(chosen.parallel) as pool:
        runs = list(pool.map(run, jobs))
    found: dict[str, list[Run]] = {variant: [] for variant in chosen.only}
    for (variant, _), run in zip(jobs, runs, strict=True):
        found[variant].append(run)
    text = table(found)
    (chosen.output / "table.md").write_text(text + "\n", encoding="utf-8")
    draw(found, chosen.output / "compare.png")
    print(text, f"\n{chosen.output / 'table.md'}\n{chosen.output / 'compare.png'}", sep="\n")


if __name__ == "__main__":
    main()
