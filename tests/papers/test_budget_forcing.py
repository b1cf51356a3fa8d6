"""Budget forcing, the baseline "s1": by hand, and in the native sampler."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from hone.papers.budget_forcing import BudgetForcing
from hone.samplers.native import NativeSampler
from hone.seats import SamplingParams
from hone.types import Segment

STOP = 256


class Row:
    """A sequence that draws a given text, and what came of it."""

    def __init__(self, processor, drawn, most=99):
        self.tokens, self.forced, self.context, self.params = [], [], (), SamplingParams()
        for token in [*drawn.encode()] if isinstance(drawn, str) else drawn:
            while True:
                replaced = processor.replace([self], [token])
                self.tokens.append(replaced.get(0, token))
                self.forced.append(bool(replaced))
                if not processor._thoughts[self].pending[1:]:
                    break
            if len(self.tokens) >= most:
                break

    @property
    def text(self):
        return bytes(token for token in self.tokens if token < 256).decode()


def bound(**settings):
    processor = BudgetForcing(**settings)
    renderer = SimpleNamespace(
        reply=lambda text: SimpleNamespace(actions=tuple(text.encode())),
        decode=lambda tokens: bytes(t for t in tokens if t < 256).decode(errors="replace"),
        stop_tokens=frozenset({STOP}),
    )
    processor.bind(renderer)
    return processor


@pytest.mark.parametrize(
    ("settings", "drawn", "text"),
    [
        ({"end": "E", "wait": "W"}, "abEcEdEe", "abWcWdEe"),
        ({"end": "E", "wait": "W", "waits": 0}, "abEc", "abEc"),
        ({"end": "E", "wait": "Wait", "waits": 1}, "abEcEd", "abWaitcEd"),
        ({"end": "E", "wait": "W", "budget": 3, "waits": 0}, "abcdef", "abcEef"),
        ({"end": "E", "wait": "W", "budget": 4}, "aEbcde", "aWbcEe"),
        ({"end": "E", "wait": "W", "budget": 9}, "aEEEbEc", "aWWEbEc"),
        ({"end": "</E>", "wait": "W", "waits": 1}, "ab<c</E>d", "abWc</E>d"),
    ],
)
def test_by_hand(settings, drawn, text):
    assert Row(bound(**settings), drawn).text == text


def test_a_stop_in_the_midst_of_thinking_is_an_end_too():
    row = Row(bound(end="E", wait="W", waits=1), [*b"ab", STOP, *b"cE", STOP])
    assert row.tokens == [*b"abWcE", STOP]
    assert row.forced == [False, False, True, False, False, False]


def test_it_leaves_the_rest_as_the_policy_has_it(tiny_policy):
    policy = tiny_policy("float32")

    def run(*processors):
        engine = NativeSampler(processors=list(processors))
        engine.sync(policy)

        async def gather():
            prompt = Segment("prompt", "given", (5, 6, 7))
            return await asyncio.gather(
                *(engine.sample([prompt], SamplingParams(seed=i, max_tokens=40)) for i in range(40))
            )

        return asyncio.run(gather())

    plain = run()
    assert run(BudgetForcing(waits=0, end="</think>")) == plain
    steered = run(BudgetForcing(waits=2, wait="Wait", end="E", budget=30))
    imposed = [part for c in steered for part in c.segments if part.source == "forced"]
    assert any(part.text == "Wait" for part in imposed)
    assert any(part.text == "E" for part in imposed)
    for completion in steered:
        assert sum(map(len, completion.segments)) <= 40
        at = 0
        for part in completion.segments:
            if part.source == "policy":
                ids = [5, 6, 7, *(t for p in completion.segments for t in p.actions)]
                with torch.no_grad():
                    logits = policy.model(torch.tensor([ids])).logits[0, 2 + at : 2 + at + len(part)]
                ours = logits.log_softmax(-1).gather(1, torch.tensor(part.actions)[:, None])[:, 0]
                assert part.logprobs == pytest.approx(ours.tolist(), abs=1e-4)
            at += len(part)
