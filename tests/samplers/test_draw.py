import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.samplers.draw import BLOCK, Drawn, Rules, _invert, draw, fetched, truncate, uniform
from hone.seats import SamplingParams

CPU = torch.device("cpu")


def rules(n=1, **params):
    return Rules.stack([SamplingParams(**params)] * n, CPU)


def kept(logits, **params):
    """Indices that truncation leaves."""
    return torch.isfinite(truncate(torch.tensor([logits]), rules(**params))[0]).nonzero().flatten().tolist()


def many(logits, n, **params):
    """``n`` draws of one distribution, each under a seed of its own."""
    each = Rules.stack([SamplingParams(seed=seed, **params) for seed in range(n)], CPU)
    return draw(logits.expand(n, -1), each, torch.zeros(n, dtype=torch.int64))[:2]


def log(*probabilities):
    return [math.log(p) for p in probabilities]


def splitmix64(seed, position):
    """The generator in plain integers: its state after ``position + 1`` steps from ``seed``, mixed."""
    mask = (1 << 64) - 1
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_reference_generator_is_splitmix64():
    # The first outputs for seed 1234567, as published with the algorithm (Rosetta Code, "Pseudo-random numbers").
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, i) for i in range(4)] == published


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**20)), min_size=1, max_size=20))
def test_uniform_is_splitmix64(keys):
    seeds, positions = torch.tensor(keys).T
    assert uniform(seeds, positions).tolist() == [(splitmix64(s, p) >> 11) * 2.0**-53 for s, p in keys]


def test_uniform_numbers_are_uniform_and_unrelated():
    n = 100_000
    u = uniform(torch.arange(n), torch.zeros(n, dtype=torch.int64))  # neighbouring seeds
    v = uniform(torch.zeros(n, dtype=torch.int64), torch.arange(n))  # neighbouring positions
    for x in (u, v):
        assert x.min() >= 0
        assert x.max() < 1
        assert x.mean().item() == pytest.approx(1 / 2, abs=4 / math.sqrt(12 * n))
        assert x.var().item() == pytest.approx(1 / 12, abs=0.002)
        counts = torch.histc(x, 100, 0, 1)
        assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 160  # chi-square, 99 degrees of freedom: p of 1e-4
        assert abs(torch.corrcoef(torch.stack([x[1:], x[:-1]]))[0, 1]) < 0.015
    assert abs(torch.corrcoef(torch.stack([u, v]))[0, 1]) < 0.015


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_as_often_as_they_should(temperature):
    torch.manual_seed(0)
    logits, n = torch.randn(1, 300), 60_000  # three blocks, the last one not full
    expected = (logits[0] / temperature).softmax(-1)
    tokens, logprobs = many(logits, n, temperature=temperature)
    counts, expected_counts = torch.bincount(tokens, minlength=300), expected * n
    common = expected_counts > 5
    chi_square = ((counts - expected_counts) ** 2 / expected_counts)[common].sum()
    degrees = int(common.sum()) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)
    torch.testing.assert_close(logprobs, expected.log()[tokens], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_every_size_of_vocabulary(size):
    tokens, logprobs = many(torch.zeros(1, size), 40 * size)
    assert set(tokens.tolist()) == set(range(size))
    torch.testing.assert_close(logprobs, torch.full_like(logprobs, -math.log(size)))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_forbidden_tokens_are_never_drawn(data):
    size = data.draw(st.sampled_from([3, 127, 128, 129, 260, 400]))
    open_ = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5, unique=True))
    values = data.draw(st.lists(st.floats(-60, 60, width=32), min_size=len(open_), max_size=len(open_)))
    logits = torch.full((1, size), -torch.inf)
    logits[0, open_] = torch.tensor(values)
    temperature = data.draw(st.sampled_from([0.0, 0.1, 1.0, 3.0]))
    tokens, logprobs = many(logits, 50, temperature=temperature)
    assert set(tokens.tolist()) <= set(open_)
    assert torch.isfinite(logprobs).all()


