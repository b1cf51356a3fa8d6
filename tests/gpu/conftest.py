"""What only a CUDA GPU can show; everywhere else all of it is skipped."""

import pytest


def pytest_collection_modifyitems(items):
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.path.parent.name == "gpu":
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture
def on(tiny_folder):
    """``on(device, **settings) -> CausalLM``: one of the tiny models, with heads as wide as kernels for a GPU want."""
    import torch

    from hone.policies.causal_lm import CausalLM

    def load(device, kind="llama", dtype="float32", compile=False, **settings):  # to compile takes half a minute
        shape = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "max_position_embeddings": 2048}
        policy = CausalLM(path=tiny_folder(kind, **shape), dtype=dtype, compile=compile, **settings)
        policy.load(torch.device(device))
        return policy

    return load
