"""Attention over prefix trees, against the same under a mask of all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from hone import masks
from hone.policies import layout
from hone.policies.tree import BLOCK, Siblings, Tree, _blocks, attention, by_blocks, by_siblings
from hone.types import Branch, Row, Segment


def branch(length, parent=-1):
    return Branch([Segment("s", "policy", tuple(range(length)))], parent)


@st.composite
def trees(draw, longest=7):
    """Rows of any shape: each branch continues the one before it, or what that one continues, or begins anew."""
    branches, line = [], []
    for _ in range(draw(st.integers(1, 9))):
        line = line[: draw(st.integers(0, len(line)))]
        branches.append(branch(draw(st.integers(1, longest)), line[-1] if line else -1))
        line = [*line, len(branches) - 1]
    return Row(branches)


def laid(row):
    inputs = layout.encode([row], torch.device("cpu"))
    return Tree.of(row, inputs["end"][0], inputs["position_ids"][0]), inputs


def dense(inputs, q, k, v, scale, window):
    allowed = masks.tree(inputs["end"])
    if window:
        positions = inputs["position_ids"]
        allowed &= positions[:, :, None] - positions[:, None, :] < window
    k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
    return scaled_dot_product_attention(q, k, v, allowed[:, None], scale=scale).transpose(1, 2)


windows = st.sampled_from([None, 1, 3, 8])
numbers = st.sampled_from([(1, 1), (4, 2), (6, 2)])


def heads(row, query_heads, key_heads, value_width=4):
    torch.manual_seed(len(row))
    shapes = (query_heads, 4), (key_heads, 4), (key_heads, value_width)
    return [torch.randn(1, h, len(row), width, dtype=torch.float64) for h, width in shapes]


@settings(max_examples=60, deadline=None)
@given(row=trees(), number=numbers, window=windows, width=st.sampled_from([4, 6]))
def test_it_is_attention_under_a_mask_in_value_and_gradient(row, number, window, width):
    tree, inputs = laid(row)
    q, k, v = (each.requires_grad_() for each in heads(row, *number, width))
    expected, found = dense(inputs, q, k, v, 0.3, window), by_siblings(tree, q, k, v, 0.3, window)
    torch.testing.assert_close(found, expected)
    up = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((out * up).sum(), (q, k, v)) for out in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=30, deadline=None)
@given(row=trees(), number=numbers, window=windows)
def test_blocks_are_that_too(row, number, window):  # in value: flex_attention has no backward pass on a CPU
    tree, inputs = laid(row)
    q, k, v = heads(row, *number)
    torch.testing.assert_close(by_blocks(tree, q, k, v, 0.3, window), dense(inputs, q, k, v, 0.3, window))


@settings(max_examples=60, deadline=None)
@given(row=trees(longest=200), window=st.sampled_from([None, 1, 100, 128, 300]))
def test_blocks_that_are_looked_at(row, window):
    """None that holds a pair is left out, and in those without a mask all pairs see each other."""
    tree, inputs = laid(row)
    mask = _blocks(tree.end, tree.positions, window)
    allowed = masks.tree(inputs["end"])[0]
    if window:
        allowed &= tree.positions[:, None] - tree.positions < window
    steps, count = len(allowed), -(-len(allowed) // BLOCK)
    padded = torch.zeros(count * BLOCK, count * BLOCK, dtype=torch.bool)
    padded[:steps, :steps] = allowed
    pairs = padded.view(count, BLOCK, count, BLOCK)
    wholly, partly = (_dense(*each) for each in (
        (mask.full_kv_num_blocks, mask.full_kv_indices), (mask.kv_num_blocks, mask.kv_indices)
    ))  # fmt: skip
    assert not (wholly & partly).any()
    assert pairs.all(3).all(1)[wholly].all()
    assert not pairs.any(3).any(1)[~(wholly | partly)].any()
    if window is None:  # a window is looked at a little more widely than it is
        assert torch.equal(wholly, pairs.all(3).all(1))
        assert torch.equal(wholly | partly, pairs.any(3).any(1))


def _dense(counts, indices):
    """Which blocks are listed."""
    found = torch.zeros(indices.shape[2:], dtype=torch.bool)
    for row, (count, listed) in enumerate(zip(counts[0, 0].tolist(), indices[0, 0].tolist(), strict=True)):
        found[row, listed[:count]] = True
    return found


def test_siblings_by_hand():
    row = Row([branch(3), branch(2, 0), branch(4, 1), branch(8, 1), branch(7, 1), branch(5, 0), branch(2), branch(3)])
    tree, _ = laid(row)
    assert tree.siblings == [
        Siblings((3,), ()),
        Siblings((2,), (0,)),
        Siblings((4, 8, 7), (0, 1)),
        Siblings((5,), (0,)),
        Siblings((2, 3), ()),
    ]


def test_those_of_very_different_length_are_not_padded_to_each_other():
    tree, _ = laid(Row([branch(9), branch(8, 0), branch(4, 0), branch(3, 0), branch(2, 0)]))
    assert [some.lengths for some in tree.siblings] == [(9,), (8, 4), (3, 2)]


def test_a_mask_is_made_once_for_all_layers():
    tree, _ = laid(Row([branch(3), branch(2, 0), branch(2, 0)]))
    assert tree.kept("a", lambda: [1]) is tree.kept("a", lambda: [2])


@pytest.mark.parametrize("strange", ["softcap", "s_aux", "position_bias"])
def test_what_it_does_not_do_it_refuses(strange):
    tree, _ = laid(Row([branch(3)]))
    q = torch.randn(1, 1, 3, 4)
    with pytest.raises(ValueError, match=f"attention with {strange} is not known over trees"):
        attention(None, q, q, q, None, **{masks.TREE: tree, strange: 1.0})


def test_a_saved_model_does_not_ask_for_it(tiny_policy, tmp_path):
    from transformers import AutoModelForCausalLM

    policy = tiny_policy()
    assert policy.packs
    policy.save(tmp_path)
    assert masks.TREE not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
