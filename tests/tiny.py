"""The shapes of tiny models: free of torch, for what must not import it."""

VOCABULARY = 261
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # so that positions, masks and windows matter to the scores
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
}
MIXED = ["sliding_attention", "full_attention"]
KINDS = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": False},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "gemma2": {  # two kinds of layers, soft-capping twice, no attention by torch
        "sliding_window": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0
    },
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 8, "query_pre_attn_scalar": 8, "layer_types": MIXED},
    "mistral": {"sliding_window": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 64},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.5},
    "granite": {"logits_scaling": 2.0},
    "cohere": {"logit_scale": 0.5},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "deepseek_v3": {  # its keys are wider than its values
        "kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6,
        "head_dim": 4, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    },
    "mamba": {"state_size": 4},
    "rwkv": {"attention_hidden_size": 32, "context_length": 512},  # takes any mask, and heeds none
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "bloom": {"n_layer": 2, "n_head": 4},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
}  # fmt: skip
"""Model types of transformers, in miniature."""
