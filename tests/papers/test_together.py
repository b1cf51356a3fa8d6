"""The four papers in every combination, by YAML alone, on a tiny model."""

import math
from itertools import combinations

import pytest

import hone
from hone import document

BASE = """
tasks: {"loop_parts:Letters": {}}
verifier: test_together:early
sampling: {max_tokens: 6}
steps: 3
prompts: 2
siblings: 4
gate: everything
optimizer: {lr: 1.0e-2}
verification: {workers: 1}
update: {tokens: 64}
hooks: [{log: {tensorboard: false}}]
device: cpu
"""
PAPERS = {
    "reflect_retry": "environment: {reflect_retry: {reflection_tokens: 5, truncated_retry: judge}}",
    "high_entropy": "objective.policy_gradient.weights: [{high_entropy: {keep: 0.25}}]",
    "prorl": """
objective.policy_gradient.penalties: [{kl_penalty: {coefficient: 0.01, estimator: k2}}]
hooks: [{log: {tensorboard: false}}, {prorl: {triggers: [{every: {steps: 2}}]}}]
""",
    "synthrl": """
tasks:
  synthrl:
    source: {"loop_parts:Letters": {}}
    writer: {"test_together:Double": {}}
    store: synthesis
    environment: single_turn
    rollouts: 4
    seed_passes: 1
    min_passes: 0
    drop: 0
    success: 0.3
    attempts: 1
    refresh: 2
""",
}
ALPHAONE = """
sampler.native.processors:
  - alphaone:
      {n_think: 2, wait: W, slow: [A, E, T], end: "e", delimiters: [a, b, c, d], schedule: constant, probability: 0.9}
"""
"""At the level of letters, which is what a model of random weights can say."""
SUBSETS = [names for size in range(5) for names in combinations(PAPERS, size)]


def early(task, trajectory):
    """The share of letters in the first half of the alphabet: siblings differ, and hardly any answer is all right."""
    text = trajectory.response
    return sum(letter.lower() < "n" for letter in text) / max(1, len(text))


@hone.settings
class Double:
    """A writer that asks for two of the same letter."""

    name: str = "double"

    def bind(self, player): ...

    async def write(self, messages, *, seed):
        letter = messages[-1]["content"].rpartition("The question:")[2].strip()[0]
        return f"<question>{letter} and once more {letter}</question>"


def config(names, folder, model):
    data = document.read(BASE)
    data |= {"model": {"path": model, "dtype": "float32"}, "folder": str(folder / "run")}
    for name in names:
        for path, value in document.read(PAPERS[name]).items():
            document.put(data, path, value)
    if "synthrl" in names:
        data["tasks"]["synthrl"]["store"] = str(folder / "synthesis")
    return hone.Config(**data)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_every_combination_trains(names, tmp_path, tiny_model_path):
    made = config(names, tmp_path, tiny_model_path)
    assert hone.Config(**document.read(made.dump())) == made
    run = hone.Trainer(made).fit()
    assert [row["step"] for row in run.metrics] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in run.metrics)
    trained = {part["name"] for row in run.rollouts for part in row["segments"] if part["train"]}
    assert trained == ({"reflection"} if "reflect_retry" in names else {"response"})
    for row in run.metrics:
        assert ("entropy/share" in row) == ("high_entropy" in names)
        assert ("loss/kl_penalty" in row) == ("prorl" in names)
        assert ("reflect/first_try" in row) == ("reflect_retry" in names)
    if "high_entropy" in names:  # a quarter of what is trained, and of nothing else
        kept = [row["entropy/share"] * row["tokens/trained"] for row in run.metrics]
        assert kept == pytest.approx([math.ceil(row["tokens/trained"] / 4) for row in run.metrics])
    if "prorl" in names:
        assert [row["reset/happened"] for row in run.metrics] == [0, 1, 0]
        assert run.metrics[2]["kl/mean"] < run.metrics[1]["kl/mean"]  # to the policy of the step before
    assert any("tokens/aside" in row for row in run.metrics) == ("synthrl" in names)
    if "synthrl" in names:
        tasks = {row["task"] for row in run.rollouts}
        assert any("synth" in task for task in tasks)
        assert any("synth" not in task for task in tasks)


@pytest.mark.parametrize("names", [(), tuple(PAPERS)], ids=["alone", "all"])
def test_what_alphaone_imposes_does_not_train(names, tmp_path, tiny_model_path):
    made = config((), tmp_path, tiny_model_path)
    data = document.read(made.dump())
    for source in ("ALPHAONE", *names):
        for path, value in document.read(globals().get(source) or PAPERS[source]).items():
            document.put(data, path, value)
    if names:
        data["tasks"]["synthrl"]["store"] = str(tmp_path / "synthesis")
    made = hone.Config(**data)
    assert hone.Config(**document.read(made.dump())) == made
    run = hone.Trainer(made).fit()
    assert all(math.isfinite(row["loss"]) and row["mismatch/max"] < 1e-3 for row in run.metrics)
    parts = [part for row in run.rollouts for part in row["segments"]]
    imposed = [part for part in parts if part["source"] == "forced"]
    assert imposed
    assert not any(part["train"] for part in imposed)
    assert {part["source"] for part in parts if part["train"]} == {"policy"}
