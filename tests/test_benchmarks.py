"""``scripts/benchmark.py``: its arithmetic, by hand; its engines, with tiny models; its tables, from made-up turns."""

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.fixture
def benchmark(tmp_path):
    """``benchmark("step --rounds 1") -> report``: a command as it is typed, that writes to ``tmp_path``."""

    def run(typed):
        command, *arguments = typed.split()
        importlib.import_module("benchmark").main([command, "--output", str(tmp_path), *arguments])
        return json.loads((tmp_path / f"{command}.json").read_text())

    yield run
    sys.modules.pop("benchmark", None)


def test_a_spread_is_the_median_and_the_range():
    from benchmarks.arithmetic import Spread

    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert Spread.of([1.0, 2.0, 4.0, 100.0]).median == 3.0
    assert str(Spread.of([1234.5, 1200.4, 1300.2])) == "1 234 (1 200-1 300)"
    assert str(Spread.of([0.5])) == "0.500"


def test_useful_work_counts_a_context_once_a_group_and_the_head_where_trained():
    from benchmarks.arithmetic import Size, needed_flops, update_flops, useful_tokens

    size = Size(body=100, head=20, cache=8)
    useful = useful_tokens([(10, [3, 4]), (5, [1, 1, 1])])
    assert useful == 10 + 7 + 5 + 3
    assert update_flops(size, useful) == 6 * 120 * 25
    assert needed_flops(size, useful, trained=10) == 6 * (100 * 25 + 20 * 10)


def test_the_floors_of_decoding():
    from benchmarks.arithmetic import Size, decode_floor, prefill_floor

    size = Size(body=100, head=20, cache=8)
    floor = decode_floor(size, 4, context=10, tokens=6, flops=1000.0, copied=500.0, width=2)
    assert floor["arithmetic"] == pytest.approx(6 * 2 * 120 * 4 / 1000)
    assert floor["bandwidth"] == pytest.approx(6 * (120 + 8 * 13 * 4) * 2 / 500)  # 10 and on average 3 new in the cache
    assert prefill_floor(size, 30, flops=1000.0) == pytest.approx(2 * 100 * 30 / 1000)


def test_exponents_and_peaks():
    from benchmarks.arithmetic import exponent, hardware_peak

    assert exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert exponent([1, 10, 100], [2, 200, 20000]) == pytest.approx(2)
    assert hardware_peak("NVIDIA H100 80GB HBM3") == hardware_peak("NVIDIA H200") == 989e12
    assert hardware_peak("a CPU") is None


def test_the_ratio_of_a_step_is_of_the_same_round_and_of_a_token():
    from benchmarks.arithmetic import Size
    from benchmarks.step import over, table

    def turn(engine, round_, seconds, tokens):
        return {
            "engine": engine, "round": round_, "case": "informative", "dtype": "float32", "informative": True,
            "seconds": seconds, "update": seconds / 2, "tokens": tokens, "completions": 4, "prompt": 10,
            "peak": 2**30, "peak_all": 2**31, "device_peak": None,
        }  # fmt: skip

    turns = [
        turn("hone", 1, 10.0, 100), turn("trl", 1, 90.0, 300), turn("hone", 2, 20.0, 100), turn("trl", 2, 40.0, 100),
        turn("hone", 3, 1.0, 100),
    ]  # fmt: skip
    assert over(turns) == pytest.approx([3.0, 2.0])
    turns += [
        {"engine": "limits", "round": r, "case": "informative", "dtype": "float32", "square": 1e4} for r in (1, 2)
    ]
    hone, trl = table(turns, Size(body=100, head=20, cache=8)).rows
    assert hone[6] == "100 (10.0-200)"
    assert trl[7] == "2.50 (2.00-3.00)"
    # Of TRL: 6 x 120 x (10 + 300) / 45 s and 6 x 120 x 110 / 20 s, each over 1e4 a second: 0.496 and 0.396.
    assert trl[8] == "45 %"
    assert hone[9] == "1.00 GiB (2.00 with its processes)"


def test_the_floor_of_a_turn_counts_each_prompt_once():
    from benchmarks.arithmetic import Size
    from benchmarks.sampling import floor

    turn = {"sequences": 2, "tokens_each": 4, "prompts": [10, 20, 30], "dtype": "float32"}
    limits = {"square": 1e3, "step": 1.0, "copied": 1e9}
    assert floor(turn, limits, Size(100, 20, 8)) == pytest.approx((4 * 2 * 120 * 2 + 2 * 100 * 30) / 1e3)
    faster = limits | {"step": 0.1}  # the model's own products ran at 4800 a second
    assert floor(turn, faster, Size(100, 20, 8)) == pytest.approx((4 * 2 * 120 * 2 + 2 * 100 * 30) / 4800)


def test_sizes_are_those_of_the_model(tmp_path):
    from benchmarks import models

    tiny = models.size(models.describe("tiny", tmp_path)["folder"])
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64  # queries and output, keys and values, the three of the MLP
    assert (tiny.body, tiny.head, tiny.cache) == (2 * layer, 512 * 64, 2 * 2 * 2 * 16)
    half = models.size(models.describe("shape:qwen2.5-0.5b", tmp_path)["folder"])
    assert half.weights == pytest.approx(494e6, rel=0.001)
    assert models.size(models.describe("shape:qwen2.5-1.5b", tmp_path)["folder"]).weights == pytest.approx(
        1.54e9, rel=0.005
    )
    with pytest.raises(ValueError, match="only a shape can be changed"):
        models.describe("smollm2-135m", tmp_path, vocab_size=7)


