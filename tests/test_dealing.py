from hypothesis import given
from hypothesis import strategies as st

from hone.dealing import costliest, dealt


def test_the_costliest_go_to_whoever_has_least():
    assert dealt([3, 9, 4, 4, 1], 2) == [[1, 4], [2, 3, 0]]  # 10 and 11
    assert dealt([1, 1, 1], 2) == [[0, 2], [1]]
    assert dealt([5], 3) == [[0], [], []]
    assert dealt([0, 0, 0, 0], 2) == [[0, 2], [1, 3]]  # what is said to cost nothing is spread too


def test_what_finds_no_room_waits():
    assert dealt([3, 9, 4, 4, 1], 2, room=1) == [[1], [2]]
    assert costliest([3, 9, 4, 4, 1]) == [1, 2, 3, 0, 4]


@given(st.lists(st.floats(0, 1e6)), st.integers(1, 9), st.none() | st.integers(1, 5))
def test_nothing_is_dealt_twice_or_lost(costs, hands, room):
    found = dealt(costs, hands, room)
    assert len(found) == hands
    given = sorted(place for hand in found for place in hand)
    assert len(given) == len(set(given)) == min(len(costs), hands * (room or len(costs)))
    assert given == sorted(costliest(costs)[: len(given)])
    held = [sum(costs[place] for place in hand) for hand in found]
    if room is None and costs:
        assert max(held) <= sum(costs) / hands + max(costs) + 1e-3  # no hand has more than one piece too many
