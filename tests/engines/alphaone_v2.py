"""AlphaOne in vLLM's model runner V2, on a CPU: that runner's kernels are Triton's, which interprets them here.

    python alphaone_v2.py MODEL    prints what was asked, and the tokens that came

vLLM takes Triton on a CPU only if there is a backend of that name; interpreted kernels need none.
"""

import json
import os
import sys

os.environ |= {
    "VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip

SETTINGS = {
    "wait": "Wa", "slow": [*"LMNOPQRSTUVWXY"], "end": "E", "delimiters": [chr(byte) for byte in range(32, 127)],
    "alpha": 1.0, "schedule": "constant", "probability": 0.7,
}  # fmt: skip
"""A random model says what matters often enough."""


class Interpreter:
    """Stands for a driver."""

    @staticmethod
    def is_active() -> bool:
        return True


def main(model: str) -> None:
    import triton.backends

    triton.backends.backends["cpu"] = triton.backends.Backend(compiler=None, driver=Interpreter)
    from vllm import LLM, SamplingParams

    llm = LLM(
        model, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=3, kv_cache_memory_bytes=64 << 20,
        logits_processors=["hone.papers.alphaone_vllm:AlphaOneV2"],
    )  # fmt: skip
    assert llm.llm_engine.vllm_config.use_v2_model_runner
    asked = [{"seed": i, "max_tokens": 25 + 5 * (i % 4), "temperature": 2.0, "ignore_eos": True} for i in range(9)]
    extra = [{"alphaone": SETTINGS | {"n_think": 10 + 2 * i}} if i % 3 else None for i in range(9)]
    params = [SamplingParams(**own, extra_args=more) for own, more in zip(asked, extra, strict=True)]
    prompts = [{"prompt_token_ids": [(7 * i + j) % 250 for j in range(3 + i)]} for i in range(9)]
    made = llm.generate(prompts, params, use_tqdm=False)
    rows = [[own, more, list(one.outputs[0].token_ids)] for own, more, one in zip(asked, extra, made, strict=True)]
    print("\n" + json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