def test_every_id_of_a_shape_has_a_text_of_its_own_and_prompts_have_the_length_asked_for(tmp_path):
    from transformers import AutoTokenizer

    from benchmarks import models, work

    folder = models.describe("tiny", tmp_path)["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len({tokenizer.decode([i]) for i in range(261, 512)}) == 251
    chats = work.messages(3, folder, 200)
    lengths = [len(work.rendered(tokenizer, chat)) for chat in chats]
    assert all(200 <= length < 210 for length in lengths)
    assert len({chat[0]["content"] for chat in chats}) == 3


def test_the_command_is_shown_without_the_paths_of_a_machine():
    from benchmarks.report import command

    typed = ["step", "--output", "/here/it is", "--trl-python", "/there/python", "--case", "long"]
    assert command(typed) == "step --trl-python PATH --case long"
    assert command(["growth", "--quick"]) == "growth --quick"


def test_the_reward_tells_texts_apart():
    from benchmarks.work import by_hash

    values = [by_hash(f"answer {i}") for i in range(100)]
    assert len(set(values)) == 100
    assert all(0 <= value < 1 for value in values)


def test_an_engine_that_ends_gives_its_last_words_and_one_that_is_late_is_ended(tmp_path):
    from benchmarks.engine import Engine, EngineError

    with (
        Engine("sample_hone", {"folder": "/nowhere"}, tmp_path / "log") as engine,
        pytest.raises(EngineError, match="'dtype'"),
    ):
        engine.start()
    with (
        Engine("sample_hone", {"folder": "/nowhere"}, tmp_path / "log") as engine,
        pytest.raises(EngineError, match="over 0 s"),
    ):
        engine.start(timeout=0.2)


def test_a_step_of_a_tiny_model(benchmark):
    whom = "hone trl" if find_spec("trl") else "hone"
    small = "--model tiny --dtype float32 --rounds 1 --warmup 0 --siblings 2 --tokens 4"
    report = benchmark(f"step {small} --case realistic --only {whom}")
    [turn] = [t for t in report["turns"] if t["engine"] == "hone"]
    assert (turn["completions"], turn["updated"]) == (8, 1)  # three of the four groups have no signal
    assert 8 <= turn["tokens"] <= 32
    [(context, responses)] = turn["shape"]
    assert 20 < context < 80
    assert len(responses) == 2
    assert 0 < turn["update"] < turn["seconds"]
    for other in [t for t in report["turns"] if t["engine"] == "trl"]:
        assert (other["completions"], other["prompt"]) == (8, turn["prompt"])
    assert report["tables"][0]["rows"][0][:3] == ["realistic", "float32", "hone"]
    assert not [note for note in report["notes"] if "did not run" in note]


@pytest.mark.slow
def test_sampling_with_a_tiny_model_gives_every_sequence_its_tokens(benchmark, tmp_path):
    small = "--model tiny --dtype float32 --rounds 1 --sequences 3 --tokens 5"
    report = benchmark(f"sampling {small} --engines hone generate")
    tokens = {t["engine"]: t["tokens"] for t in report["turns"] if t["engine"] != "limits"}
    assert tokens == {"hone native": 15, "transformers generate": 15}
    prompts = {tuple(t["prompts"]) for t in report["turns"] if t["engine"] != "limits"}
    assert len(prompts) == 1
    assert [row[2] for row in report["tables"][0]["rows"]][-1] == "*products alone*"
    assert (tmp_path / "sampling.png").stat().st_size > 1000


@pytest.mark.slow
def test_growth_stays_within_its_budget_and_says_what_did_not(benchmark):
    report = benchmark("growth --quick --axes context --most 1 --dtype float32")
    assert [(t["context"], t["useful"]) for t in report["turns"]] == [(n, n + 4 * 16) for n in (64, 256)]
    assert report["tables"][1]["rows"][0][:2] == ["prompt, tokens", "64, 256"]
    late = benchmark("growth --quick --axes model --budget 0.001")
    assert not late["turns"]
    assert "over 0 s" in late["notes"][0]


@pytest.mark.slow
def test_one_device_by_itself(benchmark):
    small = "--model tiny --dtype float32 --rounds 1 --sequences 2 8 --prompts 32 --tokens 8"
    report = benchmark(f"card {small} --groups 2 --context 32 --siblings 3 --response 8 --update-tokens 64 4096")
    sampling, updates = (table["rows"] for table in report["tables"])
    assert [row[1] for row in sampling] == ["2", "8"]
    assert all(float(row[3]) > 0 and row[4].endswith("%") for row in sampling)
    assert [row[:3] for row in updates] == [["2 of 32 + 3 x 8", "112", limit] for limit in ("64", "4096")]
    assert [t["engine"] for t in report["turns"]] == ["limits", "sample", "sample", "update", "update"]
