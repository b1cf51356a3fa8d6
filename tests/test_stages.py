"""Settings that change on the way: what a stage may change, and that a resumed run is in the right one."""

from pathlib import Path

import loop_parts as parts
import pytest
from loop_parts import Letters, Spy

import hone
from hone.registry import ConfigError

QUIET = {"log": {"tensorboard": False}}


@pytest.fixture
def config(tiny_model_path, tmp_path):
    def build(stages, name="run", **changes):
        return hone.Config(**parts.settings(tiny_model_path, tmp_path / name, stages=stages, **changes))

    return build


def test_each_stage_builds_on_the_one_before_and_shares_what_it_leaves(config):
    made = config(
        {
            4: {"sampling": {"temperature": 0.5}, "siblings": 5},
            2: {"siblings": 4, "objective.policy_gradient.surrogate.ppo_clip.high": 0.4},
        }
    )
    seen = [(made.at(step).siblings, made.at(step).sampling.temperature) for step in range(6)]
    assert seen == [(3, 1.0), (3, 1.0), (4, 1.0), (4, 1.0), (5, 0.5), (5, 0.5)]
    assert made.at(5).sampling.max_tokens == made.sampling.max_tokens == 5  # a section is merged, not replaced
    highs = [stage.objective.surrogate.keywords["high"] for stage in made.every_stage()[1:]]
    assert highs == [0.4, 0.4]
    assert made.at(5).tasks is made.tasks
    assert made.at(5).verifier is made.verifier
    assert made.at(5).model is made.model


def test_a_stage_that_would_fail_fails_before_the_run(config):
    with pytest.raises(ConfigError) as caught:
        config({3: {"siblings": 0, "sampling.tempo": 1}, 7: {"steps": 9}, 8: {"sampling.temperature": 0}})
    message = str(caught.value)
    assert "stages.3.siblings = 0: should be greater" in message
    assert "stages.3.sampling.tempo = 1: unknown setting" in message
    assert "stages.7.steps = 9: cannot change in stages" in message
    assert "stages.8.sampling.temperature = 0: greedy siblings" in message


def test_a_stage_that_cannot_be_spread_is_refused_before_the_first_step(config):
    made = config(stages={2: {"update.sequence_parallel": 2}})
    with pytest.raises(ValueError, match="sequence_parallel: 2: the run has 1 processes"):
        hone.Trainer(made).fit()
    assert not Path(made.folder, "metrics.jsonl").exists()


def test_stages_are_written_down_and_read_back(config, tmp_path):
    from hone import document

    made = config({2: {"siblings": 4}}, tasks={"loop_parts:Letters": {}}, verifier="loop_parts:low")
    again = hone.Config(**document.read(made.dump()))
    assert again == made
    assert again.at(2).siblings == 4


def stages():
    return {
        2: {"siblings": 5, "prompts": 1, "sampling.max_tokens": 2},
        3: {"tasks": Letters(kinds=3), "verifier": parts.nothing, "gate": "everything", "sampling.temperature": 0.5},
    }


def timeless(run):
    unlike = ("time/", "memory/")
    return [{name: value for name, value in row.items() if not name.startswith(unlike)} for row in run.metrics]


def test_the_steps_are_those_of_their_stages(config):
    run = hone.Trainer(config(stages(), steps=4)).fit()
    assert [len(run.rollouts.at(step)) for step in (1, 2, 3, 4)] == [6, 6, 5, 5]
    assert [row["tokens/sampled"] for row in run.metrics] == [30, 30, 10, 10]
    assert [run.rollouts.at(step)[0]["task"] for step in (1, 2, 3, 4)] == [
        "letter-0",
        "letter-2",
        "letter-4",
        "letter-0",
    ]
    assert [row["reward/mean"] == 0.0 for row in run.metrics] == [False, False, False, True]


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_resumed_in_a_later_stage_is_the_run_that_never_stopped(config, step):
    """Also where it stopped right before the stage, whose tasks are others."""
    whole = hone.Trainer(config(stages(), "whole", steps=5, checkpoint={"every": 1})).fit()
    stopped = Spy(at={step: parts.interrupt})
    hone.Trainer(config(stages(), "halves", steps=5, hooks=[QUIET, stopped])).fit()
    resumed = hone.Trainer(config(stages(), "halves", steps=5)).fit(resume=True, allow=("hooks",))
    assert timeless(resumed) == timeless(whole)
    assert list(resumed.rollouts) == list(whole.rollouts)


def test_a_reference_is_kept_from_the_start_if_a_later_stage_reads_it(config):
    penalties = [{"kl_penalty": {"coefficient": 0.1, "estimator": "k2"}}]
    made = config({2: {"objective.policy_gradient.penalties": penalties}}, steps=3)
    run = hone.Trainer(made).fit()
    assert ["loss/kl_penalty" in row for row in run.metrics] == [False, False, True]
    row = run.metrics[-1]
    assert row["loss/kl_penalty"] > 0  # two steps away from the weights of the beginning
    assert row["loss/surrogate"] + row["loss/kl_penalty"] == pytest.approx(row["loss"], abs=1e-6)
