from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_builders import batch, central_difference, gradient

from hone.math.reduce import sequence_mean
from hone.math.surrogate import cispo, clipped_steps, gspo, ppo_clip, reinforce

ALL = [ppo_clip, partial(ppo_clip, low=0.2, high=0.28, dual=3.0), gspo, cispo, reinforce]
ROW = batch([[0, 1, 2, 3]])

log_ratios = st.floats(-3, 3, allow_subnormal=False)
signed = st.floats(-4, 4, allow_subnormal=False)


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor([ratios], dtype=torch.float64).log()


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_ppo_clip_by_hand():
    losses = ppo_clip(logs(1.5, 1.5, 0.5, 0.5), row(2, -2, 1, -1), ROW)
    # min(3, 1.2 * 2), min(-3, -2.4), min(0.5, 0.8), min(-0.5, -0.8)
    torch.testing.assert_close(losses, row(-2.4, 3.0, -0.5, 0.8))


def test_ppo_clip_higher_by_hand():
    losses = ppo_clip(logs(1.25, 1.5, 0.75, 0.5), row(1, 1, -1, -1), ROW, low=0.2, high=0.28)
    torch.testing.assert_close(losses, row(-1.25, -1.28, 0.8, 0.8))


def test_dual_clip_by_hand():
    losses = ppo_clip(logs(5, 5, 2, 0.5), row(-1, 1, -1, -2), ROW, dual=3.0)
    torch.testing.assert_close(losses, row(3.0, -1.2, 2.0, 1.6))  # the first would be 5


def test_gspo_by_hand():
    # Trajectory 0: ratios 2 and 8, geometric mean 4, clipped to 1.5. Trajectory 1: 0.5. The context's 9 is not read.
    owners, ratios = [[-1, 0, 0, 1]], logs(9, 2, 8, 0.5)
    losses = gspo(ratios, row(0, 1, 1, -1), batch(owners), low=0.25, high=0.5)
    torch.testing.assert_close(losses[:, 1:], row(-1.5, -1.5, 0.75))
    negative = gspo(ratios, row(0, -1, -1, 1), batch(owners), low=0.25, high=0.5)
    torch.testing.assert_close(negative[:, 1:], row(4.0, 4.0, -0.5))


def test_gspo_with_sequence_mean_is_the_papers_objective_and_gradient():
    # One trajectory of four steps, s = (2 * 8 * 1 * 1)^(1/4) = 2, A = -3: loss 6, gradient of each log p 6 / 4.
    one = batch([[0, 0, 0, 0]])
    log_ratio = logs(2, 8, 1, 1).requires_grad_()
    total, weight = sequence_mean(gspo(log_ratio, row(-3, -3, -3, -3), one), one)
    total.backward()
    assert total.item() == pytest.approx(6.0)
    assert weight == 1.0
    torch.testing.assert_close(log_ratio.grad, row(1.5, 1.5, 1.5, 1.5))


def test_gspo_default_bounds():
    losses = gspo(logs(1.001, 1.001, 0.999, 0.999), row(1, -1, 1, -1), ROW)
    torch.testing.assert_close(losses, row(-1.0004, 1.001, -0.999, 0.9997))


def test_cispo_weighs_the_log_ratio_by_a_constant():
    log_ratio = logs(2, 0.5, 9, 1)  # bounds 0 and 3: weights 2, 0.5, 3, 1
    losses = cispo(log_ratio, row(1, -2, 1, 4), ROW, high=2.0)
    torch.testing.assert_close(losses, row(-2, 1, -3, -4) * log_ratio)
    found = gradient(lambda x: cispo(x, row(1, -2, 1, 4), ROW, high=2.0).sum(), log_ratio)
    torch.testing.assert_close(found, row(-2.0, 1.0, -3.0, -4.0))


def test_cispo_lower_bound_by_hand():
    found = gradient(lambda x: cispo(x, row(1, 1, -1, -1), ROW, low=0.2, high=0.5).sum(), logs(0.5, 2, 0.5, 2))
    torch.testing.assert_close(found, row(-0.8, -1.5, 0.8, 1.5))


def test_reinforce_by_hand():
    torch.testing.assert_close(reinforce(logs(2, 0.5, 1, 8), row(1, -4, 3, 0), ROW), row(-2.0, 2.0, -3.0, 0.0))


