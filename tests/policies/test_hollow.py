import pytest
import torch

from hone.policies import scores
from hone.policies.adapters import LoRA
from hone.policies.causal_lm import CausalLM
from hone.samplers.decode import cache_keyword
from hone.samplers.prefill import Prefill
from hone.samplers.slots import Slots
from hone.seats import Row
from hone.types import Branch, Segment

MODELS = {
    "llama": ("llama", {}),
    "tied": ("tied", {}),
    "qwen2": ("llama", {"model_type": "qwen2"}),
    "qwen2, tied": ("llama", {"model_type": "qwen2", "tie_word_embeddings": True}),
    "smollm2's shape": ("llama", {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", {}),
    "mixtral": ("mixtral", {}),
}
TREE = Row([
    Branch([Segment("prompt", "given", range(40))]),
    *(Branch([Segment("response", "policy", range(n), train=True)], parent=0) for n in (30, 25, 30)),
])  # fmt: skip


def loaded_and_hollow(tiny_folder, model, dtype="float32", lora=None):
    kind, config = MODELS[model]
    policy = CausalLM(path=tiny_folder(kind, **config), dtype=dtype, lora=lora)
    hollow = policy.hollow(dtype)
    assert policy.model is None  # left as it was
    policy.load(torch.device("cpu"))
    return policy, hollow


@pytest.mark.parametrize("lora", [None, LoRA(rank=4), LoRA(rank=8, targets=["q_proj", "v_proj"])])
@pytest.mark.parametrize("model", ["llama", "tied", "qwen2", "qwen2, tied", "smollm2's shape"])
def test_weights_are_counted_as_the_model_has_them(tiny_folder, model, lora):
    policy, hollow = loaded_and_hollow(tiny_folder, model, lora=lora)
    shape = hollow.shape
    assert shape.parameters == sum(w.numel() for w in policy.model.parameters())
    assert shape.trained == sum(w.numel() for w in policy.parameters())
    assert shape.head == policy.causal_lm.get_output_embeddings().weight.numel()
    assert shape.head_trained == (lora is None)
    assert shape.adapted == (0 if lora is None else 2 * (2 if "q_proj" in lora.targets else 7))


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_of_weights_and_of_masters(tiny_folder, dtype, lora):
    policy, hollow = loaded_and_hollow(tiny_folder, "tied", dtype, lora)
    assert hollow.shape.held == sum(w.numel() * w.element_size() for w in policy.model.parameters())
    masters = [master for weight, master in policy.masters.pairs.values() if weight is not master]
    assert hollow.shape.rounded == sum(master.numel() for master in masters)


@pytest.mark.smollm2
def test_smollm2_has_134_515_008_weights():
    assert CausalLM(path="smollm2-135m").hollow("bfloat16").shape.parameters == 134_515_008


def test_products_and_pairs_by_hand(tiny_folder):
    _, hollow = loaded_and_hollow(tiny_folder, "llama")
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32  # queries, keys and values of half as many heads, output
    assert hollow.shape.products == 2 * (attention + 3 * 32 * 48)
    assert hollow.shape.pairs == 2 * 4 * 4 * 8  # layers, heads, two products of 2 FLOPs, width of a head
    assert hollow.shape.cache == 2 * 2 * 2 * 8  # layers, keys and values, heads, width


@pytest.mark.parametrize("model", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_token_of_the_cache_is_what_slots_allocate(tiny_folder, model, dtype):
    policy, hollow = loaded_and_hollow(tiny_folder, model, dtype)
    with torch.inference_mode():
        [prefix] = Prefill(policy, cache_keyword(policy.backbone))({(1, 2, 3)}, 64).values()
    slots = Slots(5, 7, like=prefix.layers)
    held = sum(b.numel() * b.element_size() for layer in slots.cache.layers for b in (layer.keys, layer.values))
    assert 5 * 7 * hollow.shape.cache * policy.model.dtype.itemsize == held


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
@pytest.mark.parametrize("model", ["llama", "tied", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_for_the_backward_pass_is_what_autograd_keeps(tiny_folder, model, dtype, lora):
    policy, hollow = loaded_and_hollow(tiny_folder, model, dtype, lora)
    own = {w.untyped_storage()._cdata for w in (*policy.model.parameters(), *policy.model.buffers())}
    kept = {}

    def keep(tensor):
        if (storage := tensor.untyped_storage())._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = scores.hidden(policy, policy.encode([TREE]))
    assert hidden.requires_grad
    predicted = hollow.kept(TREE, packed=True)
    assert predicted.total == sum(storage.nbytes() for storage in kept.values())
    assert predicted.layer < predicted.total - predicted.outside < 2 * predicted.layer  # the first keeps positions too
    assert predicted.inputs == 2 * len(TREE) * 32 * policy.model.dtype.itemsize


def test_prompts_are_measured_as_the_policy_reads_them(tiny_folder):
    policy, hollow = loaded_and_hollow(tiny_folder, "llama")
    asked = [[{"role": "user", "content": text}] for text in ("1 + 1", "äöü?")]
    assert hollow.lengths(asked) == [len(policy.renderer.prompt(messages)) for messages in asked]
