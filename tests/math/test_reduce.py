from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_builders import batch

from hone.math.reduce import constant, sequence_mean, token_mean, trajectory_sums

ALL = [token_mean, sequence_mean, partial(constant, length=4)]

# Two trajectories in row 0 (ids 5 and 2), one in row 1 (id 9); -1 is the context and padding.
OWNERS = [[-1, 5, 5, 2], [9, 9, 9, -1]]
LOSSES = torch.tensor([[100.0, 1.0, 3.0, 10.0], [2.0, 4.0, 9.0, 100.0]])


@st.composite
def rows(draw):
    """Rows of up to five steps; a trajectory never lies in two rows."""
    owners = []
    for row in range(draw(st.integers(1, 4))):
        local = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=5, max_size=5))
        owners.append([-1 if owner < 0 else 2 * row + owner for owner in local])
    return owners, torch.tensor(draw(st.lists(st.integers(-9, 9), min_size=5 * len(owners), max_size=5 * len(owners))))


def test_token_mean_by_hand():
    total, weight = token_mean(LOSSES, batch(OWNERS))
    assert (total.item(), weight) == (29.0, 6.0)  # 1 + 3 + 10 + 2 + 4 + 9


def test_sequence_mean_by_hand():
    total, weight = sequence_mean(LOSSES, batch(OWNERS))
    assert (total.item(), weight) == (17.0, 3.0)  # (1 + 3) / 2 + 10 + (2 + 4 + 9) / 3


def test_constant_by_hand():
    total, weight = constant(LOSSES, batch(OWNERS), length=4)
    assert (total.item(), weight) == (7.25, 3.0)  # 29 / 4


def test_trajectory_sums_by_hand():
    sums, counts, index = trajectory_sums(LOSSES, batch(OWNERS))
    assert sums[index].tolist() == [[0, 4, 4, 10], [15, 15, 15, 0]]
    assert counts[index][0].tolist()[1:] == [2, 2, 1]


def test_trajectory_sums_without_steps_outside_the_mask():
    sums, counts, index = trajectory_sums(torch.tensor([[1.0, 2.0]]), batch([[3, 4]]))
    assert (sums.tolist(), counts.tolist(), index.tolist()) == ([1.0, 2.0], [1, 1], [[0, 1]])


def test_trajectory_sums_join_the_parts_of_a_trajectory_across_gaps_and_rows():
    sums, _, index = trajectory_sums(torch.tensor([[1.0, 7.0, 2.0], [4.0, 7.0, 7.0]]), batch([[6, -1, 6], [6, -1, -1]]))
    assert sums[index].tolist() == [[7, 0, 7], [7, 0, 0]]


@pytest.mark.parametrize("reduction", ALL)
def test_a_mask_narrower_than_the_trajectories_is_obeyed(reduction):
    narrowed = batch(OWNERS)
    narrowed.mask = torch.tensor([[False, True, False, False], [True, True, False, False]])
    same = batch([[-1, 5, -1, -1], [9, 9, -1, -1]])
    assert reduction(LOSSES, narrowed) == reduction(LOSSES, same)


@pytest.mark.parametrize("reduction", ALL)
def test_an_empty_mask_is_zero_with_a_gradient_of_zero(reduction):
    losses = torch.ones(2, 3, requires_grad=True)
    total, weight = reduction(losses, batch([[-1] * 3] * 2))
    total.backward()
    assert (total.item(), weight) == (0.0, 0.0)
    assert losses.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("reduction", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_leaks_from_outside_the_mask(reduction, bad):
    losses = torch.where(torch.tensor(OWNERS) >= 0, LOSSES, bad).requires_grad_()
    total, _ = reduction(losses, batch(OWNERS))
    total.backward()
    assert total.item() == reduction(LOSSES, batch(OWNERS))[0].item()
    assert losses.grad[0, 0] == 0
    assert losses.grad.isfinite().all()


def test_gradients_by_hand():
    grads = {}
    for name, reduction in zip(("token", "sequence", "constant"), ALL, strict=True):
        losses = LOSSES.clone().requires_grad_()
        reduction(losses, batch(OWNERS))[0].backward()
        grads[name] = losses.grad
    third = 0.3333333
    torch.testing.assert_close(grads["token"], torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 0]]))
    torch.testing.assert_close(grads["sequence"], torch.tensor([[0, 0.5, 0.5, 1], [third, third, third, 0]]))
    torch.testing.assert_close(grads["constant"], torch.tensor([[0, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0]]))


@pytest.mark.parametrize("reduction", ALL)
@given(case=rows(), cut=st.integers(0, 4))
def test_reductions_add_up_over_any_split_into_rows(reduction, case, cut):
    owners, values = case
    losses = values.double().view(len(owners), 5)
    total, weight = reduction(losses, batch(owners))
    parts = [reduction(losses[s], batch(owners[s])) for s in (slice(cut), slice(cut, None)) if owners[s]]
    assert sum(p[0].item() for p in parts) == pytest.approx(total.item(), abs=1e-9)
    assert sum(p[1] for p in parts) == weight


@pytest.mark.parametrize("reduction", ALL)
@given(case=rows(), data=st.data())
def test_reductions_do_not_see_the_order_of_rows_or_the_names_of_trajectories(reduction, case, data):
    owners, values = case
    losses = values.double().view(len(owners), 5)
    order = data.draw(st.permutations(range(len(owners))))
    renamed = [[-1 if owner < 0 else 1000 - 7 * owner for owner in owners[row]] for row in order]
    total, weight = reduction(losses, batch(owners))
    other, same = reduction(losses[list(order)], batch(renamed))
    assert other.item() == pytest.approx(total.item(), abs=1e-9)
    assert same == weight
