import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.planning.memory import Layout, Memory, cache_length
from hone.planning.plan import Planner
from hone.planning.work import Lengths, work
from hone.samplers.slots import Slots

WEIGHTS = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 2 * 261 * 32 + 32
"""Of the tiny Llama: two layers of attention, MLP and two norms; embedding and head; the last norm."""
CACHE = 2 * 2 * 2 * 8
"""Numbers of a token: layers, keys and values, heads, width."""


def phases(config, gear, layout=None):
    return Planner(config, gear).plan(layout).phases


def test_float32_by_hand(tiny_config, gear):
    found = phases(tiny_config(), gear())
    held = {"libraries": 1000.0, "weights": 4.0 * WEIGHTS}
    assert found["load"].device == held | {"reading a layer": 4 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48 + 64)}
    sample = found["sample"].device
    assert sample["moments"] == 8 * WEIGHTS
    assert "master weights" not in sample
    assert sample["cache"] == 6 * (8 + 20) * CACHE * 4  # sequences, prompt and answer, bytes
    assert sample["drawing"] == 6 * 261 * 8
    update = found["update"].device
    steps = 2 * 3 * 20
    assert update["logits"] == 261 * (8 * 16 + 2 * steps * 4 + steps * 4)  # eight at a time; with gradient; kept
    assert phases(tiny_config(), gear(gpu=True))["update"].device["logits"] == 261 * (2 * steps * 4 + steps * 4)
    assert update["gradient of the head"] == 261 * 32 * (4 + 4)
    assert update["gradients"] == (2 * 261 * 32 + 32) * 8  # of one micro-batch the embedding's, which is last
    assert phases(tiny_config(), gear(gpu=True))["update"].device["gradients"] == 0  # what was freed is there for them


def test_bfloat16_keeps_masters_and_offload_takes_them_away(tiny_config, gear):
    found = phases(tiny_config(model={"dtype": "bfloat16"}), gear())["sample"]
    assert found.device["weights"] == 2 * WEIGHTS
    assert found.device["master weights"] == 4 * WEIGHTS
    assert found.host == {}
    away = phases(tiny_config(model={"dtype": "bfloat16", "offload": True}), gear())
    assert away["sample"].host == {"moments": 8 * WEIGHTS, "master weights": 4 * WEIGHTS}
    assert away["update"].host["gradients"] == 4 * WEIGHTS
    assert not away["update"].device.keys() & {"moments", "master weights"}


def test_a_reference_is_a_second_model_unless_adapters_train(tiny_config, gear):
    reading = {"policy_gradient": {"penalties": ["kl_penalty"]}}
    found = phases(tiny_config(objective=reading), gear())
    assert found["reference"].device["reference"] == 4 * WEIGHTS
    with_adapters = phases(tiny_config(objective=reading, model={"lora": {"rank": 2}}), gear())
    assert "reference" in with_adapters
    assert "reference" not in with_adapters["reference"].device


def test_what_is_sampled_meanwhile_is_beside_the_update(tiny_config, gear):
    """The cache and a copy of the weights; with servers the copies that wait for them, and no cache."""
    apart, native = (phases(tiny_config(max_staleness=k), gear(gpu=True)) for k in (0, 2))
    assert native["update"].device["older weights"] == 2 * 4 * WEIGHTS
    cache = apart["sample"].device["cache"]
    assert apart["update"].device["cache"] == cache  # on a GPU the slots stay, all of them, with room to grow,
    assert cache == 64 * 128 * CACHE * 4
    assert native["update"].total == apart["update"].total + 2 * 4 * WEIGHTS + _sampled(apart) - cache
    moving = phases(tiny_config(sampler={"native": {"graphs": False}}), gear(gpu=True))
    assert "cache" not in moving["update"].device  # unless no graphs are captured
    servers = {"vllm_server": {"exchange": "/dev/shm/hone"}}
    waiting = [phases(tiny_config(max_staleness=k, sampler=servers), gear())["update"].device for k in (1, 2)]
    assert [found.get("older weights") for found in waiting] == [None, 4 * WEIGHTS]
    assert "cache" not in waiting[0]
    direct = {"vllm_server": {"transfer": "collective"}}
    on_cpu, on_gpu = (phases(tiny_config(sampler=direct), gear(gpu=gpu))["update"] for gpu in (False, True))
    assert on_cpu.device["copy for servers"] == on_gpu.host["copy for servers"] == 4 * WEIGHTS
    adapted = phases(tiny_config(max_staleness=1, model={"lora": {"rank": 2}}), gear())["update"]
    assert 0 < adapted.device["older weights"] < 4 * WEIGHTS / 4
    engine = phases(tiny_config(max_staleness=1, sampler={"vllm": {"memory": 0.25}}), gear(gpu=True))["update"]
    assert engine.device["engine"] == 0.25e12


