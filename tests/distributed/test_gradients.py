"""The gradient is the same on 1, 2 and 4 processes, whichever engine brings it together."""

from dataclasses import replace

import pytest
import torch

from hone.types import Group

SMALL = {"initializer_range": 0.05}  # larger weights blow up the rounding of float32, which no layout can help


def reinforced(**parts):
    return {"policy_gradient": parts}


def high_entropy(**settings):
    return reinforced(weights=[{"high_entropy": settings}])


@pytest.fixture(scope="session")
def cases(make_group, tiny_folder, tmp_path_factory):
    """Everything that an update may meet, in a file."""
    uneven = [
        make_group(9, (3, 12, (2, 4, 5), 1), seed=1),
        make_group(3, (7,), seed=2),
        make_group(6, (2, 2), seed=3, advantages=[0.0, 0.0]),  # no signal
        make_group(14, (5, 5, (1, 2, 3, 2)), seed=4),
        make_group(1, (9, 2), seed=5),
    ]
    nothing = make_group(5, (3, 3), seed=6)
    for trajectory in nothing:
        trajectory.withdraw()
    lonely = [make_group(3, (7,), seed=7), nothing]  # for one process; the others have none
    alike = Group(uneven[0].task, [replace(uneven[0].trajectories[1], advantage=a) for a in (1.0, -2.0, 3.0, 0.5)])
    model = {"path": tiny_folder("llama", **SMALL), "dtype": "float32"}
    tied, experts, masked = (
        {"path": tiny_folder(kind, **SMALL), "dtype": "float32"} for kind in ("tied", "mixtral", "gemma2")
    )
    kl, bonus = {"kl_penalty": {"coefficient": 0.1}}, {"entropy_bonus": {"coefficient": 0.01}}

    def case(objective="policy_gradient", groups=uneven, policy=model, reference=False, **update):
        return {"objective": objective, "groups": groups, "policy": policy, "reference": reference, "update": update}

    made = {
        "plain": case(),
        "small pieces": case(tokens=20),
        "tied": case(policy=tied),
        "experts": case(policy=experts, tokens=40),
        "masked": case(policy=masked, tokens=40),
        "by trajectory": case(reinforced(surrogate="gspo", reduction="sequence_mean")),
        "bonus": case(reinforced(penalties=[bonus], reduction={"constant": {"length": 9}})),
        "lonely": case(groups=lonely),
        "off-policy": case(minibatches=2, epochs=2, tokens=40),
        "a mini-batch of nothing": case(groups=[nothing, *lonely], minibatches=3),
        "reference": case(reinforced(penalties=[kl], weights=["truncated_importance"]), reference=True, epochs=2),
        "entropy batch": case(high_entropy(keep=0.2), tokens=25),
        "entropy ties": case(high_entropy(keep=0.3), groups=[alike, lonely[0]], tokens=25),
        "entropy lonely": case(high_entropy(keep=0.2), groups=lonely),
        "entropy response": case(high_entropy(pool="response", keep=0.5, side="random")),
        "entropy micro-batch": case(high_entropy(pool="micro_batch", keep=0.5), tokens=1),  # each trajectory is one
        "entropy random": case(high_entropy(side="random"), tokens=25),
        "recomputed": case(policy=model | {"gradient_checkpointing": True, "head_memory_mb": 1}),
        "lora": case(reinforced(penalties=[kl]), policy=model | {"lora": {"rank": 4}}, reference=True, epochs=2),
        "host": case(policy=model | {"offload": True}),
        "rounded": case(policy=model | {"dtype": "bfloat16"}),
    }  # fmt: skip
    made["plain"]["whole"] = made["lora"]["whole"] = True  # also the gradient that the guard looks at
    folder = tmp_path_factory.mktemp("cases")
    torch.save(made, folder / "cases.pt")
    return folder


