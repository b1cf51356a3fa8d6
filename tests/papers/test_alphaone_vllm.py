"""AlphaOne's adapters for vLLM, driven by hand: the engine's streams of updates, and the masks that come of them."""

import random
import sys
from enum import Enum, auto
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from hone.papers import alphaone_vllm
from hone.papers.alphaone import AlphaOne
from hone.papers.alphaone_logits import write
from hone.papers.alphaone_vllm import V1Adapter, V2Adapter

VOCABULARY, LENGTH, SLOTS = 261, 200, 16
SETTINGS = {"n_think": 10, "wait": "Wa", "slow": ["W"], "end": "E", "delimiters": ["."], "alpha": 1.5}
TEXT = "....abcd.efWw.ghijE"
"""What the requests say: mostly delimiters and words that matter."""


class Direction(Enum):
    """vLLM's ``MoveDirectionality``."""

    UNIDIRECTIONAL = auto()
    SWAP = auto()


def update(removed=(), added=(), moved=()):
    return SimpleNamespace(removed=list(removed), added=list(added), moved=list(moved))


def params(seed=0, temperature=1.0, settings=SETTINGS, max_tokens=150):
    given = None if settings is None else {"alphaone": settings}
    return SimpleNamespace(seed=seed, temperature=temperature, max_tokens=max_tokens, extra_args=given)


@pytest.fixture(scope="module")
def config(tiny_model_path):
    model = SimpleNamespace(tokenizer=tiny_model_path, tokenizer_revision=None, trust_remote_code=False)
    return SimpleNamespace(model_config=model)


@pytest.fixture
def v1(config):
    return V1Adapter(config, torch.device("cpu"), False)


@pytest.fixture
def v2(config):
    states = SimpleNamespace(
        all_token_ids=SimpleNamespace(gpu=torch.full((SLOTS, LENGTH), -7)),
        total_len=SimpleNamespace(gpu=torch.zeros(SLOTS, dtype=torch.int32)),
        prompt_len=SimpleNamespace(np=np.zeros(SLOTS, dtype=np.int32)),
    )
    return V2Adapter(config, states)


def fill(v2, slot, prompt, output):
    """What the model runner keeps of a request."""
    states = v2._states
    states.all_token_ids.gpu[slot, : len(prompt) + len(output)] = torch.tensor([*prompt, *output])
    states.total_len.gpu[slot], states.prompt_len.np[slot] = len(prompt) + len(output), len(prompt)


def layout(slots, rows=None, positions=None, inputs=None):
    """A ``LogitsContext``; by default one row a request."""
    rows = slots if rows is None else rows
    return SimpleNamespace(
        idx_mapping_np=np.array(slots),
        expanded_idx_mapping=torch.tensor(rows),
        expanded_local_pos=torch.tensor(positions or [0] * len(rows)),
        input_ids=torch.tensor(inputs or [0] * len(rows)),
    )


def expected(request, output, logits, tokenizer):
    """One row of logits, by the state machine alone, anew from the first token."""
    if request.extra_args is None:
        return logits
    alphaone = AlphaOne(**request.extra_args["alphaone"])
    alphaone.bind(tokenizer)
    course = alphaone.begin(request, mass=True)
    for token in output:
        alphaone.see(course, token)
    return write(alphaone, {0: course}, logits[None].clone())[0]


@pytest.fixture(scope="module")
def renderer():
    return SimpleNamespace(
        reply=lambda text: SimpleNamespace(actions=tuple(text.encode())),
        decode=lambda tokens: bytes(t for t in tokens if t < 256).decode(errors="replace"),
    )


def kinds(seed):
    """Requests of every kind."""
    chosen = random.Random(seed)
    settings = chosen.choice(
        [SETTINGS, SETTINGS, {**SETTINGS, "imposed": "trained"}, {**SETTINGS, "schedule": "linear_increase"}, None]
    )
    return params(seed, chosen.choice([0.0, 0.7, 1.0]), settings)


@pytest.mark.parametrize("seed", range(6))
def test_both_give_the_masks_of_the_state_machine_whatever_the_engine_does(seed, v1, v2, renderer):
    chosen = random.Random(seed)
    draw = torch.Generator().manual_seed(seed)
    batch, slots, waiting, fresh, changed = [], {}, [], 0, 0  # V1's order, V2's slots, those that were preempted
    for _ in range(90):
        removed, added, moved = [], [], []
        if batch and chosen.random() < 0.15:  # finished or preempted: the last one takes the place
            hole = chosen.randrange(len(batch))
            request, output = batch[hole]
            slots.pop(id(output))
            if chosen.random() < 0.6:
                waiting.append((request, output))
            removed.append(hole)
            last = batch.pop()
            if hole < len(batch):
                batch[hole] = last
                moved.append((len(batch), hole, Direction.UNIDIRECTIONAL))
        elif len(batch) < 7 and chosen.random() < 0.5:
            if waiting and chosen.random() < 0.7:
                request, old = waiting.pop(chosen.randrange(len(waiting)))
                output = list(old)  # another list, as after preemption
            else:
                fresh += 1
                request, output = kinds(100 * seed + fresh), []
            added.append((len(batch), request, [1, 2, 3], output))
            batch.append((request, output))
            slot = chosen.choice([s for s in range(SLOTS) if s not in slots.values()])
            slots[id(output)] = slot
            assert v2.add_request(slot, request) == (request.extra_args is not None)
        if len(batch) > 1 and not removed and chosen.random() < 0.2:
            a, b = chosen.sample(range(len(batch)), 2)
            batch[a], batch[b] = batch[b], batch[a]
            moved.append((a, b, Direction.SWAP))
        v1.update_state(update(removed, added, moved) if removed or added or moved else None)
        if not batch:
            continue
        for _, output in batch:
            fill(v2, slots[id(output)], [1, 2, 3], output)
        logits = torch.randn(len(batch), VOCABULARY, generator=draw)
        rows = torch.stack([expected(r, o, logit, renderer) for (r, o), logit in zip(batch, logits, strict=True)])
        changed += int((rows != logits).any(1).sum())
        assert torch.equal(v1.apply(logits.clone()), rows)
        order = chosen.sample(range(len(batch)), len(batch))
        there = v2.apply(logits[order], layout([slots[id(batch[i][1])] for i in order]))
        assert torch.equal(there, rows[order])
        for (_, output), row in zip(batch, rows, strict=True):
            allowed = [ord(c) for c in TEXT if row[ord(c)] > -torch.inf]
            output.append(chosen.choice(allowed) if len(allowed) > 1 else int(row.argmax()))
    assert changed > 30


