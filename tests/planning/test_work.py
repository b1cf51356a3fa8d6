import pytest

from hone.planning import flops
from hone.planning.memory import Layout, Memory
from hone.planning.plan import Planner, hollow
from hone.planning.work import Lengths, work


def test_rows_and_micro_batches_are_those_of_the_update(tiny_config):
    config = tiny_config(prompts=4, siblings=3, update={"tokens": 150})
    found = work(config, Lengths((10,), 20))
    [mini] = found.minibatches
    assert [(m.tokens, m.trained) for m in mini] == [(140, 120), (140, 120)]  # 2 x (10 + 3 x 20): a third would not fit
    own = 20 * 10 + 20 * 21 // 2
    assert mini[0].pairs == 2 * (10 * 11 // 2 + 3 * own)
    assert found.sequences == 12
    assert found.contexts == 40


def test_answers_are_spread_around_their_mean():
    assert Lengths((1,), 20).spread(3) == [20, 20, 20]
    assert sorted(Lengths((1,), 20, longest=30).spread(5)) == [10, 15, 20, 25, 30]
    assert sorted(Lengths((1,), 3, longest=300).spread(3)) == [1, 3, 5]
    assert Lengths((1,), 20, longest=30).spread(1) == [20]
    assert sum(Lengths((1,), 50, longest=64).spread(8)) == 400


def test_minibatches_and_epochs(tiny_config):
    found = work(tiny_config(prompts=4, update={"minibatches": 2, "epochs": 3}), Lengths((10,), 20))
    assert [len(mini) for mini in found.minibatches] == [1, 1]
    assert found.epochs == 3
    assert not found.on_policy
    assert work(tiny_config(), Lengths((10,), 20)).on_policy


def test_groups_are_dealt_out_to_devices(tiny_config):
    found = work(tiny_config(prompts=10), Lengths((10,), 20), devices=4)
    assert found.prompts == 3  # of the one that has most
    assert found.sequences == 9


def test_devices_that_compute_rows_together_have_a_part_of_them(tiny_config, gear):
    config = tiny_config(prompts=4, update={"sequence_parallel": 2, "tokens": 80})
    found = work(config, Lengths((10,), 20), devices=4)  # two pairs, each with two of the prompts
    [minis] = found.minibatches
    assert [(m.tokens, m.trained) for m in minis] == [(35, 30)] * 2  # of 10 + 3 x 20
    assert found.sequences == 3  # sampling is dealt out to each
    gear = gear()
    planner = Planner(config, gear, prompt=10, response=20)
    kept = Memory(config, planner.hollow, gear, Layout(4)).kept(minis[0])
    [row] = minis[0].rows
    assert kept.total == pytest.approx(planner.hollow.kept(row, packed=not gear.gpu).total / 2, abs=1)
    with pytest.raises(ValueError, match="sequence_parallel: 2: 3 devices are no multiple"):
        work(config, Lengths((10,), 20), devices=3)
    config.update.sequence_parallel = 3
    with pytest.raises(ValueError, match="sequence_parallel: 3: the model has 4 heads of queries and 2 of keys"):
        Planner(config, gear, prompt=10, response=20).plan(Layout(3))


def test_what_the_gate_drops_is_sampled_and_not_trained(tiny_config):
    found = work(tiny_config(prompts=4), Lengths((10,), 20), kept=1, rounds=2)
    assert found.sequences == 24
    assert sum(m.trained for mini in found.minibatches for m in mini) == 3 * 20


def test_prompts_are_measured_by_the_tokenizer_and_the_source_stays_where_it_is(tiny_config, gear):
    config = tiny_config()
    planner = Planner(config, gear())
    assert planner.lengths == Lengths((8,) * 32, 20)  # the source begins anew
    assert next(config.tasks).prompt[-1]["content"] == "12345"


def test_flops_of_an_update_by_hand(tiny_config, gear):
    config = tiny_config()
    shape = hollow(config, gear()).shape
    of_step = work(config, Lengths((10,), 20))
    found = flops.update(shape, of_step, keep=10**6, recomputed=False, passes=0)
    assert found.products == 6 * shape.products * 140
    assert found.head == 6 * 261 * 32 * 120
    own = 20 * 10 + 20 * 21 // 2
    assert found.attention == pytest.approx(3.5 * shape.pairs * 2 * (55 + 3 * own))
    again = flops.update(shape, of_step, keep=0, recomputed=True, passes=1)
    assert again.products == 10 * shape.products * 140  # forward twice more
    assert again.head == (6 + 2 + 2) * 261 * 32 * 120


def test_frozen_weights_need_no_gradient_of_their_own(tiny_config, gear):
    config = tiny_config(model={"lora": {"rank": 2}})
    shape = hollow(config, gear()).shape
    found = flops.update(shape, work(config, Lengths((10,), 20)), keep=10**6, recomputed=False, passes=0)
    assert 4 * shape.products * 140 < found.products < 5 * shape.products * 140
    assert found.head == 4 * 261 * 32 * 120


def test_flops_of_sampling_by_hand(tiny_config, gear):
    shape = hollow(tiny_config(), gear()).shape
    found = flops.sampling(shape, work(tiny_config(), Lengths((10,), 20)))
    assert found.products == 2 * shape.products * (2 * 10 + 6 * 20)
    assert found.head == 2 * 261 * 32 * 120
