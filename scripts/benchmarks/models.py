"""The models that are measured: those that hone finds by name, and shapes with random weights, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.arithmetic import Size

SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
QWEN = {"model_type": "qwen2", "vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": SMOLLM2 | {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "shape:135m": SMOLLM2,
    "shape:qwen2.5-0.5b": QWEN | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    },
    "shape:qwen2.5-1.5b": QWEN | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    },
}  # fmt: skip
"""Their weights are random, drawn from seed 0 by whoever loads them."""
END, PAD = 256, 257
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def describe(name: str, under: Path, **changes: Any) -> dict[str, Any]:
    """What every engine is told of the model: its ``folder``, and whether its weights are ``random``.

    Args:
        name: A key of :data:`SHAPES`, or what hone's ``model.path`` takes.
        under: Where the folder of a shape is made.
        changes: Of a shape's configuration.
    """
    if name in SHAPES:
        suffix = "".join(f"-{key}-{value}" for key, value in changes.items())
        folder = under / (name.replace(":", "-") + suffix)
        write(SHAPES[name] | changes, folder)
        return {"folder": str(folder), "random": True}
    if changes:
        raise ValueError(f"--model {name}: only a shape can be changed; there are {', '.join(SHAPES)}")
    from hone.policies.weights import locate

    return {"folder": locate(name), "random": False}


def write(shape: dict[str, Any], folder: Path) -> None:
    """A configuration, and a tokenizer of one token a byte that knows a text for every id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    names = [*bytes_to_unicode().values(), *special]
    names += [f"<t{i}>" for i in range(len(names), shape["vocab_size"])]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    ends = {"eos_token_id": END, "pad_token_id": PAD, "bos_token_id": None}
    limit = {"max_position_embeddings": 32768}
    AutoConfig.for_model(**limit, **ends, **shape).save_pretrained(folder)
    GenerationConfig(**ends).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    ).save_pretrained(folder)


def linear_shapes(folder: str) -> tuple[dict[tuple[int, int], int], tuple[int, int]]:
    """(out, in) of the linear layers with how often each is there, and of the head; no weights are made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    head = model.get_output_embeddings()
    found: dict[tuple[int, int], int] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            shape = (module.out_features, module.in_features)
            found[shape] = found.get(shape, 0) + 1
    return found, tuple(head.weight.shape)


def size(folder: str) -> Size:
    """The model's size, by its configuration."""
    from transformers import AutoConfig

    layers, (rows, columns) = linear_shapes(folder)
    config = AutoConfig.from_pretrained(folder).get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Size(
        body=sum(count * out * into for (out, into), count in layers.items()),
        head=rows * columns,
        cache=2 * config.num_hidden_layers * config.num_key_value_heads * width,
    )


def load(settings: dict[str, Any], dtype: str) -> Any:
    """The plain transformers model: saved weights, or random ones from seed 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = getattr(torch, dtype)
    if not settings["random"]:
        model = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=kind)
    else:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(settings["folder"]), dtype=kind)
    return model.to(settings["device"])
