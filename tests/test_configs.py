"""Every configuration in the repository: read, checked against the schema, and run for a step on a tiny model."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import hone
from hone import document, session
from hone.schema import json_schema
from hone.types import Segment, Trajectory

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("**/*.yaml") if path.parent.name != "eval")


def gsm8k(i):
    return {"question": f"Ann has {i} pens and buys 2 more. How many?", "answer": f"{i} + 2 = <<{i}+2>>.\n#### {i + 2}"}


def problem(i):
    return {"problem": f"What is {i} + 2?", "answer": str(i + 2)}


def countdown(i):
    return {"nums": [58, 97, i], "target": 58 * i - 97, "solution": f"({i} * 58) - 97"}


def function(i):
    parameters = {"type": "dict", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    described = {"name": f"math.f{i}", "description": "Compute f.", "parameters": parameters}
    return {
        "id": f"simple_python_{i}",
        "question": [[{"role": "user", "content": f"f of {i}?"}]],
        "function": [described],
    }


def call(i):
    return {"id": f"simple_python_{i}", "ground_truth": [{f"math.f{i}": {"n": [i]}}]}


def small_program(i):
    tests = [f"assert add_{i}({n}) == {n + i}" for n in range(3)]
    code = f"def add_{i}(n):\r\n  return n + {i}"
    return {"task_id": i, "text": f"Add {i}.", "code": code, "test_setup_code": "", "test_list": tests}


def completion(i):
    return {
        "task_id": f"HumanEval/{i}",
        "prompt": f'import math\n\n\ndef add(n: int) -> int:\n    """Add {i} to n, but {{}} is no set."""\n',
        "entry_point": "add",
        "canonical_solution": f"    return n + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
    }


DATA = {
    "dapo_math/train.jsonl": problem,
    "aime/2024.jsonl": problem,
    "gsm8k/train.jsonl": gsm8k,
    "gsm8k/test.jsonl": gsm8k,
    "countdown/train.jsonl": countdown,
    "countdown/test.jsonl": countdown,
    "bfcl/BFCL_v4_simple_python.jsonl": function,
    "bfcl/answers_simple_python.jsonl": call,
    "humaneval/HumanEval.jsonl": completion,
    "mbpp/mbpp.jsonl": small_program,
}
"""What users download into data/: rows of the same shape."""


@pytest.fixture(scope="module")
def schema():
    return json_schema()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, make in DATA.items():
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(make(i)) + "\n" for i in range(1, 975)))


def test_there_are_some():
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestConfig:
    def test_it_fits_the_schema(self, path, schema):
        jsonschema.validate(document.read(path.read_text(encoding="utf-8")), schema)

    def test_a_dump_loads_to_the_same(self, path, schema, tmp_path):
        config = hone.load_config(path)
        again = tmp_path / "again.yaml"
        again.write_text(config.dump(), encoding="utf-8")
        assert hone.load_config(again) == config
        assert hone.load_config(again).dump() == config.dump()
        jsonschema.validate(yaml.safe_load(config.dump()), schema)

    def test_right_answers_are_paid_for(self, path, data):
        config = hone.load_config(path)
        sources = [(config.tasks, config.verifier)]
        sources += [(part.tasks, part.verifier or config.verifier) for part in config.eval.values()]
        for tasks, verifier in sources:
            task = next(tasks)
            assert task.answer
            text = verifier.example(task)
            if text is not None:
                assert verifier(task, Trajectory(task, [Segment("response", "policy", (), text=text)])).value == 1

    def test_training_and_evaluation_share_no_file_rows(self, path, data):
        config = hone.load_config(path)
        if "eval" not in config.dump() or not hasattr(config.tasks, "path"):
            pytest.skip("its tasks are made up, and tested where they are")
        if config.tasks.limit is None:
            assert all(part.tasks.path != config.tasks.path for part in config.eval.values())
            return
        trained = {next(config.tasks).id for _ in range(config.tasks.limit)}
        for part in config.eval.values():
            assert not trained & {task.id for task in part.tasks}

    def test_a_step_runs(self, path, data, tiny_folder):
        overrides = {  # its tokens are bytes, so it needs room
            "model": {"path": tiny_folder("llama", max_position_embeddings=4096), "dtype": "float32"},
            "sampling.max_tokens": 4,
            "steps": 1,
            "prompts": 2,
            "siblings": 2,
            "max_rounds": 1,
            "gate": "everything",
            "update.minibatches": 1,
            "verification.workers": 1,
            "checkpoint.at_end": False,
            "device": "cpu",
            "folder": "run",
        }
        written = document.read(path.read_text(encoding="utf-8"))
        names = written.get("eval", {})
        overrides |= {f"eval.{name}.items": 2 for name in names}
        overrides |= {f"eval.{name}.sampling.max_tokens": 4 for name, part in names.items() if "sampling" in part}
        if mines := "failures" in written["tasks"]:
            overrides |= {"tasks.failures.limit": 3, "tasks.failures.attempts": 2}
        config = hone.load_config(path, overrides)
        if mines:
            session.make(config, "mine", print)
        run = hone.Trainer(config).fit()
        row = run.metrics[-1]
        assert (row["step"], row["groups/kept"], row["verify/errors"]) == (1, 2, 0)
        assert row.get("mismatch/max", 0.0) < 1e-3
        assert len(run.rollouts) == 4
        for name in names:
            assert [e.step for e in run.evaluations[name].values()] == [0, 1]
            assert len(run.evaluations[name]["last"].rollouts) == 2 * config.eval[name].siblings
