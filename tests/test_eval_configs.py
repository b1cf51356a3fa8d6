"""The configurations of configs/eval: read, understood, right answers paid for, and played by a tiny model."""

import json
from pathlib import Path

import pytest
from test_configs import call, completion, countdown, function, gsm8k, small_program

import hone
from hone.evaluation import evaluate, load_evaluation
from hone.report.lines import JsonLines
from hone.types import Segment, Trajectory

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "eval").glob("*.yaml"))


def aqua(i):
    return {"question": f"{i} + 2?", "options": [f"{c}){i + n}" for n, c in enumerate("ABCDE")], "correct": "C"}


def arc(i):
    pair = {"input": [[0, i % 10], [1, 1]], "output": [[i % 10, 0], [1, 1]]}
    return {"id": f"task{i}", "train": [pair, pair], "test": [pair]}


def ifeval(i):
    return {
        "key": i,
        "prompt": "Write a poem without commas.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"relation": "less than", "num_words": 50}],
    }


def thought(i):
    return {"question": f"{i} * 9 + 5", "answer": "6"}


def example(target):
    return lambda i: {"input": f"Question {i}?", "target": target}


BBH = {
    "boolean_expressions": "False", "date_understanding": "(F)", "dyck_languages": ") ] >", "navigate": "No",
    "multistep_arithmetic_two": "-50", "object_counting": "8", "tracking_shuffled_objects_three_objects": "(C)",
    "web_of_lies": "Yes",
}  # fmt: skip
DATA = {
    "gsm8k/test.jsonl": gsm8k,
    "countdown/test.jsonl": countdown,
    "aqua/dev.jsonl": aqua,
    "arc_agi/training.jsonl": arc,
    "ifeval/input_data.jsonl": ifeval,
    "humaneval/HumanEval.jsonl": completion,
    "mbpp/mbpp.jsonl": small_program,
    "thinker/heldout.jsonl": thought,
    "thinker/calibration.jsonl": thought,
    **{f"bfcl/BFCL_v4_{name}.jsonl": function for name in ("simple_python", "multiple", "parallel", "irrelevance")},
    **{f"bfcl/answers_{name}.jsonl": call for name in ("simple_python", "multiple", "parallel")},
    **{f"bbh/{name}.json": example(target) for name, target in BBH.items()},
}
"""What scripts/data puts into data/: rows of the same shape."""
SAID = {
    "irrelevance": "None of these is of use.",
    "strict": "a poem of a few words",
    "chains": "<think>\n5\n\n</think>\n6",
}
"""Right answers that no verifier can make up."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, make in DATA.items():
        path, rows = Path("data", name), [make(i) for i in range(1, 15)]
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"canary": "x", "examples": rows}
        path.write_text(json.dumps(whole) if path.suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows))


def test_there_are_all():
    names = {
        "gsm8k",
        "countdown",
        "bfcl",
        "humaneval",
        "mbpp",
        "ifeval",
        "aqua",
        "bbh",
        "arc",
        "reasoning_gym",
        "thinking",
    }
    assert names <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestEvalConfig:
    def test_a_dump_loads_to_the_same(self, path, tmp_path):
        config = load_evaluation(path)
        (tmp_path / "again.yaml").write_text(config.dump(), encoding="utf-8")
        assert hone.load_config(tmp_path / "again.yaml") == config

    def test_right_answers_are_paid_for_and_others_are_not(self, path, data):
        config = load_evaluation(path)
        for name, part in config.eval.items():
            verifier, task = part.verifier or config.verifier, next(part.tasks)
            text = SAID.get(name) or verifier.example(task) or f"Let me see.\nThe answer is **{task.answer}**."
            for said, worth in ((text, 1), ('{"name": "f", "arguments": {}}, ' * 9 if name in SAID else "Hm. Hm?", 0)):
                score = verifier(task, Trajectory(task, [Segment("response", "policy", (), text=said)]))
                assert (name, score.value) == (name, worth)

    def test_it_runs(self, path, data, tiny_folder):
        small = [f"model={{path: {tiny_folder('llama', max_position_embeddings=8192)}, dtype: float32}}", "device=cpu"]
        small += ["verification={workers: 1, timeout: 100}"]
        names = list(load_evaluation(path).eval)
        for name in names:
            small += [f"eval.{name}.items=2", f"eval.{name}.siblings=2", f"eval.{name}.sampling.max_tokens=4"]
        results = evaluate(load_evaluation(path, small), folder="out")["evaluations"]
        assert list(results) == names
        for name in names:
            assert results[name]["checkpoints"]["base"]["errors"] == {}
            rows = JsonLines(Path("out", name, "base.jsonl"))
            assert len(rows) == 4
            assert all(row["question"] and row["reward"] is not None for row in rows)
