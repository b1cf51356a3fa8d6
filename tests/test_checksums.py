"""Fingerprints of weights."""

import pytest
import torch

from hone.checksums import checksums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (4, 8), (1,)])
def test_the_smallest_change_of_any_weight_shows(dtype, shape):
    weight = torch.randn(shape, dtype=dtype)
    [before] = checksums([("w", weight)]).values()
    assert checksums([("w", weight.clone())]) == {"w": before}
    for at in range(weight.numel()):
        other = weight.clone()
        other.view(-1)[at] = torch.nextafter(other.view(-1)[at], torch.tensor(torch.inf, dtype=dtype))
        assert checksums([("w", other)])["w"] != before


def test_a_transposed_view_is_read_as_it_is_laid_out():
    weight = torch.randn(4, 6)
    assert checksums([("w", weight.t())]) == checksums([("w", weight.t().contiguous())])


def test_it_is_the_sum_of_the_bits():
    assert checksums([("w", torch.tensor([1.0, 1.0, 1.0]))])["w"] == 3 * 0x3F800000
    assert checksums([("w", torch.tensor([1.0, 0.0]))])["w"] == 0x3F800000


def test_policy_and_sampler_agree_until_an_update_is_not_published(tiny_policy):
    from hone.samplers.native import NativeSampler

    policy, sampler = tiny_policy(dtype="bfloat16"), NativeSampler()
    sampler.sync(policy)
    assert policy.fingerprint() == sampler.fingerprint()
    policy.parameters()[0].data.add_(0.5)
    differ = {name for name, value in policy.fingerprint().items() if value != sampler.fingerprint()[name]}
    assert len(differ) == 1
    policy.advance()
    assert policy.fingerprint() == sampler.fingerprint()
