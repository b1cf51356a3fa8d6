"""Measure hone beside others, and against the machine's own limits.

    python scripts/benchmark.py step [--trl-python PATH]        # a GRPO step beside TRL's GRPOTrainer
    python scripts/benchmark.py sampling [--vllm-python PATH]   # beside generate, continuous batching, vLLM
    python scripts/benchmark.py limit                           # the update against the GEMM rate
    python scripts/benchmark.py growth [--quick]                # time and memory against lengths, siblings, sizes
    python scripts/benchmark.py head                            # memory of the head in pieces
    python scripts/benchmark.py alphaone [--imposed trained]    # what AlphaOne costs beside the decoding itself
    python scripts/benchmark.py adapter                         # the sampler vllm beside its engine alone; under vLLM
    python scripts/benchmark.py card --device cuda              # hone alone on one device, with its floors and MFU

Whoever is compared runs in a process of its own, and they take turns in one run. Each command prints a Markdown table
for BENCHMARKS.md and leaves it in --output, with every turn in JSON and a picture. --model takes what hone's model.path
takes, or a shape with random weights (tiny, shape:135m, shape:qwen2.5-0.5b, shape:qwen2.5-1.5b); --device cuda is taken
by all.
"""

import argparse
import sys

from benchmarks import adapter, alphaone, card, growth, head, limit, sampling, step

COMMANDS = {
    "step": step, "sampling": sampling, "limit": limit, "growth": growth, "head": head, "alphaone": alphaone,
    "adapter": adapter, "card": card,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, description=module.__doc__)
        command.add_argument("--output", default="runs/benchmark", help="folder of tables, figures and pictures")
        if name not in ("head", "growth", "alphaone"):
            command.add_argument("--model", default="smollm2-135m")
        if name not in ("head", "alphaone"):
            command.add_argument("--device", default="cpu")
        module.add(command)
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = parser.parse_args(arguments)
    chosen.typed = arguments
    COMMANDS[chosen.command].main(chosen)


if __name__ == "__main__":
    main()
