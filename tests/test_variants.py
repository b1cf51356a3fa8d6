"""``variants`` in ``hone eval``: the same weights and tasks, answered in other ways, side by side."""

from pathlib import Path

import loop_parts as parts
import pytest

import hone
from hone import runtime
from hone.cli import main
from hone.evaluation import evaluate, load_evaluation
from hone.registry import ConfigError
from hone.report.lines import JsonLines

CONFIG = """
model: {{path: {model}, dtype: float32}}
sampling: {{max_tokens: 12}}
verification: {{workers: 1, timeout: 100}}
device: cpu
variants:
  same: {{sampler.native.max_sequences: 3}}
  forced: {{sampler.native.processors: [{{budget_forcing: {{waits: 0, budget: 1}}}}]}}
  asked: {{environment.single_turn.system: Be brief.}}
eval:
  letters:
    tasks: {{loop_parts:Letters: {{kinds: 4}}}}
    verifier: variant_parts:even
    items: 4
    siblings: 2
    sampling: {{temperature: 1.0}}
"""
VERIFIER = """
import hone


def even(task, trajectory):
    return float(sum(map(ord, trajectory.response)) % 2 == 0)


@hone.settings
class Deaf:
    training = "exact"

    def bind(self, renderer):
        raise LookupError("this tokenizer has no word for wait")

    def __call__(self, rows, logits):
        return logits
"""


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model_path):
    parts.at_work(monkeypatch, tmp_path, variant_parts=VERIFIER)
    Path("tiny.yaml").write_text(CONFIG.format(model=tiny_model_path))
    return tmp_path


def segments(label):
    rows = sorted(JsonLines(Path(f"out/letters/{label}.jsonl")), key=lambda row: (row["group"], row["sibling"]))
    return [[part for part in row["segments"] if part["source"] != "given"] for row in rows], rows


def test_variants_stand_side_by_side(here, capsys):
    result = evaluate(load_evaluation("tiny.yaml"), folder="out")["evaluations"]["letters"]
    labels = ["base", "base/same", "base/forced", "base/asked"]
    assert list(result["checkpoints"]) == labels
    base, plain = segments("base")
    assert segments("base.same")[0] == base  # the same noise, whoever is beside
    assert segments("base.asked")[0] != base
    assert segments("base.asked")[1][0]["segments"][0]["text"].count("Be brief.") == 1
    forced, rows = segments("base.forced")
    for own, before, row in zip(forced, base, rows, strict=True):
        assert [(part["source"], part["tokens"]) for part in own] == [("policy", 1), ("forced", 8), ("policy", 3)]
        assert own[0]["text"] == before[0]["text"][: len(own[0]["text"])]
        assert (own[1]["text"], row["thinking"]) == ("</think>", 9)
    assert {row["thinking"] for row in plain} == {None}

    own, changed = result["checkpoints"]["base/forced"], result["differences"]["base/forced"]
    assert (own["length"], own["thinking"]) == (12, 9)  # imposed ones count: a token is a token
    assert result["checkpoints"]["base"]["thinking"] is None
    gained = own["accuracy"]["mean"] - result["checkpoints"]["base"]["accuracy"]["mean"]
    assert gained != 0
    assert changed["efficiency"] == pytest.approx(gained / (9 / 12))
    assert "efficiency" not in result["differences"]["base/asked"]

    assert main(["eval", "tiny.yaml", "--output", "out"]) == 0  # nothing is left to play
    table = capsys.readouterr().out
    assert "thinking" in table
    assert "efficiency" in table
    assert main(["eval", "tiny.yaml", "--output", "out", "variants.forced={environment.single_turn.system: B}"]) == 2
    told = capsys.readouterr().err
    assert "variants.forced" in told
    assert "variants.same" not in told


def test_a_variant_may_come_later_and_plays_alone(here):
    config = load_evaluation("tiny.yaml", ["variants={same: {sampler.native.max_sequences: 3}}"])
    evaluate(config, folder="out")
    rows = Path("out/letters/base.jsonl").read_bytes()
    told = []
    result = evaluate(load_evaluation("tiny.yaml"), folder="out", progress=lambda *given: told.append(given))
    assert {label for _, label, _, _ in told} == {"base/forced", "base/asked"}
    assert list(result["evaluations"]["letters"]["checkpoints"]) == ["base", "base/same", "base/forced", "base/asked"]
    assert Path("out/letters/base.jsonl").read_bytes() == rows
    with pytest.raises(ValueError, match=r"variants\.forced.* -> not there"):  # its answers are there
        evaluate(config, folder="out")
    other = ["variants.forced={sampler.native.processors: [{budget_forcing: {waits: 0, budget: 2}}]}"]
    with pytest.raises(ValueError, match=r"variants\.forced.*budget: 1 -> 2"):
        evaluate(load_evaluation("tiny.yaml", other), folder="out")