@pytest.mark.parametrize("u", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("first", [0, 1, 127, 128, 130])
def test_the_ends_of_the_unit_interval(monkeypatch, u, first):
    monkeypatch.setattr("hone.samplers.draw.uniform", lambda seed, position: torch.full((len(seed),), u).double())
    torch.manual_seed(first)
    for _ in range(200):
        logits = torch.full((1, 300), -torch.inf)
        logits[0, first : first + 150] = 3 * torch.randn(150)
        tokens = draw(logits, rules(), torch.zeros(1, dtype=torch.int64)).tokens
        assert first <= tokens.item() < first + 150


def test_a_large_vocabulary_is_inverted_as_by_one_cumulative_sum():
    torch.manual_seed(0)
    logits = 4 * torch.randn(64, 50_257)  # the last block is not full
    tokens, logprobs, _ = draw(
        logits, Rules.stack([SamplingParams(seed=seed) for seed in range(64)], CPU), torch.arange(64)
    )
    probs = logits.double().softmax(-1)
    above = probs.cumsum(-1).gather(-1, tokens[:, None])[:, 0]
    below = above - probs.gather(-1, tokens[:, None])[:, 0]
    u = uniform(torch.arange(64), torch.arange(64))
    assert (below - 1e-6 < u).all()
    assert (u < above + 1e-6).all()
    exact = logits.double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [1000, 49_152])
def test_a_row_draws_the_same_alone_and_among_others(size):
    torch.manual_seed(size)
    logits, position = 3 * torch.randn(64, size), torch.arange(64)
    params = [SamplingParams(seed=i, temperature=(0.0, 0.7, 1.0)[i % 3]) for i in range(64)]
    tokens, logprobs, _ = draw(logits, Rules.stack(params, CPU), position)
    for i in range(64):
        token, logprob, _ = draw(logits[i : i + 1], Rules.stack(params[i : i + 1], CPU), position[i : i + 1])
        assert (token.item(), logprob.item()) == (tokens[i].item(), logprobs[i].item())


def test_a_number_on_the_border_of_two_blocks():
    for i in range(1000):
        weights = (3 * torch.randn(1, 3 * BLOCK, generator=torch.Generator().manual_seed(i))).exp()
        weights[0, BLOCK : BLOCK + 12] = 0
        blocks = weights.unflatten(1, (3, BLOCK))
        sums = blocks.sum(-1).double()
        below, total = sums[:, 0], sums.sum(-1)
        for u in (below / total, torch.nextafter(below / total, torch.ones(1).double())):
            token = _invert(sums, lambda block: blocks[0, block[:, 0]], u)[0].item()  # noqa: B023
            assert weights[0, token] > 0
            assert BLOCK - 1 <= token <= BLOCK + 12


