import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.profiler import ProfilerActivity, profile

from hone.policies.head import chunk_size, chunked, log_prob_and_entropy

N, D, V = 11, 6, 37


def case(dtype=torch.float32):
    torch.manual_seed(1)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    hidden = torch.randn(N, D, dtype=dtype, requires_grad=True)
    return weight, hidden, torch.randint(0, V, (N,))


def reference(logits, targets, temperature):
    log_probs = (logits / temperature).log_softmax(-1)
    return log_probs[range(len(targets)), targets], -(log_probs.exp() * log_probs).sum(-1)


def test_by_hand():
    logits = torch.tensor([[math.log(1), math.log(3)], [7.0, 7.0]])
    log_probs, entropy = log_prob_and_entropy(logits, torch.tensor([1, 0]), 1.0)
    assert log_probs.tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    assert entropy.tolist() == pytest.approx([0.25 * math.log(4) + 0.75 * math.log(4 / 3), math.log(2)])
    # At temperature 0.5 the odds are squared: 1 to 9.
    log_probs, entropy = log_prob_and_entropy(logits[:1], torch.tensor([1]), 0.5)
    assert log_probs.item() == pytest.approx(math.log(0.9))
    assert entropy.item() == pytest.approx(0.1 * math.log(10) + 0.9 * math.log(10 / 9))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_pieces_are_the_whole_in_value_and_gradient(size, temperature):
    weight, hidden, targets = case()
    up = torch.randn(2, N)

    def gradients(outputs):
        loss = (torch.stack(outputs) * up).sum()
        return [*outputs, *torch.autograd.grad(loss, (weight, hidden))]

    whole = gradients(reference(hidden @ weight.T, targets, temperature))
    pieces = gradients(chunked(lambda h: h @ weight.T, hidden, targets, temperature, chunk=size))
    for ours, theirs in zip(pieces, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_by_finite_differences():
    weight, hidden, targets = case(torch.float64)
    logits = (hidden @ weight.T).detach().requires_grad_()
    assert gradcheck(lambda x: log_prob_and_entropy(x, targets, 0.7), logits)
    assert gradcheck(lambda h, w: chunked(lambda x: x @ w.T, h, targets, 0.7, chunk=4), (hidden, weight))


def test_huge_and_low_precision_logits():
    log_probs, entropy = log_prob_and_entropy(torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([0]), 1.0)
    assert (log_probs.item(), entropy.item()) == (0.0, 0.0)
    logits = torch.randn(4, V).bfloat16()
    log_probs, _ = log_prob_and_entropy(logits, torch.zeros(4, dtype=torch.int64), 1.0)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, logits.float().log_softmax(-1)[:, 0])


def test_nothing_selected():
    weight, _, _ = case()
    hidden = torch.zeros(0, D, requires_grad=True)
    log_probs, entropy = chunked(lambda h: h @ weight.T, hidden, torch.zeros(0, dtype=torch.int64), 1.0, chunk=4)
    (log_probs.sum() + entropy.sum()).backward()
    assert log_probs.shape == entropy.shape == (0,)
    assert log_probs.dtype == torch.float32
    assert hidden.grad.shape == (0, D)


def test_no_recomputation_without_gradients():
    weight, hidden, targets = case()
    calls = []

    def logits(h):
        calls.append(len(h))
        return h @ weight.T

    with torch.no_grad():
        chunked(logits, hidden, targets, 1.0, chunk=4)
    assert calls == [4, 4, 3]
    calls.clear()
    chunked(logits, hidden, targets, 1.0, chunk=4)[0].sum().backward()
    assert sorted(calls) == [3, 3, 4, 4, 4, 4]


def allocations(work):
    """The peak of live bytes while ``work`` runs, beyond what lived before, and the largest single allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = largest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak, largest = max(peak, live), max(largest, event.nbytes())
    return peak, largest


def test_the_measure_sees_full_logits():
    peak, largest = allocations(lambda: torch.randn(64, 1000).log_softmax(-1).sum())
    assert largest == 64 * 1000 * 4
    assert 2 * largest <= peak <= 2.1 * largest


@pytest.mark.parametrize("backward", [None, "both", "log_probs"])
def test_peak_memory_does_not_grow_with_length_times_vocabulary(backward):
    vocabulary, width, budget = 16384, 16, 8
    chunk = chunk_size(vocabulary, budget)
    weight = torch.randn(vocabulary, width, requires_grad=True)

    def work(n):
        hidden = torch.randn(n, width, requires_grad=True)
        with torch.set_grad_enabled(backward is not None):
            log_probs, entropy = chunked(lambda h: h @ weight.T, hidden, torch.arange(n), 1.0, chunk=chunk)
        if backward:
            (log_probs.sum() + (entropy.sum() if backward == "both" else 0)).backward()
            weight.grad = None

    beside = 3 * vocabulary * width * 4 if backward else 0  # the gradient of the head, while two pieces are added
    for n in (512, 2048, 8192):
        peak, largest = allocations(lambda n=n: work(n))
        per_step = n * (3 * width + 20) * 4  # hidden, its gradient, pieces of both, log-probabilities, entropies
        assert largest <= max(chunk, width) * vocabulary * 4
        assert peak <= budget * 2**20 + beside + per_step
        assert peak < n * vocabulary * 4 / 2
    assert peak < n * vocabulary * 4 / 30  # a thirtieth of full logits


def test_chunk_size():
    assert chunk_size(32768, 1) == 2
    assert chunk_size(10**9, 1) == 1