def test_a_checkpoint_answers_in_every_variant(here, tiny_model_path):
    import shutil

    shutil.copytree(tiny_model_path, "copy")
    config = load_evaluation("tiny.yaml", ["variants={same: {sampler.native.max_sequences: 3}}"])
    result = evaluate(config, ["copy"], folder="out")["evaluations"]["letters"]
    assert list(result["checkpoints"]) == ["base", "base/same", "copy", "copy/same"]
    assert segments("copy.same")[0] == segments("base")[0]


def test_calibration_finds_the_processor_of_a_variant(here, capsys):
    given = ["tasks={loop_parts:Letters: {kinds: 4}}", "verifier=variant_parts:even"]
    given += ["variants={slow: {sampler.native.processors: [{alphaone: {wait: W, slow: [W], end: e}}]}}"]
    assert main(["calibrate", "tiny.yaml", *given, "--questions", "4"]) == 0
    assert "answers: 4" in capsys.readouterr().out


def test_they_are_written_down_and_read_back(here):
    config = load_evaluation("tiny.yaml")
    Path("again.yaml").write_text(config.dump())
    again = hone.load_config("again.yaml")
    assert again == config
    assert again.every_variant()["asked"].environment.system == "Be brief."
    assert again.every_variant()[""] is again


@pytest.mark.parametrize(
    ("variants", "told"),
    [
        ("{a: {sampling.temperature: 2}}", "variants.a.sampling.temperature = 2: cannot change in variants"),
        ("{a: {sampler.native.prozessors: []}}", "variants.a.sampler.native.prozessors = []: unknown setting"),
        ("{a b: {}}", "variants.a b"),
    ],
)
def test_what_they_cannot_change_is_told(here, variants, told):
    with pytest.raises(ConfigError) as caught:
        load_evaluation("tiny.yaml", [f"variants={variants}"])
    assert told in str(caught.value)


def test_an_environment_that_would_do_nothing_is_refused(here):
    with pytest.raises(ConfigError, match=r"variants\.asked\.environment: would do nothing in eval\.letters"):
        load_evaluation("tiny.yaml", ["eval.letters.environment=single_turn"])


@pytest.mark.parametrize(("patience", "limits"), [(5000, [7200, 7200, 0, 10000]), ("null", [7200, 7200, 0, None])])
def test_processes_wait_for_the_servers_of_a_variant_too(here, patience, limits):
    server = f"{{vllm_server: {{exchange: out, patience: {patience}}}}}"
    config = load_evaluation("tiny.yaml", [f"variants={{far: {{sampler: {server}}}}}"])
    assert runtime.limits(config) == limits


@pytest.fixture
def checked(here, monkeypatch, capsys):
    """``checked(*overrides) -> (status, what `hone check` tells of each variant)``, with one adversarial answer."""
    from hone import check

    monkeypatch.setattr(check, "adversarial", lambda: {"empty": ""})

    def checked(*overrides):
        status = main(["check", "tiny.yaml", *overrides])
        out, err = capsys.readouterr()
        assert not err
        assert ("tried as `hone eval` reads it" in out) == (not any(given.startswith("tasks=") for given in overrides))
        marks = [line.split(maxsplit=1) for line in out.splitlines() if " variants." in line]
        return status, {told.partition(":")[0]: (mark, told.partition(": ")[2]) for mark, told in marks}

    return checked


def test_a_check_tries_each_of_them(checked):
    status, told = checked("variants.twin={sampler.native.max_sequences: 64}", "sampler.native.max_sequences=64")
    assert status == 0
    assert told.pop("variants.twin") == ("note", "it answers as the configuration itself does")
    assert told == {
        f"variants.{name}": ("ok", f"2 answers of a miniature, {tokens} tokens")  # of 8 each, of which 8 are imposed
        for name, tokens in (("same", 16), ("forced", 16), ("asked", 16))
    }


def test_a_check_names_the_variant_that_cannot_answer(checked):
    status, told = checked("variants.forced={sampler.native.processors: [variant_parts:Deaf]}")
    assert status == 1
    assert told["variants.forced"] == ("FAIL", "LookupError: this tokenizer has no word for wait")
    assert told["variants.same"][0] == told["variants.asked"][0] == "ok"


def test_a_check_says_that_nothing_is_asked_of_them(checked):
    status, told = checked("tasks=loop_parts:Letters", "verifier=variant_parts:even", "eval={}")
    assert status == 0
    assert told["variants.asked"] == ("skip", "there is no evaluation that asks it anything")
