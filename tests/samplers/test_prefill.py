import random

import pytest
import torch
from tiny import KINDS

from hone.samplers.decode import cache_keyword
from hone.samplers.prefill import WORTH, Prefill, _batches, _common

ATTENTION = [
    kind for kind in KINDS if kind not in ("tied", "mamba", "rwkv", "lfm2", "gpt_neo", "bloom", "recurrent_gemma")
]


def steps(n, seed):
    draw = random.Random(seed)
    return tuple(draw.randrange(250) for _ in range(n))


@pytest.fixture
def prefill(tiny_policy):
    """``prefill(contexts, kind="llama", dtype="float32", most=4096)``: what it gives, and the ids of each pass."""

    def make(contexts, kind="llama", dtype="float32", most=4096):
        policy, passes = tiny_policy(dtype, kind=kind), []
        hook = policy.backbone.register_forward_pre_hook(
            lambda module, args, kwargs: passes.append(kwargs["input_ids"].tolist()), with_kwargs=True
        )
        with torch.inference_mode():
            found = Prefill(policy, cache_keyword(policy.backbone))(contexts, most)
        hook.remove()
        return found, passes

    return make


@pytest.mark.parametrize("kind", ATTENTION)
def test_a_common_beginning_changes_nothing(kind, prefill):
    beginning = steps(30, 0)  # longer than the windows
    contexts = [beginning + steps(n, n) for n in (1, 2, 5, 9, 9, 20)]
    together, passes = prefill(contexts, kind)
    assert [len(rows) for rows in passes] == [1, 6]
    for context in contexts:
        alone, passes = prefill([context], kind)
        assert passes == [[list(context)]]
        expected, found = alone[context], together[context]
        assert found.length == expected.length == len(context)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
        for ours, theirs in zip(found.layers, expected.layers, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_common_beginning_is_computed_once(prefill):
    beginning = steps(WORTH // 2, 0)
    contexts = [(*beginning, 251, *steps(n, n)) for n in (0, 3)] + [(*beginning, 252, 1)]
    found, passes = prefill(contexts)
    assert passes[0] == [list(beginning)]
    assert sorted(passes[1]) == sorted([[251, 0, 0, 0], [251, *steps(3, 3)], [252, 1, 0, 0]])
    assert set(found) == set(contexts)


def test_a_short_beginning_is_not_worth_a_pass(prefill):
    for length, rows in ((WORTH // 4 - 1, [5]), (WORTH // 4, [1, 5])):
        _, passes = prefill([(*steps(length, 0), i, i) for i in range(5)])
        assert [len(ids) for ids in passes] == rows


def test_one_context_is_one_pass(prefill):
    _, passes = prefill([steps(3 * WORTH, 0)])
    assert len(passes) == 1


def test_common_beginnings_by_hand():
    assert _common([(1, 2, 3), (1, 2, 4), (1, 2, 3, 4)]) == 2
    assert _common([(1, 2), (1, 2, 3)]) == 1  # the last step's hidden state gives the logits
    assert _common([(1,), (1, 2, 3)]) == 0
    assert _common([(3, 1, 1), (1, 1, 1), (2, 1, 1)]) == 0
    assert _common([(5, 6, 1, 9), (5, 6, 3), (5, 6, 2, 2, 2)]) == 2


def test_batches_by_hand():
    contexts = [steps(n, i) for i, n in enumerate((7, 1, 3, 3, 20, 2))]
    assert [[len(context) for context in batch] for batch in _batches(contexts, 9)] == [[1, 2, 3], [3], [7], [20]]
    assert list(_batches([], 9)) == []
