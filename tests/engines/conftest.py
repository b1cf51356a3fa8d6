"""Policies that vLLM's kernels take, small enough to start an engine in two seconds."""

import pytest
from engine_parts import ENGINE, WIDE


@pytest.fixture
def vllm_policy(tiny_policy):
    """``vllm_policy(dtype="float32", kind="llama", **settings)``: loaded, of a width that vLLM takes."""

    def make(dtype="float32", kind="llama", **settings):
        return tiny_policy(dtype, kind=kind, config=WIDE, **settings)

    return make


@pytest.fixture
def vllm_sampler(vllm_policy):
    """``vllm_sampler(policy=None, **settings)``: synced; it is closed after the test."""
    from hone.samplers.vllm_engine import VLLMSampler

    made = []

    def make(policy=None, engine=None, **settings):
        made.append(VLLMSampler(engine=ENGINE | (engine or {}), **settings))
        made[-1].sync(policy or vllm_policy())
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()
