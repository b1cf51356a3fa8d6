"""What an engine beside the policy is given: weights as a saved checkpoint has them, and the outline of a model."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from hone.policies.adapters import merged
from hone.policies.causal_lm import CausalLM


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3", "gpt2", "mixtral", "gpt_oss"])
def test_names_and_values_are_those_of_a_saved_checkpoint(kind, tiny_policy, tiny_folder):
    policy = tiny_policy(kind=kind)
    given, saved = dict(policy.weights()), load_file(f"{tiny_folder(kind)}/model.safetensors")
    assert saved.keys() <= given.keys()
    assert given.keys() - saved.keys() <= {"lm_head.weight"}  # where it is tied
    for name, weight in saved.items():
        assert torch.equal(given[name], weight)


def test_adapters_are_merged_and_leave_the_policy_as_it_is(tiny_policy, tiny_folder):
    policy = tiny_policy(lora={"rank": 4}, dtype="bfloat16")
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    policy.advance()
    before, expected = policy.fingerprint(), merged(policy.model).state_dict()
    given, base = dict(policy.weights()), load_file(f"{tiny_folder()}/model.safetensors")
    assert given.keys() == expected.keys()
    for name, weight in given.items():
        assert torch.equal(weight, expected[name].bfloat16())
    adapted = [name for name in base if not torch.equal(base[name].bfloat16(), given[name])]
    assert len(adapted) == 2 * 7  # the linear layers of both blocks
    assert policy.fingerprint() == before


@pytest.mark.parametrize("loaded", [True, False])
def test_the_outline_names_architecture_and_tokenizer(loaded, tiny_policy, tiny_model_path, tmp_path):
    policy = tiny_policy(random_weights=1) if loaded else CausalLM(path=tiny_model_path)
    policy.outline(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["LlamaForCausalLM"]
    assert AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"] == [97, 98]
    assert not list(tmp_path.glob("*.safetensors"))
