"""Configurations: strict YAML, overrides, cross-field checks, dump, and the schema for editors."""

import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hone import document
from hone.build import describe
from hone.config import Config, EvalConfig, load_config
from hone.registry import ConfigError
from hone.schema import json_schema
from hone.seats import SamplingParams, settings
from hone.types import Score


@settings
class Questions:
    """A source of no tasks."""

    size: int = 3

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


def judge(task, trajectory, *, strict: bool = False) -> Score:
    """A verifier."""
    return Score(1.0)


TASKS, JUDGE = f"{__name__}:Questions", f"{__name__}:judge"
SHORT = f"""
model: smollm2-135m
tasks: {TASKS}
verifier: {JUDGE}
"""
LONG = f"""
model: {{path: smollm2-135m, dtype: float32, lora: {{rank: 8}}}}
tasks: {{{TASKS}: {{size: 5}}}}
verifier: {{{JUDGE}: {{strict: true}}}}
sampling: {{max_tokens: 64, stop: ["\\n\\n", "1e-5"]}}
steps: 20
prompts: 4
siblings: 4
advantage: leave_one_out
shapers: [{{overlong: {{max_length: 64, buffer: 16}}}}, mask_truncated]
objective:
  policy_gradient:
    surrogate: {{ppo_clip: {{high: 0.28}}}}
    reduction: token_mean
    penalties: [{{kl_penalty: {{coefficient: 1e-3}}}}]
optimizer: {{lr: 1e-5, schedule: cosine, betas: [0.9, 0.99]}}
update: {{minibatches: 2}}
eval:
  held-out: {{tasks: {TASKS}, every: 5}}
  sampled: {{tasks: {TASKS}, siblings: 4, sampling: {{temperature: 0.7, top_p: 0.9}}, verifier: {JUDGE}}}
folder: runs/here
"""


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "short.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load


