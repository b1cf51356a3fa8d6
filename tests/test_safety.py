"""What hone never does with files and texts of others, held over its syntax trees; and where secrets never are."""

import ast
import logging
from pathlib import Path

import pytest
import torch
import yaml

import hone
from hone import document
from hone.policies.causal_lm import CausalLM

ROOT = Path(hone.__file__).parent
RUNNING = {"eval", "exec", "compile", "__import__", "execfile"}
UNPICKLING = {
    f"{module}.{name}" for module in ("pickle", "cloudpickle", "marshal", "joblib") for name in ("load", "loads")
} | {"pickle.Unpickler", "shelve.open"}  # fmt: skip
UNSAFE = {
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "parse_expr",
    "sympify",
}
ALLOWED = {
    ("document.py", "yaml.load"): "its loader is a SafeLoader that refuses repeated keys",
    ("ranks.py", "pickle.loads"): "what another process of the same run has pickled, out of the launcher's store",
    ("verifiers/workers.py", "pickle.loads"): "what the parent process has pickled, over a pipe of its own",
    ("verifiers/expressions.py", "parse_expr"): "only of what is_formula has found to be plain arithmetic",
    ("verifiers/jail/candidate.py", "exec"): "the model's program, inside the sandbox",
    ("verifiers/jail/candidate.py", "compile"): "likewise",
    ("verifiers/jail/evaluator.py", "exec"): "the task's tests, inside the sandbox",
    ("verifiers/jail/evaluator.py", "compile"): "likewise",
    ("verifiers/jail/evaluator.py", "__import__"): "modules that tests name, inside the sandbox",
    ("verifiers/jail/wire.py", "__import__"): "one of a fixed list, inside the sandbox",
}


def name_of(node):
    """``yaml.load`` of ``yaml.load(...)``, ``eval`` of ``eval(...)``; methods of objects are "?.name"."""
    if isinstance(node, ast.Attribute):
        return f"{node.value.id if isinstance(node.value, ast.Name) else '?'}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call, name):
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def faults(source):
    """Name and line of each call in a source that is forbidden."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = name_of(call.func)
        loose = (
            name in RUNNING | UNPICKLING | UNSAFE
            or (name == "torch.load" and keyword(call, "weights_only") is not True)
            or keyword(call, "shell") is True
            or keyword(call, "allow_pickle") is True
            or keyword(call, "trust_remote_code") is True
            or (name.startswith("Auto") and name.endswith(".from_pretrained") and not careful(call))
        )
        if loose:
            yield name, call.lineno


def careful(call):
    """Whether it says about foreign code that there is to be none; ``**where`` are files of a package of ours."""
    return any(k.arg in ("trust_remote_code", None) for k in call.keywords)


def test_nothing_of_others_is_run_or_unpickled():
    found = {
        (str(path.relative_to(ROOT)), name): line
        for path in sorted(ROOT.rglob("*.py"))
        for name, line in faults(path.read_text(encoding="utf-8"))
    }
    assert {place: line for place, line in found.items() if place not in ALLOWED} == {}
    assert ALLOWED.keys() <= found.keys(), "the list allows what is not there any more"


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)", "exec(text)", "pickle.load(file)", "cloudpickle.loads(data)", "yaml.load(text)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "subprocess.run(text, shell=True)",
        "os.system(text)",
        "numpy.load(path, allow_pickle=True)", "AutoModel.from_pretrained(path)", "shelve.open(path)",
        "AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_each_fault_is_seen(source):
    assert list(faults(f"def f(text, path):\n    return {source}"))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "model.eval()",
        "re.compile(text)",
        "json.load(file)",
    ],
)
def test_what_is_no_fault_is_let_through(source):
    assert list(faults(source)) == []


def test_yaml_makes_nothing_but_data():
    assert issubclass(document._Loader, yaml.SafeLoader)
    for text in ("!!python/object/apply:os.system [id]", "!!python/name:os.system", "a: !!python/module:os"):
        with pytest.raises(ValueError, match="could not determine a constructor"):
            document.read(text)


def test_code_that_comes_with_a_model_is_not_run(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}')
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    policy = CausalLM(path=str(folder))
    for load in (lambda: policy.load(torch.device("cpu")), lambda: policy.hollow("float32")):
        with pytest.raises(ValueError, match="trust_remote_code"):
            load()
    assert not (tmp_path / "ran").exists()


def test_a_weights_file_with_a_pickle_is_refused(tiny_folder, tmp_path):
    from hone import checkpoint

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"step": Evil()}, tmp_path / checkpoint.STATE)
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "ran").exists()


SECRETS = {
    "OPENAI_API_KEY": "sk-secret-of-openai-0123456789", "HF_TOKEN": "hf_secretofthehub0123456789",
    "WANDB_API_KEY": "secretofwandb0123456789",
}  # fmt: skip


def test_secrets_of_the_environment_are_in_no_file_of_a_run_and_no_log(tiny_model_path, tmp_path, monkeypatch, caplog):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    tasks = {"inline": {"rows": [{"q": "1", "a": "2"}], "prompt": "{q}", "answer": "{a}"}}
    config = hone.Config(
        model=tiny_model_path, tasks=tasks, verifier="exact", sampling={"max_tokens": 4}, steps=2, prompts=2,
        siblings=2, gate="everything", checkpoint={"every": 1}, folder=str(tmp_path / "run"),
        eval={"held": {"tasks": tasks, "items": 1}},
    )  # fmt: skip
    with caplog.at_level(logging.DEBUG):
        hone.Trainer.from_config(config).fit()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"config.yaml", "metrics.jsonl", "rollouts.jsonl", "run.json", "trainer.pt"} <= {path.name for path in files}
    for name, value in SECRETS.items():
        assert [str(path) for path in files if value.encode() in path.read_bytes()] == []
        assert value not in caplog.text, name
