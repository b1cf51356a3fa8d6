"""Settings under which an engine starts in two seconds."""

WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""A model that vLLM's attention on a CPU takes: it wants heads of 32 at least."""
ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
