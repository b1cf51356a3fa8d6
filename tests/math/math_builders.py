"""Groups and batches by their numbers alone."""

import torch
from torch import Tensor

from hone.types import Batch, Group, Segment, Task, Trajectory

TASK = Task("t", [{"role": "user", "content": "?"}])


def trajectory(reward: float | None, steps: int = 1, **fields) -> Trajectory:
    prompt = Segment("prompt", "given", (7, 8, 9))
    response = Segment("response", "policy", (1,) * steps, logprobs=(-1.0,) * steps, train=True)
    return Trajectory(TASK, [prompt, response], reward=reward, **fields)


def group(*rewards: float | None, steps: int = 1) -> Group:
    return Group(TASK, [trajectory(reward, steps) for reward in rewards])


def advantages(*groups: Group) -> list[float | None]:
    return [t.advantage for g in groups for t in g]


def batch(owners: list[list[int]], **fields: Tensor) -> Batch:
    """A batch by the trajectory of each step; -1 is a step outside the mask."""
    ids = torch.tensor(owners)
    zeros = torch.zeros(ids.shape)
    given = {"advantages": zeros, "sampled_logprobs": zeros, **fields}
    return Batch(inputs={}, mask=ids >= 0, trajectory=ids, group=ids, **given)


def central_difference(function, x: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a scalar function of a float64 tensor, element by element."""
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x).flatten()
        shift[i] = step
        shift = shift.view_as(x)
        gradient.view(-1)[i] = (function(x + shift) - function(x - shift)) / (2 * step)
    return gradient


def gradient(function, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]