def refused(load, text, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert str(caught.value).startswith(str(caught.value.source))
    return "\n".join(caught.value.problems)


def test_three_lines_are_a_config(load):
    config = load(SHORT)
    assert config.model.path == "smollm2-135m"
    assert (config.steps, config.prompts, config.siblings, config.max_rounds) == (100, 8, 8, 1)
    assert (config.optimizer.lr, config.optimizer.betas) == (1e-6, (0.9, 0.999))
    assert config.verification.on_error == "drop"


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_a_dump_loads_to_an_equal_config(load, text):
    config = load(text)
    assert load(config.dump()) == config
    assert load(config.dump()).dump() == config.dump()


def test_python_is_as_good_as_yaml(load):
    written = load(SHORT, "optimizer.lr=1e-5", "sampling.max_tokens=9", f"verifier={{{JUDGE}: {{strict: true}}}}")
    made = Config(
        model="smollm2-135m",
        tasks=Questions(),
        verifier={JUDGE: {"strict": True}},
        optimizer={"lr": 1e-5},
        sampling=SamplingParams(max_tokens=9),
    )
    assert made == written
    assert made != replace(made.sampling)
    assert Config(model="smollm2-135m", tasks=Questions(), verifier=judge).verifier is judge


def test_the_model_may_be_a_path_alone(load):
    models = [
        load(SHORT).model,
        load(SHORT.replace("smollm2-135m", "{path: smollm2-135m}")).model,
        load(SHORT.replace("smollm2-135m", "{causal_lm: {path: smollm2-135m}}")).model,
    ]
    assert models[0] == models[1] == models[2]
    for override in ("model.dtype=float32", "model.causal_lm.dtype=float32"):
        assert load(SHORT, override).model == replace(models[0], dtype="float32")
    assert load(SHORT, "model=some/where").model.path == "some/where"


def test_evaluation_is_greedy_unless_it_says_otherwise(load):
    config = load(LONG)
    assert config.eval["held-out"].sampling == replace(config.sampling, temperature=0.0)
    assert config.eval["held-out"].verifier is None


def test_what_the_sampling_of_an_evaluation_leaves_open_is_as_in_training(load):
    config = load(LONG)
    assert config.eval["sampled"].sampling == SamplingParams(
        temperature=0.7, top_p=0.9, max_tokens=64, stop=["\n\n", "1e-5"]
    )
    config = load(LONG, "eval.sampled.sampling={max_tokens: 9}", "sampling.temperature=0.5")
    assert config.eval["sampled"].sampling == replace(config.sampling, temperature=0.0, max_tokens=9)
    longer = load(LONG, "eval.sampled.sampling.max_tokens=256", "eval.sampled.sampling.stop=[]")  # the very defaults
    assert longer.eval["sampled"].sampling == SamplingParams(temperature=0.7, top_p=0.9, max_tokens=256)
    assert load(longer.dump()) == longer
    staged = load(LONG, "stages={3: {sampling.max_tokens: 5}}")
    assert staged.at(3).eval == staged.eval


def test_the_sampling_of_an_evaluation_may_be_an_object_that_is_taken_as_it_is():
    params = SamplingParams(temperature=0.7)
    short = {"sampling": {"max_tokens": 5, "stop": ["x"]}, "model": "x", "tasks": Questions(), "verifier": judge}
    given = {"tasks": Questions(), "sampling": params}
    for part in (given, EvalConfig(**given)):
        config = Config(eval={"e": part}, **short)
        assert config.eval["e"].sampling == params
        assert config.eval["e"].sampling.max_tokens == 256


def test_truncation_without_a_temperature_is_warned_of_once(load, caplog):
    load(SHORT, f"eval={{e: {{tasks: {TASKS}, sampling: {{top_p: 0.9}}}}}}", "stages={3: {siblings: 4}}")
    assert [record.getMessage() for record in caplog.records] == [
        "eval.e.sampling: top_p, top_k and min_p do nothing without a temperature"
    ]
    load(LONG)
    assert len(caplog.records) == 1


def test_the_folder_is_the_first_free_one(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(SHORT)
    assert config.run_folder() == Path("runs/short-1")
    Path("runs/short-1").mkdir(parents=True)
    assert config.run_folder() == Path("runs/short-2")
    assert load(LONG).run_folder() == Path("runs/here")
    assert Config(model="x", tasks=Questions(), verifier=judge).run_folder() == Path("runs/run-1")


def wild(rows, logits):
    """A processor that says nothing of training."""
    return logits


@pytest.mark.parametrize(
    ("processors", "weights", "problem"),
    [
        ("[{alphaone: {n_think: 9}}, budget_forcing]", "[]", None),
        ("[{alphaone: {n_think: 9, imposed: trained}}]", "[truncated_importance]", None),
        ("[{alphaone: {n_think: 9, imposed: trained}}]", "[masked_importance, high_entropy]", None),
        (
            "[budget_forcing, {alphaone: {n_think: 9, imposed: trained}}]", "[high_entropy]",
            "sampler.processors.1 = alphaone: what it imposes trains with another probability than the policy's; add "
            "truncated_importance or masked_importance to objective.policy_gradient.weights",
        ),
        (
            "['test_config:wild']", "[truncated_importance]",
            "sampler.processors.0 = test_config:wild: changes the distribution that is sampled, which biases the ratio "
            "of training",
        ),
    ],
)  # fmt: skip
def test_a_processor_says_what_training_with_it_needs(processors, weights, problem, load):
    given = f"sampler.native.processors={processors}", f"objective.policy_gradient.weights={weights}"
    if problem is None:
        assert load(SHORT, *given).sampler.processors
        return
    with pytest.raises(ConfigError) as caught:
        load(SHORT, *given)
    assert caught.value.problems == [problem]


@pytest.mark.parametrize(
    ("sampler", "weights", "expected"),
    [
        ("vllm", "[]", ["T"]),
        (
            "{vllm: {correction: {masked_importance: {high: 3}}}}",
            "[high_entropy]",
            ["H", "M"],
        ),
        ("vllm", "[masked_importance]", ["M"]),
        ("{vllm: {correction: null}}", "[]", []),
        ("native", "[]", []),
    ],
)
def test_a_sampler_that_is_not_exact_brings_the_weight_that_corrects_it(load, sampler, weights, expected):
    stage = "stages: {5: {objective: {policy_gradient: {weights: []}}}}"
    text = f"{SHORT}sampler: {sampler}\nobjective: {{policy_gradient: {{weights: {weights}}}}}\n{stage}\n"
    config = load(text)
    assert [next(iter(describe(weight)))[0].upper() for weight in config.objective.weights] == expected
    assert len(config.at(5).objective.weights) == ("correction: null" not in sampler and sampler != "native")
    assert load(config.dump()) == config


def test_vllm_refuses_processors_without_an_adapter(load):
    with pytest.raises(ConfigError, match=r"processors.0: BudgetForcing has no adapter for vLLM; the native sampler"):
        load(f"{SHORT}sampler: {{vllm: {{processors: [{{budget_forcing: {{waits: 1}}}}]}}}}\n")
    assert load(f"{SHORT}sampler: {{vllm: {{processors: [{{alphaone: {{n_think: 9}}}}]}}}}\n").sampler.processors


def test_hooks_are_called_in_an_order_that_keeps_the_record_whole(load):
    config = load(LONG, "hooks=[{log: {rollouts: false}}]", "checkpoint.every=7")
    hooks = config.run_hooks()
    assert [type(hook).__name__ for hook in hooks] == ["Evaluate", "Evaluate", "Guard", "Log", "Checkpoint", "Live"]
    assert [hook.name for hook in hooks[:2]] == ["held-out", "sampled"]
    assert hooks[0].sampling.temperature == 0.0
    assert hooks[3] is config.hooks[0]
    assert hooks[4].every == 7


def test_overrides(load):
    surrogate = "objective.policy_gradient.surrogate.ppo_clip"
    config = load(LONG, f"{surrogate}.low=0.1", "eval.held-out.items=7", "shapers.0.overlong.buffer=8", "folder=")
    assert config.objective.surrogate.keywords == {"low": 0.1, "high": 0.28, "dual": None}
    assert config.eval["held-out"].items == 7
    assert config.shapers[0].keywords["buffer"] == 8
    assert config.folder is None
    assert load(SHORT, f"{surrogate}.high=0.28").objective == load(SHORT, f"{surrogate}={{high: 0.28}}").objective
    assert load(SHORT, f"verifier.{JUDGE}.strict=true").verifier.keywords == {"strict": True}
    assert load(SHORT, "advantage=zscore", "advantage.zscore.eps=1e-4").advantage.keywords["eps"] == 1e-4


def test_overrides_may_be_a_mapping(tmp_path):
    (tmp_path / "short.yaml").write_text(SHORT)
    config = load_config(tmp_path / "short.yaml", {"steps": 3, "verifier": judge})
    assert config.steps == 3
    assert config.verifier is judge


def test_an_override_does_not_reach_through_an_alias(load):
    text = SHORT + f"eval:\n  a: &a {{tasks: {TASKS}, items: 5}}\n  b: *a\n"
    assert load(text, "eval.a.items=7").eval["b"].items == 5


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("steps", "should be path=value"),
        ("steps={", "override 'steps={': line 1"),
        ("steps.x=1", "nothing lies below steps, which is 20"),
        ("advantage.zscore.eps=1", "nothing lies below advantage, which is 'leave_one_out'"),
        ("shapers.2.overlong.buffer=8", "the list has 2 items, counted from 0"),
        ("shapers.last=8", "the list has 2 items"),
        ("objective.policy_gradient.surrogate.gspo.high=1", "belongs here; found: ppo_clip, gspo"),
    ],
)
def test_overrides_that_lead_nowhere(load, override, problem):
    assert problem in refused(load, LONG, override)