@pytest.fixture(scope="session")
def alone(cases, processes):
    return processes("gradients", 1, cases, engine="ddp", places=[])[1][0]


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("n", "engine"),
    [
        (2, "ddp"),
        pytest.param(4, "ddp", marks=pytest.mark.slow),
        (2, "fsdp"),
        pytest.param(4, {"fsdp": {"replicas": 2}}, marks=pytest.mark.slow),
        pytest.param(4, "fsdp", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_gradient_is_that_of_one_process(n, engine, cases, alone, processes):
    _, found = processes("gradients", n, cases, engine=engine, places=[])
    assert [one.pop("place") for one in found] == list(range(n))
    off = {True: 0.0, False: 0.0}
    for name, first in found[0].items():
        wanted = alone[name]
        assert len(first["gradients"]) == len(wanted["gradients"]) > 0, name
        exact = name != "rounded"  # bfloat16 rounds what is summed
        worst = max(map(distance, first["gradients"], wanted["gradients"]))
        off[exact] = max(off[exact], worst)
        assert worst < (1e-6 if exact else 2e-2), (name, worst)
        assert first["metrics"] == pytest.approx(wanted["metrics"], rel=1e-5, abs=1e-6 if exact else 1e-2), name
        for other in found[1:]:
            assert other[name]["metrics"] == first["metrics"], name
            assert torch.equal(other[name]["weights"], first["weights"]), name
    print(f"\n{n} processes, {engine}: off by at most {off[True]:.1e} in float32, {off[False]:.1e} in bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_compiled_layers_are_sharded_like_others(engine, cases, alone, processes, tmp_path):
    plain = torch.load(cases / "cases.pt", weights_only=False)["plain"]
    torch.save({"compiled": plain | {"policy": plain["policy"] | {"compile": True}}}, tmp_path / "cases.pt")
    _, found = processes("gradients", 2, tmp_path, engine=engine, places=[])
    for one in found:
        gradients = one["compiled"]["gradients"]
        assert max(map(distance, gradients, alone["plain"]["gradients"])) < 1e-6


SPLIT = [
    "plain", "small pieces", "tied", "experts", "by trajectory", "lonely", "off-policy", "a mini-batch of nothing",
    "reference", "entropy batch", "entropy ties", "entropy response", "recomputed", "lora", "host", "rounded",
]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "size", "engine"),
    [
        (2, 2, "ddp"),
        pytest.param(2, 2, "fsdp", marks=pytest.mark.slow),
        pytest.param(4, 2, "ddp", marks=pytest.mark.slow),
        pytest.param(4, 2, {"fsdp": {"replicas": 2}}, marks=pytest.mark.slow),
        pytest.param(4, 4, "fsdp", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_so_it_is_where_rows_lie_over_processes(n, size, engine, cases, alone, processes, tmp_path):
    every = torch.load(cases / "cases.pt", weights_only=False)
    for case in every.values():
        case["update"]["sequence_parallel"] = size
    torch.save({name: every[name] for name in SPLIT}, tmp_path / "cases.pt")
    _, found = processes("gradients", n, tmp_path, engine=engine, places=[])
    for name in SPLIT:
        first, wanted = found[0][name], alone[name]
        if n == size:  # each micro-batch is that of one process
            assert first["widths"] == [-(-width // size) for width in wanted["widths"]], name
        exact = name != "rounded"
        assert len(first["gradients"]) == len(wanted["gradients"]) > 0, name
        assert max(map(distance, first["gradients"], wanted["gradients"])) < (1e-6 if exact else 2e-2), name
        assert first["metrics"] == pytest.approx(wanted["metrics"], rel=1e-5, abs=1e-6 if exact else 1e-2), name
        for other in found[1:]:
            assert other[name]["metrics"] == first["metrics"], name
            assert torch.equal(other[name]["weights"], first["weights"]), name
        for one in found if wanted["whole"] is not None else ():  # under fsdp a multiple
            assert distance(*(w / w.norm() for w in (one[name]["whole"], wanted["whole"]))) < 1e-6, name
