from hone.sharing import REMEMBERED, Lengths, Share
from hone.types import Group, Segment, Task, Trajectory


def task(name, prompt="?"):
    return Task(name, [{"role": "user", "content": prompt}])


def played(name, *lengths):
    made = task(name)
    return Group(made, [Trajectory(made, [Segment("response", "policy", (7,) * n, (-1.0,) * n)]) for n in lengths])


def test_alone_tasks_are_played_in_their_order():
    share = Share([1.0, 5.0, 3.0], room=1)
    assert share.places == [0, 1, 2]
    assert share.another() is None


def test_answers_are_expected_to_be_as_long_as_the_last_ones():
    lengths = Lengths()
    assert lengths.expected([task("a"), task("b")]) == [1.001, 1.001]
    lengths.learn([played("a", 10, 30), played("b", 4)])
    assert lengths.expected([task("a"), task("b"), task("c", "??")]) == [20.001, 4.001, 12.002]
    lengths.learn([played("a", 2)])
    assert lengths.expected([task("a")]) == [2.001]


def test_what_is_remembered_does_not_grow_without_end():
    lengths = Lengths()
    lengths.learn([played(f"{i}", 1) for i in range(REMEMBERED + 5)])
    assert len(lengths._seen) == REMEMBERED
