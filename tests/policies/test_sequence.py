"""Which parts of a row lie where, and what cannot be spread; that gradients stay is in tests/distributed."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hone import ranks
from hone.learner import Learner
from hone.policies.sequence import Split
from hone.sections import OptimizerConfig, UpdateConfig

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@given(st.integers(1, 40), st.integers(1, 6))
def test_every_step_lies_in_one_place(length, size):
    steps = torch.arange(length)
    parts, owners = [], []
    with pytest.MonkeyPatch.context() as patch:
        for place in range(size):
            patch.setattr(ranks, "index", lambda place=place: size + place)  # of the second group
            split = Split(size, length)
            part = split.part(steps[None] + 1)[0]
            own = split.own(steps)
            assert part[: int(own.sum())].tolist() == (steps[own] + 1).tolist()
            assert not part[int(own.sum()) :].any()  # padding
            parts.append(len(part))
            owners.append(own)
    assert set(parts) == {-(-length // size)}
    assert torch.stack(owners).sum(0).eq(1).all()


@pytest.mark.parametrize(
    ("kind", "config", "size", "message"),
    [
        ("llama", {}, 3, "sequence_parallel: 3: the run has 4 processes, which is no multiple of it"),
        (
            "llama",
            {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1},
            2,
            "1 of keys; give one of 1, 3",
        ),
        ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}, 16, "give one of 1, 2, 4, 8"),
        ("gemma2", {}, 2, "does not attend over packed rows"),
        ("llama", {"rope_parameters": DYNAMIC}, 2, r"positions \(dynamic\) depend on how long the whole row is"),
    ],
)
def test_what_cannot_be_spread_is_refused(kind, config, size, message, tiny_policy, monkeypatch):
    policy = tiny_policy(kind=kind, config=config)
    monkeypatch.setattr(ranks, "count", lambda: 16 if size == 16 else 4)
    with pytest.raises(ValueError, match=message):
        policy.spread(size)


def test_another_policy_is_refused_when_its_stage_begins():
    policy = SimpleNamespace(parameters=lambda: [torch.nn.Parameter(torch.zeros(1))])
    learner = Learner(policy, None, OptimizerConfig(), UpdateConfig(), steps=1, temperature=1.0)
    with pytest.raises(ValueError, match="sequence_parallel: a SimpleNamespace cannot be spread"):
        learner.settings = UpdateConfig(sequence_parallel=2)
    assert learner.settings == UpdateConfig()


def test_models_whose_branches_are_not_shared_are_refused(tiny_policy, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(ValueError, match="does not attend over packed rows"):
        tiny_policy(share_context=False).spread(2)