@pytest.mark.parametrize("surrogate", ALL)
def test_on_policy_gradient_is_that_of_reinforce(surrogate):
    advantages = row(1.5, -2.0, 0.25, 0.0)
    found = gradient(lambda x: surrogate(x, advantages, ROW).sum(), torch.zeros(1, 4, dtype=torch.float64))
    torch.testing.assert_close(found, -advantages)


@pytest.mark.parametrize("surrogate", [s for s in ALL if s is not cispo])
def test_gradients_by_finite_differences(surrogate):
    owners = batch([[0, 0, 1, -1], [2, 2, 2, 3]])
    log_ratio = torch.tensor([[0.4, -0.1, -0.5, 0.0], [1e-4, 2e-4, -1e-4, 1.7]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, -0.7, 0.0], [0.3, 0.3, 0.3, -2.0]], dtype=torch.float64)

    def function(x):
        return (surrogate(x, advantages, owners) * owners.mask).sum()

    expected = central_difference(function, log_ratio)
    torch.testing.assert_close(gradient(function, log_ratio), expected, atol=1e-7, rtol=1e-6)
    assert expected.abs().sum() > 0


def test_cispo_gradient_by_finite_differences_of_the_unweighted_log_ratio():
    log_ratio, advantages = logs(1.5, 9.0, 0.3, 1.0), row(1, -1, 2, -3)
    weights = row(1.5, 4.0, 0.3, 1.0)
    expected = central_difference(lambda x: (-weights * advantages * x).sum(), log_ratio)
    found = gradient(lambda x: cispo(x, advantages, ROW, high=3.0).sum(), log_ratio)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)


def test_asymmetric_clip_has_no_gradient_exactly_where_the_paper_says():
    ratios = torch.linspace(0.5, 1.8, 131, dtype=torch.float64)[None]  # steps of 0.01
    everywhere = batch([list(range(131))])
    for sign, dead in ((1.0, ratios > 1.4 + 1e-6), (-1.0, ratios < 0.8 - 1e-6)):
        near = ((ratios - 1.4).abs() < 1e-6) | ((ratios - 0.8).abs() < 1e-6)
        advantages = torch.full_like(ratios, sign)
        found = gradient(lambda x, a=advantages: ppo_clip(x, a, everywhere, low=0.2, high=0.4).sum(), ratios.log())
        assert torch.equal((found == 0)[~near], dead[~near])


@pytest.mark.parametrize("surrogate", ALL)
def test_huge_log_ratios_stay_finite(surrogate):
    log_ratio, advantages = torch.tensor([[90.0, 90.0, -90.0, -900.0]]), torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    losses = surrogate(log_ratio, advantages, ROW)
    found = gradient(lambda x: surrogate(x, advantages, ROW).sum(), log_ratio)
    assert losses.isfinite().all()
    assert found.isfinite().all()


@pytest.mark.parametrize("surrogate", ALL)
def test_steps_outside_the_mask_have_no_loss_and_no_gradient(surrogate):
    outside = batch([[-1, -1, 0]])
    log_ratio, advantages = row(0, 0, 0.1), row(0, 0, -1)
    assert surrogate(log_ratio, advantages, outside)[0, :2].abs().tolist() == [0, 0]
    found = gradient(lambda x: surrogate(x, advantages, outside).sum(), log_ratio)
    assert found[0, :2].abs().tolist() == [0, 0]
    assert found[0, 2] != 0


@given(st.lists(st.tuples(log_ratios, signed), min_size=4, max_size=4))
def test_clipping_never_lowers_the_loss(steps):
    log_ratio, advantages = row(*[s[0] for s in steps]), row(*[s[1] for s in steps])
    plain = reinforce(log_ratio, advantages, ROW)
    for surrogate in (ppo_clip, gspo):
        assert (surrogate(log_ratio, advantages, ROW) >= plain - 1e-12).all()


@given(st.lists(st.tuples(log_ratios, signed), min_size=4, max_size=4), st.floats(1.01, 10))
def test_dual_clip_bounds_the_loss(steps, dual):
    log_ratio, advantages = row(*[s[0] for s in steps]), row(*[s[1] for s in steps])
    plain, bounded = ppo_clip(log_ratio, advantages, ROW), ppo_clip(log_ratio, advantages, ROW, dual=dual)
    assert (bounded <= plain).all()
    assert (bounded[advantages < 0] <= -dual * advantages[advantages < 0] + 1e-12).all()
    assert torch.equal(bounded[advantages >= 0], plain[advantages >= 0])


