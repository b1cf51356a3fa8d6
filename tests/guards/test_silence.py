"""On sound runs of every kind the guard says nothing, though it looks at every step."""

from pathlib import Path

import loop_parts as parts
import pytest

import hone

CONFIGS = Path(__file__).parents[2] / "configs"
PENALTY = {"penalties": [{"kl_penalty": {"coefficient": 0.1}}]}
HIGH = [{"high_entropy": {"keep": 0.3}}]

SOUND = {
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "lora": {"model": {"lora": {"rank": 2}}},
    "no shared context": {"model": {"share_context": False}},
    "off-policy": {"update": {"minibatches": 2, "epochs": 2, "tokens": 32}},
    "high entropy": {"objective": {"policy_gradient": {"weights": HIGH}}, "update": {"tokens": 24}},
    "high entropy, bfloat16": {"objective": {"policy_gradient": {"weights": HIGH}}, "model": {"dtype": "bfloat16"}},
    "high entropy, by micro-batch": {
        "objective": {"policy_gradient": {"weights": [{"high_entropy": {"keep": 0.3, "pool": "micro_batch"}}]}}
    },
    "penalty": {"objective": {"policy_gradient": PENALTY}, "shapers": [{"kl_reward": {"coefficient": 0.1}}]},
    "truncated are masked": {"shapers": ["mask_truncated"]},
    "no signal": {"verifier": parts.nothing, "gate": "informative"},
    "failing verdicts": {"verifier": parts.fails_on_odd, "siblings": 6},
    "reflect-retry": {"environment": {"reflect_retry": {"success": 0.5}}, "verification": {"workers": 2}},
    "raw, by sequence": {"advantage": "raw", "objective": {"policy_gradient": {"reduction": "sequence_mean"}}},
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_run_is_silent(name, tiny_model_path, tmp_path, caplog):
    changes = dict(SOUND[name])
    model = {"path": tiny_model_path, "dtype": "float32"} | changes.pop("model", {})
    base = {"gate": "everything", "steps": 4, "sampling": {"max_tokens": 8, "temperature": 0.8}}
    hooks = [{"guard": {"every": 1}}, {"log": {"tensorboard": False}}]
    changes = base | changes | {"model": model, "hooks": hooks}
    run = hone.Trainer(hone.Config(**parts.settings(tiny_model_path, tmp_path / "run", **changes))).fit()
    assert run.series("guard/findings")[1].tolist() == [0.0] * 4
    assert [record for record in caplog.records if "guard" in record.getMessage()] == []


def test_the_quickstart_on_a_tiny_model_is_silent(tiny_model_path, tmp_path, caplog):
    small = {"model": tiny_model_path, "device": "cpu", "folder": str(tmp_path / "run"), "steps": 12, "eval": {}}
    run = hone.Trainer(hone.load_config(CONFIGS / "quickstart.yaml", small)).fit()
    assert run.series("guard/findings")[1].tolist() == [0.0] * 12
    assert [record for record in caplog.records if "guard" in record.getMessage()] == []