def test_unknown_keys_are_answered_with_the_nearest(load):
    found = refused(load, SHORT, "sampling.temprature=1", "stepz=3", "optimizer.lrr=1", "verifier.x:y.z=1")
    assert "override verifier.x:y.z: nothing lies below verifier" in found
    found = refused(load, SHORT, "sampling.temprature=1", "stepz=3", "objective.policy_gradient.surrogate.ppo_clp=")
    assert "sampling.temprature = 1: unknown setting; did you mean 'temperature'" in found
    assert "stepz = 3: unknown setting; did you mean 'steps'" in found
    assert "objective.policy_gradient.surrogate = 'ppo_clp': no surrogate has this name; did you mean" in found


def test_what_is_required_is_asked_for(load):
    found = refused(load, "model: x")
    assert "tasks: required; one of files, hub" in found
    assert "verifier: required; one of math" in found


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("sampling.temperature=0", "sampling.temperature = 0: greedy siblings are all alike"),
        ("sampling.seed=3", "sampling.seed = 3: is derived for each sample; set seed"),
        ("sampling.top_p=0.9", "bias the ratio"),
        ("sampling.top_k=5", "bias the ratio"),
        ("sampling.min_p=0.1", "bias the ratio"),
        ("siblings=1", "siblings = 1: gate informative compares siblings"),
        ("siblings=1", "siblings = 1: advantage zscore compares siblings"),
        ("update.minibatches=9", "update.minibatches = 9: should be at most prompts (8)"),
        ("prompts=0", "prompts = 0: should be greater than or equal to 1"),
        ("optimizer.schedule=cosinus", "should be 'constant', 'linear' or 'cosine'"),
        ("verification.on_error=ignore", "should be 'drop' or 'stop'"),
        (f"eval={{a.b: {{tasks: {TASKS}}}}}", "eval.a.b"),
    ],
)
def test_what_does_not_fit_together_is_refused(load, override, problem):
    assert problem in refused(load, SHORT, override)


