"""Which steps the field keeps, what it weighs them by, and what of it reaches the loss and its gradient."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from hone import collate
from hone.build import build
from hone.learner import Learner
from hone.math.divergence import entropy_bonus, kl_penalty
from hone.math.mismatch import masked_importance
from hone.math.reduce import sequence_mean
from hone.math.surrogate import gspo, ppo_clip
from hone.objectives.policy_gradient import PolicyGradient
from hone.papers.high_entropy import HighEntropy
from hone.policies import head
from hone.registry import ConfigError
from hone.sections import OptimizerConfig, UpdateConfig
from hone.types import Batch, Scores

POOLS = ["batch", "micro_batch", "response"]


def batch(owners, **fields):
    """A batch by the trajectory of each step; -1 is a step outside the mask."""
    ids = torch.tensor(owners)
    zeros = torch.zeros(ids.shape)
    given = {"advantages": zeros, "sampled_logprobs": zeros, **fields}
    return Batch(inputs={}, mask=ids >= 0, trajectory=ids, group=ids, **given)


def scores(entropy):
    entropy = torch.as_tensor(entropy, dtype=torch.float32)
    return Scores(torch.zeros_like(entropy), entropy)


def weights(owners, entropy, *, seed=0, **settings):
    return HighEntropy(**settings)(scores(entropy), batch(owners, seed=seed)).tolist()


# Ten steps of two responses in two rows, with context, padding and a turn that was given (-1) between them.
OWNERS = [[-1, 0, 0, -1, 0, 0], [-1, 1, 1, 1, 1, 1], [-1, 1, -1, -1, -1, -1]]
ENTROPY = [[9.0, 0.1, 2.0, 9.0, 0.2, 0.3], [9.0, 1.0, 0.5, 0.4, 3.0, 0.6], [9.0, 0.7, 9.0, 9.0, 9.0, 9.0]]


class TestByHand:
    def test_the_top_fifth_weighs_n_over_kept(self):
        kept = weights(OWNERS, ENTROPY)
        assert kept == [[0, 0, 5, 0, 0, 0], [0, 0, 0, 0, 5, 0], [0] * 6]
        assert weights(OWNERS, ENTROPY, normaliser="all") == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0] * 6]

    def test_the_bottom(self):
        assert weights(OWNERS, ENTROPY, side="bottom") == [[0, 5, 0, 0, 5, 0], [0] * 6, [0] * 6]

    def test_each_response_by_itself(self):
        # One of four steps, and two of six: a response's mean weight is 1.
        found = weights(OWNERS, ENTROPY, pool="response", keep=0.25)
        assert found == [[0, 0, 4, 0, 0, 0], [0, 3, 0, 0, 3, 0], [0] * 6]

    def test_a_long_response_may_take_the_whole_budget(self):
        entropy = [[0, 0.1, 0.2, 0, 0.2, 0.3], [0, 1.0, 0.5, 0.4, 3.0, 0.6], [0, 0.7, 0, 0, 0, 0]]
        kept = torch.tensor(weights(OWNERS, entropy, keep=0.4)) > 0
        assert [int(kept[torch.tensor(OWNERS) == i].sum()) for i in (0, 1)] == [0, 4]

    def test_ties_are_kept_by_the_threshold_and_cut_by_an_exact_number(self):
        owners, entropy = [[1, 1, 1, 0, 0, 0]], [[2.0, 1.0, 1.0, 1.0, 0.5, 1.0]]
        # Three of six: the largest, and of the four ties those of the first trajectory, though it lies behind.
        assert weights(owners, entropy, keep=0.5) == [[2, 0, 0, 2, 0, 2]]
        assert weights(owners, entropy, keep=0.5, rule="threshold")[0] == pytest.approx([1.2, 1.2, 1.2, 1.2, 0, 1.2])
        assert weights(owners, entropy, keep=0.5, rule="threshold", normaliser="all") == [[1, 1, 1, 1, 0, 1]]

    def test_all_ties(self):
        assert weights([[0] * 10], [[0.5] * 10]) == [[5, 5] + [0] * 8]
        assert weights([[0] * 10], [[0.0] * 10], rule="threshold") == [[1] * 10]

    def test_a_share_is_the_number_that_was_written(self):
        assert math.ceil(0.07 * 100) == 8
        assert sum(w > 0 for w in weights([[0] * 100], [list(range(100))], keep=0.07)[0]) == 7

    def test_soft_weights(self):
        entropy = [[0.0, 1.0, 2.0, 3.0, 4.0]]
        raw = [1 / (1 + math.exp(-(h - 3.5) / 0.5)) for h in entropy[0]]
        owners = [[0] * 5]
        assert weights(owners, entropy, softness=0.5, normaliser="all")[0] == pytest.approx(raw)
        mean = sum(raw) / 5
        assert weights(owners, entropy, softness=0.5)[0] == pytest.approx([w / mean for w in raw])
        bottom = [1 / (1 + math.exp((h - 0.5) / 0.5)) for h in entropy[0]]
        assert weights(owners, entropy, softness=0.5, side="bottom", normaliser="all")[0] == pytest.approx(bottom)
        assert weights(owners, entropy, softness=1e-9) == [[0, 0, 0, 0, 5]]  # the hard choice is its limit

    def test_random_has_no_edge_to_soften(self):
        with pytest.raises(ValueError, match="softness"):
            HighEntropy(side="random", softness=0.1)

    def test_metrics(self):
        field, made = HighEntropy(keep=0.3), batch(OWNERS)
        values = field(scores(ENTROPY), made)
        assert field.measure(values, scores(ENTROPY), made) == {
            "entropy/share": (3, 10),
            "entropy/kept": (pytest.approx(6.0 * 10 / 3), 10),  # 2, 3 and 1: a mean of 2
            "entropy/dropped": (pytest.approx(2.8), 7),
            "entropy/untouched": (0, 2),
            "entropy/threshold": (10.0, 10),  # 1 nat, counted by steps
        }
        values = field(scores([[3.0, 2.0, 1.0, 0.5]]), batch([[0, 1, 2, 3]]))  # two of four are kept
        found = field.measure(values, scores([[3.0, 2.0, 1.0, 0.5]]), batch([[0, 1, 2, 3]]))
        assert found["entropy/untouched"] == (2, 4)
        assert found["entropy/threshold"] == (8, 4)

    def test_there_is_no_threshold_to_a_random_choice(self):
        field, made = HighEntropy(side="random"), batch(OWNERS)
        found = field.measure(field(scores(ENTROPY), made), scores(ENTROPY), made)
        assert found["entropy/share"] == (2, 10)
        assert "entropy/threshold" not in found


SETTINGS = st.fixed_dictionaries(
    {
        "pool": st.sampled_from(POOLS),
        "rule": st.sampled_from(["top_k", "threshold"]),
        "side": st.sampled_from(["top", "bottom", "random"]),
        "normaliser": st.sampled_from(["kept", "all"]),
    }
)


class TestProperties:
    @hypothesis_settings(deadline=None, max_examples=200)
    @given(
        keep=st.integers(1, 1000).map(lambda n: n / 1000),
        rows=st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=9), max_size=6),
        chosen=SETTINGS,
    )
    def test_the_number_that_is_kept(self, keep, rows, chosen):
        """Exactly the ceiling of the share, or with ties no fewer; one at least of a pool that is not empty."""
        width = max(map(len, rows), default=1)
        owners = [[i] * len(row) + [-1] * (width - len(row)) for i, row in enumerate(rows)] or [[-1]]
        entropy = [row + [math.nan] * (width - len(row)) for row in rows] or [[math.nan]]
        found = torch.tensor(weights(owners, entropy, keep=keep, **chosen))
        mask = torch.tensor(owners) >= 0
        assert found.isfinite().all()
        assert (found[~mask] == 0).all()
        pools = [torch.tensor(owners) == i for i in range(len(rows))] if chosen["pool"] == "response" else [mask]
        for pool in (pool for pool in pools if pool.any()):
            kept, n = int((found[pool] > 0).sum()), int(pool.sum())
            wanted = max(1, math.ceil(Fraction(str(keep)) * n))
            assert kept >= wanted if chosen["rule"] == "threshold" and chosen["side"] != "random" else kept == wanted
            mean = 1.0 if chosen["normaliser"] == "kept" else kept / n
            assert float(found[pool].mean()) == pytest.approx(mean, rel=1e-5)
            worst, best = torch.tensor(entropy)[pool & (found > 0)], torch.tensor(entropy)[pool & (found == 0)]
            if chosen["side"] != "random" and len(best):
                assert worst.min() >= best.max() if chosen["side"] == "top" else worst.max() <= best.min()

    @pytest.mark.parametrize("rule", ["top_k", "threshold"])
    @pytest.mark.parametrize("side", ["top", "bottom", "random"])
    @pytest.mark.parametrize("normaliser", ["kept", "all"])
    @pytest.mark.parametrize("pool", POOLS)
    def test_keeping_everything_is_a_weight_of_exactly_one(self, pool, normaliser, side, rule):
        entropy = torch.rand(3, 6)
        found = weights(OWNERS, entropy, keep=1.0, pool=pool, normaliser=normaliser, side=side, rule=rule)
        assert torch.equal(torch.tensor(found), (torch.tensor(OWNERS) >= 0).float())
        if side != "random":
            assert weights(OWNERS, entropy, keep=1.0, pool=pool, side=side, softness=0.1) == found

    def test_nothing_outside_the_mask_is_read(self):
        inside = torch.tensor(OWNERS) >= 0
        for junk in (math.nan, math.inf, -math.inf, 1e30, 0.0):
            wild = torch.where(inside, torch.tensor(ENTROPY), junk)
            for pool in POOLS:
                assert weights(OWNERS, wild, pool=pool) == weights(OWNERS, ENTROPY, pool=pool)

    @pytest.mark.parametrize("softness", [None, 0.1])
    def test_entropies_of_a_diverged_model_give_finite_weights(self, softness):
        for entropy in ([[math.nan] * 4], [[math.nan, math.inf, 1.0, 2.0]]):
            for rule in ("top_k", "threshold"):
                found = weights([[0] * 4], entropy, rule=rule, softness=softness)
                assert all(map(math.isfinite, found[0]))
                assert found[0][0] > 0  # it is trained on, so its loss is NaN and the step is skipped, and told

    def test_no_step_at_all(self):
        for pool in POOLS:
            field, made = HighEntropy(pool=pool), batch([[-1, -1]])
            values = field(scores([[math.nan, 1.0]]), made)
            assert values.tolist() == [[0, 0]]
            assert field.measure(values, scores([[math.nan, 1.0]]), made) == {}
            assert field.over([], []) == []

    def test_no_gradient_through_a_weight(self):
        entropy = torch.tensor(ENTROPY, requires_grad=True)
        for settings in ({}, {"softness": 0.5}, {"pool": "response"}, {"rule": "threshold"}):
            assert not HighEntropy(**settings)(Scores(entropy, entropy), batch(OWNERS)).requires_grad

    def test_a_random_choice_is_keyed(self):
        def kept(**settings):
            return weights([[0] * 20, [1] * 20], torch.rand(2, 20), side="random", **settings)

        for pool in POOLS:
            assert kept(seed=1, pool=pool) == kept(seed=1, pool=pool)  # whatever the entropies are
            assert kept(seed=1, pool=pool) != kept(seed=2, pool=pool)
        first, second = kept(seed=1, pool="response")
        assert first != second

    def test_a_random_choice_favours_no_step(self):
        counts = torch.zeros(10)
        for seed in range(2000):
            counts += torch.tensor(weights([[0] * 10], [list(range(10))], side="random", seed=seed))[0] > 0
        assert (counts / 2000 - 0.2).abs().max() < 0.05  # five standard deviations

    @pytest.mark.parametrize("side", ["top", "bottom", "random"])
    @pytest.mark.parametrize("rule", ["top_k", "threshold"])
    @pytest.mark.parametrize("pool", ["batch", "response"])
    def test_micro_batches_and_rows_change_nothing(self, pool, rule, side):
        """Seven trajectories with many ties, dealt into rows and micro-batches in three ways."""
        draw = torch.Generator().manual_seed(0)
        own = [torch.randint(0, 4, (n,), generator=draw).float() for n in (3, 1, 8, 2, 5, 5, 4)]

        def found(layout):
            made = []
            for rows in layout:
                width = max(sum(len(own[t]) for t in row) for row in rows)
                owners, entropy = torch.full((len(rows), width), -1), torch.full((len(rows), width), math.nan)
                for b, row in enumerate(rows):
                    laid = [(t, h) for t in row for h in own[t].tolist()]
                    owners[b, : len(laid)] = torch.tensor([t for t, _ in laid])
                    entropy[b, : len(laid)] = torch.tensor([h for _, h in laid])
                made.append((scores(entropy), batch(owners.tolist(), seed=3)))
            field = HighEntropy(keep=0.3, pool=pool, rule=rule, side=side)
            spread = {}
            for values, (_, b) in zip(field.over(*zip(*made, strict=True)), made, strict=True):
                spread |= collate.spread(values, b)
            return spread

        one = found([[[0, 1, 2], [3, 4, 5, 6]]])
        assert one == found([[[t]] for t in range(7)]) == found([[[6], [2]], [[5, 0]], [[4], [3, 1]]])
        assert sorted(one) == list(range(7))


# --- in the loss -----------------------------------------------------------------------------------------------------


def policy_of(logits, targets):
    """A policy whose logits are given, scored by the head of the real ones."""

    def score(b):
        log_probs, entropy = head.chunked(
            lambda x: x + 0, logits[b.mask], targets[b.mask], b.temperature, parameters=[], chunk=3
        )
        empty = log_probs.new_zeros(b.mask.shape)
        return Scores(*(empty.masked_scatter(b.mask, values) for values in (log_probs, entropy)))

    return SimpleNamespace(score=score)


def synthetic(seed=0, vocabulary=7, **fields):
    draw = torch.Generator().manual_seed(seed)
    shape = torch.tensor(OWNERS).shape
    logits = 3 * torch.randn(*shape, vocabulary, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, shape, generator=draw)
    advantages = torch.tensor([1.5, -0.7, 0.0])[torch.tensor(OWNERS)].double()
    return logits, targets, batch(OWNERS, advantages=advantages, **fields)


def gradient(logits, targets, made, **parts):
    logits = logits.clone().requires_grad_()
    loss = PolicyGradient(**parts)(policy_of(logits, targets), made)
    (loss.total / loss.weight).backward()
    return logits.grad, loss


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("settings", [{}, {"side": "bottom"}, {"side": "random"}, {"pool": "response", "keep": 0.3}])
def test_the_gradient_on_logits_is_exactly_zero_where_nothing_is_kept(settings, temperature):
    logits, targets, made = synthetic(temperature=temperature)
    field = HighEntropy(**settings)
    values = field(policy_of(logits, targets).score(made), made)
    kept = values > 0
    grad, _ = gradient(logits, targets, made, weights=[field])
    plain, _ = gradient(logits, targets, made)
    assert torch.equal(grad.ne(0).any(-1), kept)
    torch.testing.assert_close(grad[kept], plain[kept] * values[kept][:, None], rtol=1e-6, atol=0)


def test_the_selection_is_by_entropy_at_the_temperature_of_sampling():
    # One step has two likely tokens, the other one likely token and many unlikely: heat turns their order around.
    sure, torn = torch.full((12,), 0.0), torch.full((12,), -20.0)
    sure[0], torn[:2] = 6.0, 6.0
    logits, made = torch.stack([sure, torn])[None].double(), batch([[0, 0]], advantages=torch.ones(1, 2))
    kept = {}
    for temperature in (1.0, 4.0):
        made = replace(made, temperature=temperature)
        probs = (logits / temperature).softmax(-1)
        wanted = int((-probs * probs.log()).sum(-1).argmax())
        grad, _ = gradient(logits, torch.zeros(1, 2).long(), made, weights=[HighEntropy(keep=0.5)])
        kept[temperature] = grad[0].ne(0).any(-1).tolist()
        assert kept[temperature] == [i == wanted for i in range(2)]
    assert kept[1.0] != kept[4.0]


def test_the_loss_is_a_mean_over_the_kept():
    """Further steps of low entropy change nothing, as long as the number that is kept stays."""
    entropy, advantages = [3.0, 2.5, 0.4, 0.3, 0.2, 0.1], [2.0, -0.5, 9.0, 9.0, 9.0, 9.0]

    def loss(more, **settings):
        n = 6 + more
        made = batch([[0] * n], advantages=torch.tensor([advantages + [7.0] * more]))
        told = SimpleNamespace(score=lambda b: scores([entropy + [0.05] * more]))
        found = PolicyGradient(weights=[HighEntropy(**settings)])(told, made)
        return float(found.total) / found.weight

    assert loss(0) == pytest.approx(-(2.0 - 0.5) / 2)  # two of six, and of ten
    assert loss(4) == pytest.approx(loss(0))
    assert loss(0, normaliser="all") == pytest.approx(-1.5 / 6)
    assert loss(4, normaliser="all") == pytest.approx(-1.5 / 10)
    assert loss(1, rule="threshold") == pytest.approx(loss(0))


def test_penalties_stay_on_all_steps():
    logits, targets, made = synthetic()
    reference = replace(made, reference_logprobs=policy_of(logits, targets).score(made).logprobs - 0.5)
    for function, b in ((kl_penalty, reference), (entropy_bonus, made)):
        penalty = partial(function, coefficient=0.1)
        silent = replace(b, advantages=b.advantages * 0)
        alone, loss = gradient(logits, targets, silent, penalties=[penalty], weights=[HighEntropy()])
        assert torch.equal(alone.ne(0).any(-1), b.mask)
        plain, expected = gradient(logits, targets, silent, penalties=[penalty])
        assert torch.equal(alone, plain)
        assert torch.equal(loss.total, expected.total)
        both, _ = gradient(logits, targets, b, penalties=[penalty], weights=[HighEntropy()])
        surrogate, _ = gradient(logits, targets, b, weights=[HighEntropy()])
        torch.testing.assert_close(both, alone + surrogate)


def test_other_weights_multiply_and_their_pool_is_the_same():
    """IcePop drops a step that is kept: it is still one of the kept that the loss is a mean over."""
    gap = torch.zeros(3, 6)
    gap[0, 2] = 3.0  # the sampler thought the step of entropy 2 likelier by far
    made = batch(OWNERS, advantages=torch.ones(3, 6), sampled_logprobs=gap)
    told = SimpleNamespace(score=lambda b: scores(ENTROPY))
    both = PolicyGradient(weights=[masked_importance, HighEntropy()])(told, made)
    assert (float(both.total) / both.weight, both.weight) == (pytest.approx(-1 / 2), 10)


def test_trajectories_count_by_what_is_kept_of_them_under_sequence_mean():
    made = batch(OWNERS, advantages=torch.ones(3, 6))
    told = SimpleNamespace(score=lambda b: scores(ENTROPY))

    def loss(**settings):
        found = PolicyGradient(reduction=sequence_mean, weights=[HighEntropy(keep=0.3, **settings)])(told, made)
        return float(found.total) / found.weight

    assert loss() == pytest.approx(-(10 / 3) * (1 / 4 + 2 / 6) / 2)
    assert loss(pool="response") == pytest.approx(-1)


def test_a_ratio_by_trajectory_keeps_its_gradient_on_all_steps():
    logits, targets, made = synthetic()
    field = HighEntropy(keep=0.2)
    grad, _ = gradient(logits, targets, made, surrogate=gspo, weights=[field])
    values = field(policy_of(logits, targets).score(made), made)
    touched = torch.isin(made.trajectory, made.trajectory[values > 0].unique()) & made.mask
    assert torch.equal(grad.ne(0).any(-1), touched)


# --- in a learner, on a real model -----------------------------------------------------------------------------------


def learner(policy, objective, *, tokens=10**6, lr=1e-2, temperature=1.0, **update):
    sections = OptimizerConfig(lr=lr, max_grad_norm=1e9), UpdateConfig(tokens=tokens, **update)
    return Learner(policy, objective, *sections, steps=10, temperature=temperature, seed=0)


def parameters(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).clone()


def gradients(made):
    found, step = [], made.optimizer.step

    def spy():
        found.append(torch.cat([p.grad.flatten() for p in made.policy.parameters()]).clone())
        return step()

    made.optimizer.step = spy
    return found


def some_groups(make_group):
    return [
        make_group(9, (3, 12, (2, 4, 5), 1), seed=1),
        make_group(3, (7,), seed=2),
        make_group(14, (5, 5, (1, 2, 3, 2)), seed=3),
        make_group(1, (9, 2), seed=4),
    ]


class Watched:
    """A policy that writes down the entropies it gives and what comes back for each, and counts rows of logits.

    ``computed`` counts those of the forward pass, ``touched`` those that any gradient comes back for.
    """

    def __init__(self, policy):
        self.entropies, self.gradients, self.computed, self.touched = [], [], 0, 0
        head_of, score = policy.logits, policy.score

        def count(gradient):
            self.touched += int(gradient.ne(0).any(-1).sum())

        def logits(hidden):
            found = head_of(hidden)
            if found.requires_grad:
                found.register_hook(count)
            else:
                self.computed += len(hidden)
            return found

        def scored(b):
            found = score(b)
            if torch.is_grad_enabled():
                self.entropies.append(found.entropy.detach()[b.mask])
                found.logprobs.register_hook(lambda gradient: self.gradients.append(gradient[b.mask]))
            return found

        policy.logits, policy.score = logits, scored


@pytest.mark.parametrize("tokens", [10**6, 25])
@pytest.mark.parametrize("update", [{}, {"minibatches": 2, "epochs": 2}])
@pytest.mark.parametrize("settings", [{}, {"pool": "micro_batch"}, {"pool": "response"}, {"side": "bottom"}])
def test_keeping_everything_is_plain_dapo_bit_for_bit(settings, update, tokens, make_group, tiny_policy):
    def trained(**parts):
        made = learner(
            tiny_policy(), PolicyGradient(surrogate=partial(ppo_clip, high=0.28), **parts), tokens=tokens, **update
        )
        found = gradients(made)
        return [made.update(some_groups(make_group), step) for step in range(2)], found, parameters(made.policy)

    plain, applied, reached = trained()
    metrics, same, ended = trained(weights=[HighEntropy(keep=1.0, **settings)])
    assert torch.equal(ended, reached)
    assert all(map(torch.equal, same, applied))
    assert [{name: row[name] for name in plain[0]} for row in metrics] == plain
    assert metrics[0]["entropy/share"] == 1
    fewer = trained(weights=[HighEntropy(keep=0.5, **settings)])[2]
    assert not torch.equal(fewer, reached)


def test_of_a_model_only_the_kept_rows_of_logits_get_a_gradient(make_group, tiny_policy, monkeypatch):
    monkeypatch.setattr(head, "budget", lambda *_: (7, 0))
    policy = tiny_policy()
    watched = Watched(policy)
    made = learner(policy, PolicyGradient(weights=[HighEntropy()]), temperature=0.7)
    groups = some_groups(make_group)
    metrics = made.update(groups, 0)
    [grad], [entropy] = watched.gradients, watched.entropies
    n = sum(t.trained for group in groups for t in group)
    kept = entropy.topk(math.ceil(n / 5)).indices
    # Given turns between the trained ones do not even reach the head.
    assert torch.equal(grad.nonzero()[:, 0], kept.sort().values)
    assert (watched.computed, watched.touched) == (n, len(kept))
    assert metrics["entropy/share"] == pytest.approx(len(kept) / n)
    assert metrics["entropy/threshold"] == pytest.approx(float(entropy[kept].min()))
    assert metrics["entropy/kept"] == pytest.approx(float(entropy[kept].mean()), rel=1e-5)
    assert metrics["entropy/kept"] > metrics["entropy/mean"] > metrics["entropy/dropped"]


def test_a_pool_over_micro_batches_is_that_of_one(make_group, tiny_policy):
    policy = tiny_policy()
    watched = Watched(policy)
    groups = some_groups(make_group)

    def kept(tokens, **settings):
        watched.gradients.clear(), watched.entropies.clear()
        metrics = learner(policy, PolicyGradient(weights=[HighEntropy(**settings)]), tokens=tokens, lr=1e-12).update(
            groups, 0
        )
        chosen = torch.cat(watched.gradients).ne(0)
        return len(watched.gradients), torch.cat(watched.entropies)[chosen].sort().values, metrics

    parts, one, first = kept(10**6)
    assert parts == 1
    for tokens in (60, 25, 1):
        parts, several, metrics = kept(tokens)
        assert parts > 1
        torch.testing.assert_close(several, one, atol=1e-5, rtol=0)
        assert {n: v for n, v in metrics.items() if n.startswith("entropy/")} == pytest.approx(
            {n: v for n, v in first.items() if n.startswith("entropy/")}, abs=1e-5
        )
    assert len(kept(25, pool="micro_batch")[1]) > len(one)  # each rounds up by itself


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "threshold"}, {"side": "random"}, {"softness": 0.2}, {"pool": "response"}], ids=str
)
def test_the_gradient_does_not_depend_on_micro_batches_or_rows(settings, make_group, tiny_policy):
    found = []
    for share in (True, False):
        policy = tiny_policy(kind="gpt2", share_context=share)
        every = list(policy.model.double().parameters())
        policy.masters = SimpleNamespace(parameters=lambda every=every: every, publish=lambda: None)
        for tokens in (1, 25, 10**6):
            made = learner(policy, PolicyGradient(weights=[HighEntropy(**settings)]), tokens=tokens, lr=1e-30)
            applied = gradients(made)
            made.update(some_groups(make_group), 0)
            found += applied
    assert len(found) == 6
    assert found[0].norm() > 0
    for other in found[1:]:
        assert float((other - found[0]).norm() / found[0].norm()) < (1e-7 if settings.get("softness") else 1e-10)


def test_the_selection_moves_on_with_every_optimiser_step(make_group, tiny_policy):
    policy = tiny_policy()
    watched = Watched(policy)
    made = learner(policy, PolicyGradient(weights=[HighEntropy()]), epochs=3, lr=3e-2)
    made.update(some_groups(make_group), 0)
    assert len(watched.gradients) == 3
    chosen = [grad.ne(0) for grad in watched.gradients]
    for entropy, kept in zip(watched.entropies, chosen, strict=True):
        # Clipped steps have no gradient either; but what has one is among the kept.
        assert kept.any()
        assert entropy[kept].min() >= entropy.topk(math.ceil(len(entropy) / 5)).values[-1]
    assert not torch.equal(watched.entropies[0].topk(10).indices, watched.entropies[2].topk(10).indices)


def test_a_random_choice_is_another_one_at_each_optimiser_step(make_group, tiny_policy):
    policy = tiny_policy()
    watched = Watched(policy)
    made = learner(policy, PolicyGradient(weights=[HighEntropy(side="random")]), epochs=2, lr=1e-12)
    for step in range(2):
        made.update(some_groups(make_group), step)
    chosen = {tuple(grad.ne(0).tolist()) for grad in watched.gradients}
    assert len(chosen) == len(watched.gradients) == 4


def test_a_forward_pass_is_added_only_where_the_pool_needs_it(make_group, tiny_policy):
    policy = tiny_policy()
    calls, score = [], policy.score
    policy.score = lambda b: calls.append(torch.is_grad_enabled()) or score(b)

    def passes(tokens, **settings):
        calls.clear()
        learner(policy, PolicyGradient(weights=[HighEntropy(**settings)]), tokens=tokens).update(
            some_groups(make_group), 0
        )
        return calls.count(True), calls.count(False)

    assert passes(10**6) == (1, 0)
    several, more = passes(25)
    assert several == more > 1
    for settings in ({"pool": "micro_batch"}, {"pool": "response"}, {"keep": 1.0}):
        assert passes(25, **settings) == (several, 0)


def test_what_a_configuration_says_reaches_the_loss(make_group, tiny_policy):
    for keep in (0.2, 0.5):
        objective = build("objective", {"policy_gradient": {"weights": [{"high_entropy": {"keep": keep}}]}})
        groups = some_groups(make_group)
        metrics = learner(tiny_policy(), objective).update(groups, 0)
        n = sum(t.trained for group in groups for t in group)
        assert metrics["entropy/share"] == math.ceil(keep * n) / n
    with pytest.raises(ConfigError, match=r"high_entropy\.keep"):
        build("field", {"high_entropy": {"keep": 0.0}})
    assert build("field", "high_entropy") == HighEntropy()


# --- over several processes ------------------------------------------------------------------------------------------


PARTS = {2: [[2, 0, 1], []], 3: [[], [2], [1, 0]]}
"""By the number of processes, the micro-batches that each holds."""
SEVERAL = [{}, {"rule": "threshold"}, {"side": "bottom", "keep": 0.5}, {"side": "random"}, {"softness": 0.3}]


def three_micro_batches():
    """Of one mini-batch, in which many entropies are equal; the first has no step."""
    draw = torch.Generator().manual_seed(1)
    owners = [[[-1, -1]], [[0, 0, 0, 1], [1, 1, -1, -1]], [[2] * 6, [3] * 6]]
    made = [batch(ids, seed=5) for ids in owners]
    return [scores(torch.randint(0, 4, b.mask.shape, generator=draw).float()) for b in made], made


def process(rank, size, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    said, made = three_micro_batches()
    here = PARTS[size][rank]
    found = []
    for settings in SEVERAL:
        # Through the objective: it shows the field the mini-batch, whose parts may be none.
        objective = PolicyGradient(weights=[HighEntropy(**settings)])
        policy = SimpleNamespace(score=lambda b: said[next(i for i, m in enumerate(made) if m is b)])
        objective.survey(policy, [made[i] for i in here])
        found.append({i: made[i].fields["weight 0"] for i in here})
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_processes_choose_as_one_and_none_waits_for_an_empty_one(size, tmp_path):
    multiprocessing.spawn(process, (size, str(tmp_path)), nprocs=size)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for i, settings in enumerate(SEVERAL):
        expected = HighEntropy(**settings).over(*three_micro_batches())
        together = {part: values for one in found for part, values in one[i].items()}
        assert len(together) == 3
        assert all(torch.equal(together[part], values) for part, values in enumerate(expected))
