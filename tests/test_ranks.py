"""Gathering over processes: alone, and between two real ones on the CPU."""

import torch
from torch import distributed, multiprocessing

from hone import ranks


def test_alone_it_is_ones_own():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    [found] = ranks.gather(values)
    assert found.tolist() == [1.0, 2.0]
    assert not found.requires_grad
    assert (ranks.several(), ranks.index()) == (False, 0)


def test_a_group_of_one_process_needs_no_collective(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert not ranks.several()
        assert [part.tolist() for part in ranks.gather(torch.tensor([3, 4]))] == [[3, 4]]
    finally:
        distributed.destroy_process_group()


def process(rank, size, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    gathered = {
        "unequal": ranks.gather(torch.arange(3 * (1 - rank), dtype=torch.float32, requires_grad=True)),
        "the other empty": ranks.gather(torch.full((2 * rank,), 7)),
        "all empty": ranks.gather(torch.zeros(0, 4)),
        "two axes": ranks.gather(torch.full((1 + rank, 2), float(rank))),
        "a view": ranks.gather(torch.arange(8.0).view(4, 2)[:, rank]),
        "place": ranks.several() and ranks.index(),
    }
    torch.save(gathered, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_see_the_same_in_order(tmp_path):
    multiprocessing.spawn(process, (2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [one.pop("place") for one in found] == [0, 1]
    assert not any(part.requires_grad for one in found for parts in one.values() for part in parts)
    first, second = ({name: [part.tolist() for part in parts] for name, parts in one.items()} for one in found)
    assert first == second
    assert first == {
        "unequal": [[0.0, 1.0, 2.0], []],
        "the other empty": [[], [7, 7]],
        "all empty": [[], []],
        "two axes": [[[0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]],
        "a view": [[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]],
    }
    assert found[0]["all empty"][0].shape == (0, 4)
