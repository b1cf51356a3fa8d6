"""Tiny real models and hand-made groups, for every test that needs a policy.

Nothing heavy is imported before a test asks for it: the tests of verifiers must stay free of torch.
"""

import copy
import random
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
from tiny import KINDS, TINY


def pytest_runtest_setup(item):
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # at this size several are slower, by far when the cores are shared
    if item.get_closest_marker("vllm") and not find_spec("vllm"):
        pytest.skip("vLLM is not installed; scripts/setup-vllm-cpu makes an environment with it")
    if item.get_closest_marker("smollm2"):
        from hone.policies.weights import locate

        try:
            locate("smollm2-135m")
        except FileNotFoundError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """One token a byte, whose id it is, and five special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"])
    template = (
        "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=template
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_tokenizer):
    """``tiny_folder(kind, **config) -> str``: one of ``KINDS`` with random weights, and its tokenizer, saved."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    made = {}

    def folder(kind="llama", **config):
        key = (kind, repr(sorted(config.items())))
        if key not in made:
            settings = {**TINY, **KINDS[kind], **config}
            architecture = transformers.AutoConfig.for_model(settings.pop("model_type", kind), **settings)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(architecture)
                for weight in model.parameters():
                    if weight.dim() > 1 and weight.std() < settings["initializer_range"] / 3:
                        torch.nn.init.normal_(weight, std=settings["initializer_range"])
            made[key] = str(tmp_path_factory.mktemp(kind))
            model.save_pretrained(made[key])
            tiny_tokenizer.save_pretrained(made[key])
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny_model_path(tiny_folder):
    """A Llama of two layers, width 32 and 261 tokens."""
    return tiny_folder("llama")


@pytest.fixture(scope="session")
def tiny_policy(tiny_folder):
    """``tiny_policy(dtype="float32", kind="llama", config={}, **settings)``: loaded on the CPU."""
    import torch

    from hone.policies.causal_lm import CausalLM

    def make(dtype="float32", kind="llama", config=None, **settings):
        policy = CausalLM(path=tiny_folder(kind, **(config or {})), dtype=dtype, **settings)
        policy.load(torch.device("cpu"))
        return policy

    return make


@pytest.fixture(scope="session")
def make_group():
    """``make_group(context, lengths, seed=0, **fields)``: random siblings behind one prompt, judged and credited.

    A length that is a tuple makes a trajectory of several turns: trained, given, trained, ... steps.
    """
    from hone.types import Group, Segment, Task, Trajectory

    def make(context=6, lengths=(4, 5), seed=0, *, rewards=None, advantages=None):
        draw = random.Random(seed)

        def steps(n):
            return tuple(draw.randrange(250) for _ in range(n))

        def segment(turn, n):
            if turn % 2:
                return Segment(f"turn {turn}", "given", steps(n))
            logprobs = tuple(-draw.uniform(0.1, 5.0) for _ in range(n))
            return Segment(f"turn {turn}", "policy", steps(n), logprobs, train=True)

        task = Task(f"task {seed}", [{"role": "user", "content": "?"}])
        prompt = Segment("prompt", "given", steps(context))
        trajectories = [
            Trajectory(
                task,
                [
                    prompt,
                    *(segment(turn, n) for turn, n in enumerate((length,) if isinstance(length, int) else length)),
                ],
                reward=rewards[i] if rewards else float(i % 2),
                advantage=advantages[i] if advantages else draw.uniform(-2, 2),
            )
            for i, length in enumerate(lengths)
        ]
        return Group(task, trajectories)

    return make


@pytest.fixture(scope="session")
def score_groups():
    """``score_groups(policy, groups, ...) -> [[logprob, ...], ...]``: by trajectory, through rows and micro-batches."""
    from hone import collate

    def score(policy, groups, *, shares_context=None, packs=None, tokens=10**6, temperature=1.0, read="logprobs"):
        policy = copy.copy(policy)
        policy.share_context = policy.share_context if shares_context is None else shares_context
        policy.packs = policy.packs if packs is None else packs
        found = {}
        for batch in collate.batches(groups, policy, tokens=tokens, temperature=temperature):
            found |= collate.spread(getattr(policy.score(batch), read), batch)
        return [found[i] for i in sorted(found)]

    return score


@pytest.fixture(scope="session")
def rescored(score_groups):
    """``rescored(policy, groups)``: the groups with the policy's own log-probabilities as those of sampling."""
    import torch

    def rescore(policy, groups, temperature=1.0):
        with torch.no_grad():
            scores = iter(score_groups(policy, groups, temperature=temperature))
        for group in groups:
            for trajectory in group:
                values = iter(next(scores))
                trajectory.segments = [
                    replace(s, logprobs=tuple(next(values) for _ in s.actions)) if s.train else s
                    for s in trajectory.segments
                ]
        return groups

    return rescore