def test_draft_tokens_have_rows_of_their_own(v2, renderer):
    request = params(seed=5)
    v2.add_request(3, request)
    v2.add_request(4, params(settings=None))
    output = [ord(c) for c in "ab.ab"]
    fill(v2, 3, [1, 2], output)
    drafts = [ord("."), ord("W"), ord(".")]
    inputs = [0, output[-1], *drafts, 0]
    logits = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0))
    found = v2.apply(logits.clone(), layout([4, 3], [4, 3, 3, 3, 3, 4], [0, 0, 1, 2, 3, 1], inputs))
    for n in range(4):
        assert torch.equal(found[1 + n], expected(request, output + drafts[:n], logits[1 + n], renderer))
    assert torch.equal(found[[0, 5]], logits[[0, 5]])
    output += drafts[:2]  # the third was rejected
    fill(v2, 3, [1, 2], output)
    again = v2.apply(logits[:1].clone(), layout([3]))
    assert torch.equal(again[0], expected(request, output, logits[0], renderer))


def test_a_recycled_slot_forgets_who_was_in_it(v2):
    v2.add_request(3, params())
    assert not v2.add_request(3, params(settings=None))
    logits = torch.zeros(1, VOCABULARY)
    assert v2.apply(logits, layout([3])) is logits


def test_a_request_behind_another_in_its_place(v1):
    """An index that is added where one was removed, and one that is moved onto by a request without settings."""
    text = [ord(c) for c in "a" * 20]
    v1.update_state(update(added=[(0, params(), [], text), (1, params(settings=None), [], [])]))
    logits = torch.zeros(2, VOCABULARY)
    assert (v1.apply(logits.clone()) != logits).any(1).tolist() == [True, False]
    v1.update_state(update(moved=[(1, 0, Direction.UNIDIRECTIONAL)], removed=[0]))
    assert torch.equal(v1.apply(logits.clone()), logits)
    v1.update_state(update(added=[(0, params(), [], text)], removed=[0]))
    assert (v1.apply(logits.clone()) != logits).any(1).tolist() == [True, False]


def test_a_token_that_is_not_there_yet_is_an_error(v1):
    output = [ord("a")]
    v1.update_state(update(added=[(0, params(), [], output)]))
    output.append(-1)
    with pytest.raises(RuntimeError, match="async_scheduling=False"):
        v1.apply(torch.zeros(1, VOCABULARY))
    output[-1] = ord("b")  # filled in before it is applied: then all is well
    v1.apply(torch.zeros(1, VOCABULARY))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (params(settings={"n_think": -1}), "n_think"),
        (params(settings={**SETTINGS, "alhpa": 2}), "alhpa"),
        (params(settings={"alpha": 2}), r"extra_args\.alphaone\.n_think: required"),
        (params(seed=None), "seed: required"),
        (params(settings=3), r"extra_args\.alphaone = 3: should be a mapping"),
    ],
)
def test_wrong_requests_are_refused_when_they_arrive(request_, message):
    for adapter in (V1Adapter, V2Adapter):
        with pytest.raises(ValueError, match=message):
            adapter.validate_params(request_)
        adapter.validate_params(params())
        adapter.validate_params(params(settings=None, seed=None))


def test_the_engine_gets_subclasses_of_its_own_interfaces(monkeypatch, config):
    for module in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        parts = module.split(".")
        for n in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:n]), ModuleType(".".join(parts[:n])))
        sys.modules[module].LogitsProcessor = type("LogitsProcessor", (), {})
    alphaone_vllm._subclass.cache_clear()
    try:
        for name, adapter, module in (
            ("AlphaOneV1", V1Adapter, "vllm.v1.sample.logits_processor"),
            ("AlphaOneV2", V2Adapter, "vllm.v1.worker.gpu.sample.logits_processor"),
        ):
            found = getattr(alphaone_vllm, name)
            assert issubclass(found, (adapter, sys.modules[module].LogitsProcessor))
            assert found is getattr(alphaone_vllm, name)
            assert not found.is_argmax_invariant(found) if name == "AlphaOneV1" else True
    finally:
        alphaone_vllm._subclass.cache_clear()


def test_without_vllm_the_adapters_are_there_and_the_subclasses_are_not():
    if "vllm" not in sys.modules:
        with pytest.raises(ImportError):
            alphaone_vllm.AlphaOneV1  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute AlphaTwo"):
        alphaone_vllm.AlphaTwo  # noqa: B018
