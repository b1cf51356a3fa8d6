"""Judge every row of HumanEval and MBPP by the code verifier: canonical solutions, and stubs that return None.

    python scripts/verdicts.py [--data data] [--workers 2] [--rows 1000]

Prints how many pass, which do not, and the verdicts a second.
"""

import argparse
import asyncio
import re
import time
from pathlib import Path

from hone.tasks.files import Files
from hone.types import Segment, Task, Trajectory
from hone.verifiers.code import CodeVerifier
from hone.verifiers.pool import VerifierPool

SETS = {
    "humaneval/HumanEval.jsonl": ("{prompt}", "{canonical_solution}", ["prompt", "entry_point", "test"]),
    "mbpp/mbpp.jsonl": ("{text}", "{code}", ["test_list", "test_setup_code"]),
}


def stub(task: Task) -> str:
    """A program that defines what the right one does, and computes nothing."""
    names = {task.meta["entry_point"]} if "entry_point" in task.meta else set()
    names |= set(re.findall(r"^(?:def|class) +(\w+)", task.answer.replace("\r", ""), re.MULTILINE))
    return "\n".join(f"def {name}(*_, **__):\n    return None\n" for name in sorted(names))


async def judge(verifier: CodeVerifier, tasks: list[Task], texts: list[str], workers: int) -> tuple[list[str], float]:
    """The ids of the tasks whose text is right, and the seconds that it took."""
    responses = [Segment("response", "policy", (), text=text) for text in texts]
    asked = [(task, Trajectory(task, [response])) for task, response in zip(tasks, responses, strict=True)]
    with VerifierPool(verifier, workers=workers) as pool:
        await asyncio.gather(*(pool(*asked[0]) for _ in range(workers)))  # until all are prepared
        start = time.perf_counter()
        scores = await asyncio.gather(*(pool(*each) for each in asked))
        took = time.perf_counter() - start
    errors = [score.error for score in scores if score.error is not None]
    if errors:
        raise SystemExit(f"{len(errors)} errors; the first: {errors[0]}")
    return [task.id for task, score in zip(tasks, scores, strict=True) if score.value == 1], took


def main() -> None:
    """Read the command line, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1000)
    asked = parser.parse_args()
    verifier = CodeVerifier()
    for file, (prompt, answer, meta) in SETS.items():
        source = Files(
            path=str(asked.data / file), prompt=prompt, answer=answer, meta=meta, shuffle=False, repeat=False,
            limit=asked.rows,
        )  # fmt: skip
        tasks = list(source)
        for kind, texts in {
            "canonical": [verifier.example(task) for task in tasks],
            "stub": [f"```python\n{stub(task)}```" for task in tasks],
        }.items():
            right, took = asyncio.run(judge(verifier, tasks, texts, asked.workers))
            print(f"{file}, {kind}: {len(right)} of {len(tasks)} right, {len(tasks) / took:.1f} verdicts/s", flush=True)
            if kind == "canonical" and len(right) < len(tasks):
                print("  not right:", *sorted({task.id for task in tasks} - set(right)))


if __name__ == "__main__":
    main()
