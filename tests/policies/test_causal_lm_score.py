"""What a policy says of its steps, against the plainest way to say it: the model's own forward pass, row by row."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from hone import collate
from hone.policies import layout
from hone.seats import Row
from hone.types import Branch, Segment

ATTENTION = [
    "llama", "qwen3", "tied", "gemma2", "gemma3", "mistral", "gpt2", "opt", "granite", "cohere", "mixtral", "gpt_oss",
    "deepseek_v3",
]  # fmt: skip
PACKED = [kind for kind in ATTENTION if kind not in ("gemma2", "gpt_oss")]
"""Those whose attention is torch's own."""
RECURRENT = ["mamba", "rwkv", "lfm2", "gpt_neo", "bloom"]


def by_hand(model, trajectory, temperature=1.0):
    """Log-probabilities and entropies of the trained steps: shift the whole softmax by one."""
    ids = [a for s in trajectory.segments for a in s.actions]
    trained = [i for i, s in enumerate(s for s in trajectory.segments for _ in s.actions) if s.train]
    all_log_probs = (model(torch.tensor([ids])).logits[0].float() / temperature).log_softmax(-1)
    log_probs = torch.stack([all_log_probs[i - 1, ids[i]] for i in trained])
    entropy = torch.stack([-(all_log_probs[i - 1].exp() * all_log_probs[i - 1]).sum() for i in trained])
    return log_probs, entropy


def reference(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def one_batch(policy, groups, temperature=1.0):
    [batch] = collate.batches(groups, policy, tokens=10**6, temperature=temperature)
    return batch


@pytest.mark.parametrize("kind", ATTENTION + RECURRENT)
def test_scores_are_those_of_a_plain_forward_pass(kind, tiny_policy, tiny_folder, make_group, score_groups):
    policy, model = tiny_policy(kind=kind), reference(tiny_folder(kind))
    groups = [make_group(11, (14, (3, 4, 5), 20)), make_group(2, (1, 9), seed=1)]  # longer than any window
    assert (policy.shares_context, policy.packs) == (kind in ATTENTION, kind in PACKED)
    for temperature in (1.0, 0.7):
        with torch.no_grad():
            truth = [by_hand(model, t, temperature) for g in groups for t in g]
            for read, expected in zip(("logprobs", "entropy"), zip(*truth, strict=True), strict=True):
                for shares, packs in product({False, policy.shares_context}, {False, policy.packs}):
                    for tokens in (1, 30, 10**6):  # a row a batch, a few, all together
                        how = {"shares_context": shares, "packs": packs, "tokens": tokens}
                        scores = score_groups(policy, groups, **how, temperature=temperature, read=read)
                        for ours, theirs in zip(scores, expected, strict=True):
                            torch.testing.assert_close(torch.tensor(ours), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3", "gpt_oss"])
def test_the_window_matters_to_these_tests(kind, tiny_folder, make_group):
    trajectory = make_group(11, (20,)).trajectories[0]
    model = reference(tiny_folder(kind))
    wide = AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32, sliding_window=100).eval()
    assert (by_hand(model, trajectory)[0] - by_hand(wide, trajectory)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["llama", "tied", "gemma2", "gpt2", "mixtral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_plain_forward_passes(kind, checkpointing, tiny_policy, tiny_folder, make_group):
    policy, model = tiny_policy(kind=kind, gradient_checkpointing=checkpointing), reference(tiny_folder(kind))
    groups = [make_group(11, (14, (3, 4, 5), 9)), make_group(3, (2,), seed=1)]
    batch = one_batch(policy, groups)
    scores = policy.score(batch)
    (scores.logprobs * batch.advantages + 0.1 * scores.entropy).sum().backward()
    for group in groups:
        for trajectory in group:
            log_probs, entropy = by_hand(model, trajectory)
            (log_probs * trajectory.advantage + 0.1 * entropy).sum().backward()
    for (name, ours), theirs in zip(policy.model.named_parameters(), model.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm(), name


@pytest.mark.parametrize("kind", ["llama", "opt", "gemma3", "gpt2"])
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_checkpointing_recomputes_layers_and_changes_nothing(kind, lora, tiny_policy, make_group):
    found = []
    for checkpointing in (False, True):
        policy = tiny_policy(kind=kind, gradient_checkpointing=checkpointing, lora=lora)
        runs, layer = [], next(m for m in policy.backbone.modules() if isinstance(m, GradientCheckpointingLayer))
        inner = next(m for m in layer.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.Linear))
        inner.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        batch = one_batch(policy, [make_group(7, (3, 4))])
        policy.score(batch).logprobs.sum().backward()
        with torch.no_grad():
            policy.score(batch)
        found.append([len(runs), *(p.grad for p in policy.parameters())])
    (once, *plain), (twice, *recomputed) = found
    assert (once, twice) == (2, 3)
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=1e-6)


@pytest.mark.parametrize("kind", ATTENTION)
def test_branches_do_not_see_each_other(kind, tiny_policy, make_group):
    policy = tiny_policy(kind=kind)
    group = make_group(5, (12, 6, 9))
    batch = one_batch(policy, [group])
    embedded = []
    hook = policy.causal_lm.get_input_embeddings().register_forward_hook(lambda *call: embedded.append(call[-1]))
    scores = policy.score(batch)
    hook.remove()
    own = batch.trajectory == 1
    (seen,) = torch.autograd.grad((scores.logprobs + scores.entropy)[own].sum(), embedded)
    touched = seen.abs().sum(-1) > 0
    inputs_of_own = own & (torch.arange(own.shape[1]) < 5 + 12 + 6 - 1)  # nothing follows the last step
    before = torch.arange(own.shape[1])[None] < 5
    assert touched.tolist() == (inputs_of_own | before).tolist()

    with torch.no_grad():
        other = group.trajectories[0]
        changed = [s if not s.train else replace(s, actions=tuple(249 - a for a in s.actions)) for s in other.segments]
        group.trajectories[0] = replace(other, segments=changed)
        again = policy.score(one_batch(policy, [group]))
    same = batch.trajectory > 0
    # Experts multiply other numbers of rows then, which may round otherwise: by some units in the last place, of 1e-7.
    close = {"atol": 1e-6, "rtol": 5e-7} if kind in ("mixtral", "gpt_oss", "deepseek_v3") else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(again.logprobs[same], scores.logprobs[same].detach(), **close)


def test_what_is_not_trained_gets_no_gradient(tiny_policy, make_group):
    policy = tiny_policy()
    group = make_group(4, ((3, 5, 2, 6), (2, 2)))  # both end in given steps
    batch = one_batch(policy, [group])
    assert batch.mask.shape == (1, 4 + 10 + 2)  # the given steps at the end are not even there
    kept = []
    hook = policy.backbone.register_forward_hook(lambda *call: kept.append(call[-1].last_hidden_state))
    scores = policy.score(batch)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores.logprobs.sum() + scores.entropy.sum(), kept)
    # Each trained step is predicted by the one before it: the context's last, then the branch's own.
    first = [3, 4, 5, 11, 12]  # context 0-3, reply 4-6, given 7-11, reply 12-13
    second = [3, 14]  # reply 14-15, behind the context again
    expected = [i in first + second for i in range(16)]
    assert (gradient[0].abs().sum(-1) > 0).tolist() == expected
    assert batch.mask[0].tolist() == [False] * 4 + [True] * 3 + [False] * 5 + [True] * 4
    assert (scores.logprobs[~batch.mask] == 0).all()
    assert (scores.entropy[~batch.mask] == 0).all()


def test_layout_by_hand():
    def segment(*actions, train=True):
        return Segment("s", "policy", actions, (0.0,) * len(actions), train=train)

    context = [segment(1, 2, train=False), segment(3, train=False)]
    tree = Row([Branch(context), Branch([segment(4, 5)], 0), Branch([segment(6, train=False), segment(7, 8)], 0)])
    short = Row([Branch([segment(9, train=False), segment(10)])])
    inputs = layout.encode([tree, short], torch.device("cpu"))
    assert {name: value.tolist() for name, value in inputs.items()} == {
        "input_ids": [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 0, 0, 0, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 2, 3, 4, 5, 5, 5]],
        "previous": [[-1, 0, 1, 2, 3, 2, 5, 6], [-1, 0, -1, -1, -1, -1, -1, -1]],
        "end": [[8, 8, 8, 5, 5, 8, 8, 8], [2, 2, 0, 0, 0, 0, 0, 0]],
    }