def _sampled(found):
    return sum(found["sample"].device[name] for name in ("cache", "cached prompts", "drawing", "reading prompts"))


def test_gradients_of_earlier_micro_batches_are_there_when_the_next_begins(tiny_config, gear):
    found = phases(tiny_config(update={"tokens": 40}), gear())["update"]
    assert found.device["gradients"] == 4 * WEIGHTS


def test_less_is_kept_where_layers_are_recomputed(tiny_config, gear):
    whole, recomputed = (
        phases(tiny_config(model={"gradient_checkpointing": on}), gear())["update"].device["activations"]
        for on in (False, True)
    )
    assert 0.4 * whole < recomputed < 0.9 * whole  # one of two layers, and what enters them


@pytest.mark.parametrize(("context", "response", "most"), [(10, 20, 20), (10, 300, 300), (200, 129, 4096), (7, 1, 64)])
def test_slots_end_as_long_as_predicted(context, response, most):
    slots = Slots(1, context + min(most, 128), like=[])
    for width in range(context + 1, context + response):
        slots.reserve(width)
    assert cache_length(context, response, most) == slots.length


PACKED = 1.1
"""Which groups share a row depends on which there are, so that the fullest row may be a little less full with more."""


@settings(max_examples=15, deadline=None)
@given(
    few=st.integers(0, 10),
    more=st.integers(0, 10),
    sharding=st.sampled_from(["none", "fsdp"]),
    tokens=st.sampled_from([30, 100, 400]),
)
def test_more_devices_never_need_more_memory_each(planned, few, more, sharding, tokens):
    less, much = sorted((2**few, 2**more))
    one, other = (planned(tokens, Layout(devices, sharding)) for devices in (less, much))
    for name, phase in other.items():
        for part in ("weights", "master weights", "moments", "gathered layers", "cache", "cached prompts"):
            assert phase.device.get(part, 0.0) <= one[name].device.get(part, 0.0)
        assert phase.total <= PACKED * one[name].total


@settings(max_examples=15, deadline=None)
@given(small=st.integers(30, 600), large=st.integers(30, 600))
def test_larger_micro_batches_never_need_less_memory(planned, small, large):
    less, much = (planned(tokens, Layout())["update"].device for tokens in sorted((small, large)))
    assert less["activations"] <= PACKED * much["activations"]
    assert less["logits"] <= PACKED * much["logits"]


@settings(max_examples=10, deadline=None)
@given(short=st.integers(1, 300), long=st.integers(1, 300))
def test_longer_answers_never_need_a_smaller_cache(planned, short, long):
    less, much = (planned(400, Layout(), response=length)["sample"].device for length in sorted((short, long)))
    assert less["cache"] <= much["cache"]


@pytest.fixture(scope="module")
def planned(tiny_folder):
    """``planned(tokens, layout, response=20)``: the phases, of a model that is read once."""
    import hone
    from hone.planning import hardware
    from hone.planning.plan import hollow

    config = hone.Config(
        model={"path": tiny_folder("llama"), "dtype": "bfloat16", "head_memory_mb": 1},
        tasks={"inline": {"rows": [{"q": "1", "a": "2"}], "prompt": "{q}", "answer": "{a}"}},
        verifier="exact", prompts=16, siblings=4, sampling={"max_tokens": 300},
    )  # fmt: skip
    gear = hardware.load("cpu")
    model = hollow(config, gear)

    def plan(tokens, layout, response=20):
        config.update.tokens = tokens
        lengths = Lengths((12, 9), response)
        return Memory(config, model, gear, layout).phases(work(config, lengths, devices=layout.devices))

    return plan