@given(st.lists(st.tuples(log_ratios, signed), min_size=4, max_size=4))
def test_ppo_clip_is_gspo_when_every_trajectory_is_one_step(steps):
    log_ratio, advantages = row(*[s[0] for s in steps]), row(*[s[1] for s in steps])
    bounds = {"low": 0.2, "high": 0.3}
    torch.testing.assert_close(
        ppo_clip(log_ratio, advantages, ROW, **bounds), gspo(log_ratio, advantages, ROW, **bounds)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipped_steps_of_ppo_clip(dtype):
    # Too high with A > 0: clipped; with A < 0: not. Too low with A < 0: clipped; with A > 0: not. Inside: not.
    steps = batch([[0, 1, 2, 3, 4, -1]])
    log_ratio, advantages = logs(1.5, 1.5, 0.5, 0.5, 1.1, 1.5).to(dtype), row(1, -1, -1, 1, 1, 1).to(dtype)
    assert clipped_steps(ppo_clip, log_ratio, advantages, steps).item() == 2
    assert clipped_steps(partial(ppo_clip, dual=1.2), log_ratio, advantages, steps).item() == 3
    assert clipped_steps(partial(ppo_clip, low=0.6, high=0.6), log_ratio, advantages, steps).item() == 0
    assert clipped_steps(ppo_clip, log_ratio, torch.zeros_like(advantages), steps).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipped_steps_are_counted_up_to_their_bound(dtype):
    bounds, advantages = logs(1.2, 1.2, 0.8, 0.8).to(dtype), row(1, 1, -1, -1).to(dtype)
    nearby = bounds + row(5e-6, -5e-6, 5e-6, -5e-6).to(dtype)
    assert clipped_steps(ppo_clip, nearby[:, [0]], advantages[:, [0]], batch([[0]])).item() == 1
    assert clipped_steps(ppo_clip, nearby[:, [1, 2]], advantages[:, [1, 2]], batch([[0, 1]])).item() == 0
    assert clipped_steps(ppo_clip, nearby[:, [3]], advantages[:, [3]], batch([[0]])).item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipped_steps_of_gspo_are_whole_trajectories(dtype):
    # Trajectory 0: geometric mean 4, clipped, all of its three steps; trajectory 1: 1, not.
    steps = batch([[0, 0, 0, 1, 1, -1]])
    log_ratio, advantages = logs(2, 8, 4, 2, 0.5, 1).to(dtype), row(1, 1, 1, 1, 1, 0).to(dtype)
    assert clipped_steps(gspo, log_ratio, advantages, steps).item() == 3
    assert clipped_steps(gspo, log_ratio, -advantages, steps).item() == 0
    tight = logs(1.0005, 1.0003, 0.9998, 0.9996, 1, 1).to(dtype)
    singles = batch([[0, 1, 2, 3, 4, -1]])
    assert clipped_steps(gspo, tight, torch.ones_like(tight), singles).item() == 1
    assert clipped_steps(gspo, tight, -torch.ones_like(tight), singles).item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipped_steps_of_cispo_are_weights_at_their_bound(dtype):
    steps = batch([[0, 1, 2, 3, -1]])
    log_ratio, advantages = logs(7, 7, 5, 0.01, 7).to(dtype), row(1, -1, 1, -1, 0).to(dtype)
    assert clipped_steps(cispo, log_ratio, advantages, steps).item() == 2
    assert clipped_steps(partial(cispo, low=0.5), log_ratio, advantages, steps).item() == 3


def test_clipped_steps_of_reinforce_and_on_policy():
    assert clipped_steps(reinforce, logs(9, 0.1, 1, 2), row(1, 1, -1, -1), ROW).item() == 0
    for surrogate in ALL:
        assert clipped_steps(surrogate, torch.zeros(1, 4), torch.ones(1, 4), ROW).item() == 0


def test_clipped_steps_leaves_the_graph_alone_and_works_without_grad():
    log_ratio = logs(1.5, 1, 1, 1).requires_grad_()
    with torch.no_grad():
        assert clipped_steps(ppo_clip, log_ratio, row(1, 1, 1, 1), ROW).item() == 1
    assert log_ratio.grad is None
