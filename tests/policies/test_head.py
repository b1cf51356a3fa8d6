import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.profiler import ProfilerActivity, profile

from hone.policies.head import budget, chunked, log_prob_and_entropy

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
@pytest.mark.parametrize("keep", [0, 5, 100])
@pytest.mark.parametrize("alive", ["all", "some", "log_probs", "none"])
def test_pieces_are_the_whole_in_value_and_gradient(size, temperature, keep, alive):
    weight, hidden, targets = case()
    up = torch.randn(2, N)
    up[1] *= alive != "log_probs"
    up *= {"some": torch.tensor([1.0, 0.0, 0.0] * 4)[:N], "none": 0.0}.get(alive, 1.0)

    def gradients(outputs):
        loss = (torch.stack(outputs) * up).sum()
        return [*outputs, *torch.autograd.grad(loss, (weight, hidden))]

    whole = gradients(reference(hidden @ weight.T, targets, temperature))
    pieces = gradients(
        chunked(lambda h: h @ weight.T, hidden, targets, temperature, parameters=[weight], chunk=size, keep=keep)
    )
    for ours, theirs in zip(pieces, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_by_finite_differences():
    weight, hidden, targets = case(torch.float64)
    logits = (hidden @ weight.T).detach().requires_grad_()
    assert gradcheck(lambda x: log_prob_and_entropy(x, targets, 0.7), logits)
    for keep in (0, 6):
        assert gradcheck(
            lambda h, w, keep=keep: chunked(lambda x: x @ w.T, h, targets, 0.7, parameters=[w], chunk=4, keep=keep),
            (hidden, weight),
        )


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
    log_probs, entropy = chunked(
        lambda h: h @ weight.T, hidden, torch.zeros(0, dtype=torch.int64), 1.0, parameters=[weight], chunk=4
    )
    (log_probs.sum() + entropy.sum()).backward()
    assert log_probs.shape == entropy.shape == (0,)
    assert log_probs.dtype == torch.float32
    assert hidden.grad.shape == (0, D)


@pytest.mark.parametrize(
    ("keep", "alive", "calls"),
    [
        (0, range(N), [4, 4, 3]),  # all over again
        (8, range(N), [3]),  # but for what was kept
        (100, range(N), []),
        (0, [1, 2, 9], [3]),  # those alone that a gradient comes back for
        (100, [1, 8, 9], [1]),  # a kept piece is used where most of it gets one
        (100, [0], [1]),
        (0, [], []),
    ],
)
def test_what_the_backward_pass_computes_again(keep, alive, calls):
    weight, hidden, targets = case()
    seen = []

    def logits(h):
        seen.append(len(h))
        return h @ weight.T

    def run():
        return chunked(logits, hidden, targets, 1.0, parameters=[weight], chunk=4, keep=keep)[0]

    with torch.no_grad():
        run()
    assert seen == [4, 4, 3]
    log_probs = run()
    seen.clear()
    log_probs[list(alive)].sum().backward()
    assert seen == calls


def test_head_weights_that_are_not_trained_get_no_gradient():
    weight, hidden, targets = case()
    frozen = weight.detach()
    log_probs, _ = chunked(lambda h: h @ frozen.T, hidden, targets, 1.0, parameters=[], chunk=4)
    (alone,) = torch.autograd.grad(log_probs.sum(), hidden)
    log_probs, _ = chunked(lambda h: h @ weight.T, hidden, targets, 1.0, parameters=[weight], chunk=4)
    (both, _) = torch.autograd.grad(log_probs.sum(), (hidden, weight))
    torch.testing.assert_close(alone, both, atol=0, rtol=0)


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
    vocabulary, width, memory = 16384, 16, 16
    chunk, keep = budget(vocabulary, 4, memory, "cpu", False)
    weight = torch.randn(vocabulary, width, requires_grad=True)

    def work(n):
        hidden = torch.randn(n, width, requires_grad=True)
        with torch.set_grad_enabled(backward is not None):
            log_probs, entropy = chunked(
                lambda h: h @ weight.T, hidden, torch.arange(n), 1.0, parameters=[weight], chunk=chunk, keep=keep
            )
        if backward:
            (log_probs.sum() + (entropy.sum() if backward == "both" else 0)).backward()
            weight.grad = None

    beside = 3 * vocabulary * width * 4 if backward else 0  # the gradient of the head, while two pieces are added
    for n in (512, 2048, 8192):
        peak, largest = allocations(lambda n=n: work(n))
        per_step = n * (3 * width + 20) * 4  # hidden, its gradient, pieces of both, log-probabilities, entropies
        assert largest <= max(chunk, width) * vocabulary * 4
        assert peak <= memory * 2**20 + beside + per_step
        assert peak < n * vocabulary * 4 / 2
    assert peak < n * vocabulary * 4 / 30  # a thirtieth of full logits


def test_budget():
    # Half of 2 MiB: pieces of 2 steps in 4 tensors of float32, or of 8 with their gradients, and 16 kept.
    assert budget(32768, 2, 2, "cuda", False) == (2, 16)
    assert budget(32768, 2, 2, "cuda", True) == (8, 16)
    assert budget(10**9, 4, 1, "cuda", False) == budget(10**9, 4, 1, "cpu", False) == (1, 0)
    # 8 of them in 4 tensors of float32 are 4 MiB; logits and gradients of the others take 128 KiB a step.
    assert budget(32768, 2, 16, "cpu", False) == (32, 128)
    assert budget(32768, 2, None, "cuda", True) == budget(32768, 2, 2048, "cuda", True)