def test_one_sibling_is_enough_for_what_does_not_compare(load):
    mine = f"{__name__}:raw"
    assert load(SHORT, "siblings=1", f"advantage={mine}", "gate=everything").siblings == 1


def raw(groups) -> None:
    """An advantage without a baseline."""


def test_evaluation_needs_a_source_of_its_own():
    tasks = Questions()
    with pytest.raises(ConfigError, match="the very object that training reads from"):
        Config(model="x", tasks=tasks, verifier=judge, eval={"same": EvalConfig(tasks=tasks)})


def test_files_are_read_strictly(load):
    assert refused(load, SHORT + "steps: 1\nsteps: 2\n") == "line 6: 'steps' is given twice"
    assert refused(load, SHORT + "sampling: {top_p: 1, top_p: 0.5}") == "line 5: 'top_p' is given twice"
    assert "line 5" in refused(load, SHORT + "steps: [1")
    assert refused(load, "- a\n- b") == "should hold a mapping of settings, not a list"


@pytest.mark.parametrize("value", ["2026-13-01", "!!int ''", "!!timestamp x", "!!float x", "[" * 5000])
def test_a_value_that_yaml_cannot_make_is_told(load, value):
    assert refused(load, SHORT + f"steps: {value}").startswith("a value that cannot be read: ")


@pytest.mark.parametrize("text", ["1e-5", "1E5", "+1e5", "-.5e3", "2.e-3", "1.5e+3", "0e0"])
def test_floats_need_no_dot(text):
    value = document.read(text)
    assert isinstance(value, float)
    assert value == float(text)


@pytest.mark.parametrize("text", ["e5", "1e", "1e5x", "0xe5", "1_0e5a"])
def test_only_floats_are_floats(text):
    assert not isinstance(document.read(text), float)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.from_regex(r"[-+]?\d\.?\d?e[-+]?\d"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(plain)
@example("\x85 \u2028\n\t: #\x0b")
def test_what_is_written_is_read_back(data):
    def same(a, b):
        if isinstance(a, float) and math.isnan(a):
            return isinstance(b, float) and math.isnan(b)
        if isinstance(a, list):
            return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict):
            return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        return type(a) is type(b) and a == b

    assert same(data, document.read(document.write(data)))


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_describes_settings_where_they_are_written_also_those_that_a_class_has_from_another(validator):
    own, further = (validator.schema["$defs"][name] for name in ("VLLMServers", "VLLMSampler"))
    assert own["description"].startswith("Servers that were started")
    assert own["properties"]["urls"]["description"] == "Of the servers."
    assert own["properties"]["patience"]["description"].startswith("Seconds for which there may be no server")
    assert further["properties"]["patience"]["description"].startswith("Seconds for the engine to start")
    bare = [
        f"{name}.{setting}"
        for name, part in validator.schema["$defs"].items()
        for setting, about in part.get("properties", {}).items()
        if name.startswith("VLLM") and "description" not in about
    ]
    assert not bare


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_the_schema_accepts_what_loads(validator, load, text):
    validator.validate(document.read(text))
    validator.validate(yaml.safe_load(load(text).dump()))


@pytest.mark.parametrize(
    "line",
    [
        "stepz: 1",
        "steps: -1",
        "advantage: z_score",
        "shapers: overlong",
        "shapers: [overlong]",
        "objective: {policy_gradient: {surrogate: {ppo_clip: {hgih: 1}}}}",
        "objective: {policy_gradient: {surrogate: {ppo_clip: {}, gspo: {}}}}",
        "model: {path: x, renderer: y}",
        "eval: {a.b: 3}",
    ],
)
def test_the_schema_and_the_loader_refuse_the_same(validator, load, line):
    data = {**document.read(SHORT), **document.read(line)}
    assert not validator.is_valid(data)
    refused(load, document.write(data))


def test_the_schema_explains(validator):
    clip = validator.schema["$defs"]["ppo_clip"]
    assert clip["description"].startswith("``-min(r A")
    assert clip["properties"]["high"]["default"] == 0.2
    assert clip["properties"]["high"]["minimum"] == 0
    assert "DAPO" in clip["properties"]["high"]["description"]
