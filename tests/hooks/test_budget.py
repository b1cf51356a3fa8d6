"""Runs that end at a number of sampled tokens."""

import loop_parts as parts
from loop_parts import Letters, Spy

import hone

LOG = {"log": {"tensorboard": False}}


def test_the_run_ends_with_the_step_that_reaches_the_budget(tiny_model_path, tmp_path):
    heldout = {"heldout": {"tasks": Letters(), "items": 2}}

    def config(name, *hooks, **changes):
        hooks = [LOG, {"budget": {"tokens": 61}}, *hooks]
        return hone.Config(
            **parts.settings(tiny_model_path, tmp_path / name, steps=9, hooks=hooks, eval=heldout, **changes)
        )

    run = hone.Trainer(config("whole")).fit()  # 2 groups of 3 answers of 5 tokens: 30 a step
    assert [row.get("tokens/total") for row in run.metrics] == [None, 30, 60, 90]
    assert run.evaluations["heldout"]["last"].step == 3  # the last step is evaluated, wherever it ends
    again = hone.Trainer(config("whole")).fit(resume=True)  # as if it had been killed at its very end
    assert [row["step"] for row in again.metrics] == [0, 1, 2, 3]
    again = hone.Trainer(config("halves", Spy(at={2: parts.interrupt}))).fit()
    assert again.steps == 2
    again = hone.Trainer(config("halves")).fit(resume=True, allow=("hooks",))
    assert [row.get("tokens/total") for row in again.metrics] == [None, 30, 60, 90]