@pytest.mark.parametrize("bad", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_no_distribution_is_refused(bad, temperature):
    logits, positions = torch.tensor([[1.0, 2.0], bad]), torch.zeros(2, dtype=torch.int64)
    drawn = draw(logits, rules(2, temperature=temperature), positions)
    assert drawn.logprobs.isnan().tolist() == [False, True]
    assert drawn.tokens.max() < 2  # the token itself may be looked up, whatever it is
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        fetched(drawn)


def test_what_is_fetched_is_exact():
    tokens, logprobs = torch.tensor([0, 2**31 - 1]), torch.tensor([-0.1, -123.456])
    assert fetched(Drawn(tokens, logprobs)) == ([0, 2**31 - 1], logprobs.tolist(), [])
    entropies = torch.tensor([0.1, 10.0], dtype=torch.float64)
    assert fetched(Drawn(tokens, logprobs, entropies)) == ([0, 2**31 - 1], logprobs.tolist(), [0.1, 10.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_entropy_of_each_draw(temperature):
    logits = torch.tensor([log(0.2, 0.5, 0.3), log(1 / 3, 1 / 3, 1 / 3), [0.0, -torch.inf, -torch.inf]])
    drawn = draw(logits, rules(3, temperature=temperature, entropies=True), torch.zeros(3, dtype=torch.int64))
    powers = [p ** (1 / temperature) for p in (0.2, 0.5, 0.3)]
    probs = [p / sum(powers) for p in powers]
    assert drawn.entropies.tolist() == pytest.approx([-sum(p * math.log(p) for p in probs), math.log(3), 0.0], abs=1e-6)


def test_to_record_entropies_changes_no_draw():
    torch.manual_seed(0)
    logits, positions = 3 * torch.randn(64, 1000), torch.arange(64)
    plain, recorded = (draw(logits, rules(64, entropies=asked), positions) for asked in (False, True))
    assert plain.entropies is None
    assert torch.equal(plain.tokens, recorded.tokens)
    assert torch.equal(plain.logprobs, recorded.logprobs)
    assert torch.allclose(recorded.entropies.float(), torch.distributions.Categorical(logits=logits).entropy())


def test_one_token_alone():
    logits = torch.full((1, 200), -torch.inf)
    logits[0, 150] = -3.0
    tokens, logprobs = many(logits, 20)
    assert tokens.tolist() == [150] * 20
    assert logprobs.tolist() == [0.0] * 20


def test_greedy_takes_the_likeliest_at_temperature_one():
    logits = torch.tensor([log(0.2, 0.5, 0.3)])
    tokens, logprobs = many(logits, 5, temperature=0)
    assert tokens.tolist() == [1] * 5
    assert logprobs.tolist() == pytest.approx([math.log(0.5)] * 5)


def test_rows_with_different_rules_stand_beside_each_other():
    torch.manual_seed(0)
    logits = torch.randn(6, 300)
    params = [
        SamplingParams(seed=i, **p)
        for i, p in enumerate(
            [{}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.2}, {"min_p": 0.5}, {"temperature": 2}]
        )
    ]
    position = torch.arange(6)
    together = draw(logits, Rules.stack(params, CPU), position)[:2]
    for i, p in enumerate(params):
        alone = draw(logits[i : i + 1], Rules.stack([p], CPU), position[i : i + 1])[:2]
        assert [x.item() for x in alone] == [x[i].item() for x in together]


def test_the_same_key_draws_the_same_and_others_draw_others():
    logits = torch.zeros(1, 1000)
    tokens, _ = many(logits, 200)
    assert torch.equal(tokens, many(logits, 200)[0])
    assert len(set(tokens.tolist())) > 150
    positions = draw(logits.expand(200, -1), rules(200, seed=5), torch.arange(200)).tokens
    assert len(set(positions.tolist())) > 150


def test_top_k_by_hand():
    logits = [1.0, 4.0, 2.0, 3.0]
    assert kept(logits, top_k=0) == [0, 1, 2, 3]
    assert kept(logits, top_k=1) == [1]
    assert kept(logits, top_k=2) == [1, 3]
    assert kept(logits, top_k=9) == [0, 1, 2, 3]


def test_top_p_by_hand():
    logits = log(0.1, 0.5, 0.15, 0.25)
    assert kept(logits, top_p=0.4) == [1]
    assert kept(logits, top_p=0.6) == [1, 3]  # 0.5 does not reach it, 0.75 does
    assert kept(logits, top_p=0.74) == [1, 3]
    assert kept(logits, top_p=0.76) == [1, 2, 3]
    assert kept(logits, top_p=0.95) == [0, 1, 2, 3]
    assert kept(logits, top_p=1e-9) == [1]


def test_min_p_by_hand():
    logits = log(0.1, 0.5, 0.15, 0.25)
    assert kept(logits, min_p=0.45) == [1, 3]
    assert kept(logits, min_p=0.25) == [1, 2, 3]
    assert kept(logits, min_p=0.19) == [0, 1, 2, 3]
    assert kept(logits, min_p=0.999) == [1]


def test_truncations_join():
    logits = log(0.1, 0.5, 0.15, 0.25)
    assert kept(logits, top_k=3, top_p=0.76) == [1, 2, 3]
    assert kept(logits, top_k=2, top_p=0.95) == [1, 3]
    assert kept(logits, top_k=3, min_p=0.45) == [1, 3]


def test_truncation_sees_the_temperature_and_renormalises():
    logits = torch.tensor([log(0.1, 0.5, 0.15, 0.25)])
    tokens, logprobs = many(logits, 2000, top_k=2)
    assert set(tokens.tolist()) == {1, 3}
    expected = torch.where(tokens == 1, 2 / 3, 1 / 3).log()
    torch.testing.assert_close(logprobs, expected)
    # At temperature 1/2 the probabilities are 1, 25, 2.25, 6.25 over 34.5: the first alone exceeds 0.7.
    assert set(many(logits, 200, top_p=0.7, temperature=0.5)[0].tolist()) == {1}
    assert set(many(logits, 200, top_p=0.7)[0].tolist()) == {1, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_float_type(dtype):
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=dtype)
    tokens, logprobs = many(logits, 20)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, logits.float().log_softmax(-1)[0, tokens])


def test_the_arguments_are_left_alone():
    logits = torch.randn(1, 9)
    before = logits.clone()
    draw(logits, rules(top_k=2, temperature=0.5), torch.zeros(1, dtype=torch.int64))
    assert torch.equal(logits, before)
