"""A whole GRPO step, sampling to optimiser step: hone beside TRL's GRPOTrainer, taking turns."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import arithmetic, models, work
from benchmarks.arithmetic import Spread, share
from benchmarks.engine import Engine
from benchmarks.report import Contest, Report, Table, memory

CASES: dict[str, dict[str, Any]] = {
    "informative": {"signal": [True] * 4},
    "realistic": {"signal": [True, False, False, False]},
    "long": {"signal": [True], "prompt_tokens": 512},
}
"""Prompts of a step, and whether the reward of each differs between siblings."""
NOTE = (
    "Both sample up to the same number of tokens from the same weights, at temperature 1, from the same chats; how "
    "long an answer gets is chance, hence the times per 1000 sampled tokens. The reward is a hash of the text, and 0 "
    "for the groups without signal, which hone's gate drops and TRL computes. bfloat16: hone computes in bfloat16 "
    "with float32 masters; TRL keeps float32 weights and runs under torch's autocast, which is what its `bf16=True` "
    "does on a CPU. The ratio is the median over the rounds of TRL's time per token over hone's in the same round."
)


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="rounds before these, which are not recorded")
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--prompts", type=int, help="of a step, instead of the case's; the signal is repeated")
    parser.add_argument("--prompt-tokens", type=int, help="instead of the case's")
    parser.add_argument("--tokens", type=int, default=128, help="most new tokens of a completion")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--update-tokens", type=int, default=4096, help="hone's update.tokens; 4096 is its default")
    parser.add_argument("--trl-python", help="an interpreter that has trl, if this one has not")
    parser.add_argument("--trl-micro", type=int, default=8, help="TRL's per_device_train_batch_size; 8 is its default")
    parser.add_argument("--trl-checkpointing", action="store_true", help="TRL's gradient checkpointing, its default")
    parser.add_argument(
        "--trl-weights", choices=["float32", "bfloat16"], default="float32",
        help="bfloat16 leaves TRL without float32 masters: faster, and another training",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=["hone", "trl"], default=["hone", "trl"])


def main(args: argparse.Namespace) -> Report:
    """Measure, and write the report."""
    report = Report("step", vars(args))
    model = models.describe(args.model, Path(args.output) / "models")
    size = models.size(model["folder"])
    for case in args.case:
        for dtype in args.dtype:
            _play(args, report, model, case, dtype)
    report.machine["weights"] = size.weights
    report.tables.append(("", table(report.turns, size)))
    report.notes.append(NOTE)
    report.write(Path(args.output), lambda path: draw(report.turns, path))
    return report


def _play(args: argparse.Namespace, report: Report, model: dict[str, Any], case: str, dtype: str) -> None:
    signal = CASES[case]["signal"]
    signal = [signal[i % len(signal)] for i in range(args.prompts or len(signal))]
    long = args.prompt_tokens if args.prompt_tokens is not None else CASES[case].get("prompt_tokens", 0)
    settings = model | {
        "device": args.device, "dtype": dtype, "messages": work.messages(len(signal), model["folder"], long),
        "signal": signal, "siblings": args.siblings, "tokens": args.tokens, "lr": args.lr,
        "update_tokens": args.update_tokens, "micro": args.trl_micro, "trl_weights": args.trl_weights,
        "checkpointing": args.trl_checkpointing,
    }  # fmt: skip
    logs = Path(args.output) / "logs"
    python = {"python": args.trl_python} if args.trl_python else {}
    engines = {"limits": Engine("limits", settings, logs / "limits.log")}
    if "hone" in args.only:
        engines["hone"] = Engine("step_hone", settings, logs / f"step-hone-{case}-{dtype}.log")
    if "trl" in args.only:
        engines["trl"] = Engine("step_trl", settings, logs / f"step-trl-{case}-{dtype}.log", **python)
    labels = {"case": case, "dtype": dtype, "informative": all(signal)}
    with Contest(engines, report, labels) as contest:
        for number in range(1 - args.warmup, args.rounds + 1):
            contest.round(max(number, 0), {"limits": {}, "hone": {}, "trl": {}})


def table(turns: list[dict[str, Any]], size: arithmetic.Size) -> Table:
    """A row for each case, precision and trainer."""
    made = Table(
        ["case", "precision", "trainer", "step, s", "of it update, s", "tokens a completion", "s / 1000 tokens",
         "TRL over hone", "update, of the GEMM rate (6N)", "peak memory"]
    )  # fmt: skip
    for case, dtype in dict.fromkeys((t["case"], t["dtype"]) for t in turns):
        here = [t for t in turns if (t["case"], t["dtype"]) == (case, dtype)]
        rates = {t["round"]: t["square"] for t in here if t["engine"] == "limits"}
        for name in ("hone", "trl"):
            own = [t for t in here if t["engine"] == name]
            if not own:
                continue
            reached = [
                arithmetic.update_flops(size, useful) / t["update"] / rates[t["round"]]
                for t in own
                if (useful := _useful(t)) and t["round"] in rates
            ]
            made.rows.append([
                case, dtype, {"hone": "hone", "trl": "TRL"}[name],
                str(Spread.of([t["seconds"] for t in own])), str(Spread.of([t["update"] for t in own])),
                str(Spread.of([t["tokens"] / t["completions"] for t in own])), str(Spread.of(per_thousand(own))),
                str(Spread.of(over(here))) if name == "trl" and over(here) else "",
                share(statistics.median(reached)) if reached else "", memory(own),
            ])  # fmt: skip
    return made


def _useful(turn: dict[str, Any]) -> int:
    """Tokens that had to be updated on; 0 where that is not known (which of TRL's groups had a signal)."""
    if "shape" in turn:
        return arithmetic.useful_tokens(turn["shape"])
    return turn["prompt"] + turn["tokens"] if turn["informative"] else 0


def per_thousand(turns: list[dict[str, Any]]) -> list[float]:
    """Seconds of a step for 1000 sampled tokens, by turn."""
    return [1000 * turn["seconds"] / turn["tokens"] for turn in turns]


def over(turns: list[dict[str, Any]]) -> list[float]:
    """TRL's time for a token over hone's, in the rounds that both have played."""
    cost = {(t["engine"], t["round"]): t["seconds"] / t["tokens"] for t in turns if t["engine"] in ("hone", "trl")}
    return [cost["trl", r] / cost["hone", r] for e, r in cost if e == "hone" and ("trl", r) in cost]


def draw(turns: list[dict[str, Any]], path: Path) -> None:
    """Seconds for 1000 tokens and peak memory, hone beside TRL."""
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys((t["case"], t["dtype"]) for t in turns))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.7 * len(cases) + 1.6), sharey=True, layout="tight")
    for k, name in enumerate(("hone", "trl")):
        for y, case in enumerate(cases):
            own = [t for t in turns if (t["case"], t["dtype"]) == case and t["engine"] == name]
            if not own:
                continue
            spread, at = Spread.of(per_thousand(own)), y + 0.2 - 0.4 * (k == 0)
            error = [[spread.median - spread.low], [spread.high - spread.median]]
            label = {"hone": "hone", "trl": "TRL"}[name] if y == 0 else None
            left.barh(at, spread.median, 0.38, xerr=error, color=f"C{k}", label=label)
            peaks = [t["device_peak"] if t["device_peak"] is not None else t["peak"] for t in own]
            right.barh(at, max(peaks) / 2**30, 0.38, color=f"C{k}")
    left.set_yticks(range(len(cases)), [" ".join(case) for case in cases])
    left.invert_yaxis()
    left.set_xlabel("seconds of a GRPO step for 1000 sampled tokens (median, range)")
    right.set_xlabel("peak memory, GiB")
    left.legend()
    figure.savefig(path, dpi=120)