def test_rows_may_be_longer_than_the_positions_of_a_model(tiny_policy, make_group, score_groups):
    policy = tiny_policy(kind="gpt2")  # 64 positions
    groups = [make_group(20, (40, 30, 44)), make_group(5, (5,), seed=1)]
    together = score_groups(policy, groups)
    apart = score_groups(policy, groups, shares_context=False, tokens=1)
    for one, other in zip(together, apart, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_does_not_honour_masks_gets_a_branch_a_row(kind, dtype, tiny_policy, make_group):
    policy = tiny_policy(kind=kind, dtype=dtype, config={"initializer_range": 0.02})  # where little leaks
    assert not policy.takes_masks
    rows = collate.rows([make_group(9, (3, 4, 5))], shares_context=policy.shares_context, tokens=1000)
    assert [len(row.branches) for row in rows] == [1, 1, 1]


@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_honours_masks_in_bfloat16_too(kind, tiny_policy):
    assert tiny_policy(kind=kind, dtype="bfloat16").takes_masks


def test_sharing_can_be_switched_off(tiny_policy):
    policy = tiny_policy(share_context=False)
    assert (policy.takes_masks, policy.shares_context) == (True, False)


def test_the_head_works_in_pieces(tiny_policy, make_group, monkeypatch):
    from hone.policies import head

    policy = tiny_policy(kind="gemma2", lora={"rank": 2, "targets": ["q_proj"]})
    batch = one_batch(policy, [make_group(4, (9, 8))])
    whole = policy.score(batch).logprobs
    sizes = []
    plain = policy.logits
    monkeypatch.setattr(type(policy), "logits", lambda self, hidden: sizes.append(len(hidden)) or plain(hidden))
    monkeypatch.setattr(head, "budget", lambda *sizes: (5, 0))
    torch.testing.assert_close(policy.score(batch).logprobs, whole, atol=1e-6, rtol=0)
    assert sizes == [5, 5, 5, 2]


def test_an_empty_mask_scores_nothing(tiny_policy, make_group):
    policy = tiny_policy()
    batch = one_batch(policy, [make_group()])
    batch.mask = torch.zeros_like(batch.mask)
    scores = policy.score(batch)
    scores.logprobs.sum().backward()
    assert (scores.logprobs == 0).all()
    assert (scores.entropy == 0).all()


@pytest.mark.smollm2
def test_smollm2_shares_contexts(make_group, score_groups):
    from hone.policies.causal_lm import CausalLM

    policy = CausalLM(path="smollm2-135m", dtype="float32")
    policy.load(torch.device("cpu"))
    assert policy.takes_masks
    group = make_group(12, (7, (3, 2, 4)))
    with torch.no_grad():
        truth = [by_hand(policy.model, t)[0].tolist() for t in group]
        for ours, theirs in zip(score_groups(policy, [group]), truth, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)
