"""Talking between processes: alone, and between two real ones on the CPU."""

import threading

import pytest
import torch
from torch import distributed, multiprocessing

from hone import ranks


def test_alone_it_is_ones_own():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    [found] = ranks.gather(values)
    assert found.tolist() == [1.0, 2.0]
    assert not found.requires_grad
    assert (ranks.several(), ranks.index(), ranks.count()) == (False, 0, 1)
    assert (ranks.each(lambda: 7), ranks.first(lambda: 8), ranks.summed(1.0, 2.0)) == ([7], 8, [1.0, 2.0])
    with pytest.raises(LookupError, match="here"):
        ranks.each(fails)


def fails():
    raise LookupError("here")


class Odd(Exception):
    """An error that does not survive being sent."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")
        self.lock = threading.Lock()


def raised(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__, str(error), getattr(error, "elsewhere", None)


def says(rank, place, error):
    """Raises in one process alone."""
    if rank == place:
        raise error
    return rank


def test_a_group_of_one_process_needs_no_collective(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert not ranks.several()
        assert [part.tolist() for part in ranks.gather(torch.tensor([3, 4]))] == [[3, 4]]
    finally:
        distributed.destroy_process_group()


def posted(rank):
    """What the second process leaves for the first, which takes it: more than the store takes at a time."""
    if rank:
        ranks.post("much", ["x" * (3 * ranks.PIECE + 5), 7])
        ranks.post("nothing", None)
    ranks.each(lambda: None)
    before = ranks.posted("much"), ranks.posted("nothing"), ranks.posted("other")
    ranks.each(lambda: None)
    found = None if rank else ranks.fetch("much")
    ranks.each(lambda: None)
    return before, found and (len(found[0]), found[1]), ranks.posted("much")


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
        "each": [ranks.each(lambda: rank * 10), ranks.first(lambda: rank + 5), ranks.summed(1.5, rank)],
        "counter": sorted(
            number for taken in ranks.each(lambda: [ranks.take("x"), ranks.take("x")]) for number in taken
        ),
        "left": posted(rank),
        "errors": [
            raised(lambda: ranks.each(lambda: says(rank, 1, LookupError("there")))),
            raised(lambda: ranks.first(lambda: says(rank, 0, Odd("a", "b")))),
            raised(lambda: ranks.each(fails)),
            ranks.each(lambda: "and on"),
        ],
    }
    torch.save(gathered, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_see_the_same_in_order(tmp_path):
    multiprocessing.spawn(process, (2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [one.pop("place") for one in found] == [0, 1]
    assert all(one.pop("each") == [[0, 10], 5, [3.0, 1.0]] and one.pop("counter") == [0, 1, 2, 3] for one in found)
    assert [one.pop("left") for one in found] == [
        ((True, True, False), (3 * ranks.PIECE + 5, 7), False),
        ((True, True, False), None, False),
    ]
    assert [one.pop("errors") for one in found] == [
        [
            ("LookupError", "there", 1),
            ("RuntimeError", "Odd: a and b", None),
            ("LookupError", "here", None),
            ["and on", "and on"],
        ],
        [
            ("LookupError", "there", None),
            ("RuntimeError", "Odd: a and b", 0),
            ("LookupError", "here", 0),  # as the first says
            ["and on", "and on"],
        ],
    ]
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
