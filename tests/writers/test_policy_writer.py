import asyncio

import pytest

import hone
from hone.build import build, describe
from hone.seats import SamplingParams, Writer
from hone.session import Session
from hone.writers.policy import PolicyWriter

ASK = [{"role": "user", "content": "Rewrite: 2 + 2"}]


@pytest.fixture
def session(tiny_model_path, tmp_path):
    from loop_parts import settings

    with Session(hone.Config(**settings(tiny_model_path, tmp_path / "run"))) as session:
        yield session


def write(session, writer, seed=1, ask=ASK):
    writer.bind(session)
    return session.run(writer.write(ask, seed=seed))


def test_it_is_a_writer_that_yaml_can_name():
    assert isinstance(PolicyWriter(), Writer)
    assert build("writer", "policy") == PolicyWriter()
    made = build("writer", {"policy": {"sampling": {"max_tokens": 7}, "system": "s"}})
    assert build("writer", describe(made)) == made


def test_the_runs_policy_writes_and_its_tokens_are_counted(session):
    writer = PolicyWriter(sampling=SamplingParams(max_tokens=9))
    text = write(session, writer)
    assert isinstance(text, str)
    assert 0 < session.sampled <= 9
    assert write(session, writer) == text
    assert len({write(session, writer, seed) for seed in range(6)}) > 3


def test_it_reads_the_messages_behind_its_system_message_and_its_examples(session):
    seen = []

    class Spy:
        renderer = session.sampler.renderer

        async def sample(self, context, params):
            seen.append((context[0].text, params))
            return await session.sampler.sample(context, params)

    writer = PolicyWriter(
        sampling=SamplingParams(max_tokens=3, temperature=0.5),
        system="Be brief.",
        examples=[{"prompt": "1 + 1", "response": "1 + 0 + 1"}],
    )
    writer.bind(session)
    writer._player = type("Player", (), {"sampler": Spy(), "sampled": 0})()
    session.run(writer.write(ASK, seed=5))
    [(text, params)] = seen
    shown = "<|user|>1 + 1<|end|><|assistant|>1 + 0 + 1<|end|>"
    assert text == f"<|system|>Be brief.<|end|>{shown}<|user|>Rewrite: 2 + 2<|end|><|assistant|>"
    assert params == SamplingParams(max_tokens=3, temperature=0.5, seed=5)


def test_its_name_changes_with_the_weights_of_the_policy(session):
    import torch

    writer = PolicyWriter()
    assert writer.name == "policy"
    writer.bind(session)
    before = writer.name
    assert before == f"policy {session.fingerprint()}"
    with torch.no_grad():
        session.policy.parameters()[0].add_(0.01)
    session.policy.advance()
    assert writer.name != before


def test_a_model_of_its_own_writes_with_its_own_sampler(session, tiny_folder):
    own = {"causal_lm": {"path": tiny_folder("qwen3"), "dtype": "float32"}}
    writer = build("writer", {"policy": {"model": own, "sampler": "native", "sampling": {"max_tokens": 12}}})
    text = write(session, writer)
    assert writer.name == f"policy {tiny_folder('qwen3')}"
    assert writer.sampler._policy is writer.model
    assert session.sampler._policy is session.policy
    assert session.sampled == 0, "tokens of another model"
    assert text != write(session, PolicyWriter(sampling=SamplingParams(max_tokens=12)))


def test_a_model_needs_a_sampler_and_a_sampler_a_model(tiny_model_path):
    for settings in ({"model": {"causal_lm": {"path": tiny_model_path}}}, {"sampler": "native"}):
        with pytest.raises(ValueError, match="give both"):
            build("writer", {"policy": settings})


def test_unbound_it_raises():
    with pytest.raises(RuntimeError, match="bind"):
        asyncio.run(PolicyWriter().write(ASK, seed=0))


def test_a_sampler_that_failed_is_no_empty_reply(session):
    from hone.types import Completion

    class Fails:
        renderer = session.sampler.renderer

        async def sample(self, context, params):
            return Completion((), "error", 0)

    writer = PolicyWriter()
    writer.bind(session)
    session.sampler, kept = Fails(), session.sampler
    try:
        with pytest.raises(RuntimeError, match="sampling failed"):
            session.run(writer.write(ASK, seed=0))
    finally:
        session.sampler = kept
