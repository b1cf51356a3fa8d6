"""Responses cut by the origin of their tokens."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hone.samplers.segments import segments
from hone.types import Segment


def decode(tokens):
    return bytes(tokens).decode(errors="replace")


def test_by_hand():
    assert segments([*b"abWcd"], [-1.0, -2.0, -9.0, -3.0, -4.0], {2, 4}, decode) == (
        Segment("response", "policy", (*b"ab",), (-1.0, -2.0), "ab", train=True),
        Segment("response", "forced", (*b"W",), (), "W"),
        Segment("response", "policy", (*b"c",), (-3.0,), "c", train=True),
        Segment("response", "forced", (*b"d",), (), "d"),
    )


def test_entropies_go_with_what_was_sampled():
    values = ([-1.0, -2.0, -9.0, -3.0], {2}, decode, [0.1, 0.2, 0.9, 0.3])
    assert [part.entropies for part in segments([*b"abWc"], *values)] == [(0.1, 0.2), (), (0.3,)]
    assert segments([*b"ab"], [-1.0, -2.0], (), decode, [0.1, 0.2])[0].entropies == (0.1, 0.2)


def test_a_character_in_two_segments_goes_to_the_second():
    found = segments([*"né".encode()], [0.0] * 3, {2}, decode)
    assert [part.text for part in found] == ["n", "é"]


def test_a_space_that_a_tokenizer_drops_at_the_beginning_is_kept_at_a_cut():
    def strip(tokens):
        return decode(tokens).lstrip(" ")

    assert [part.text for part in segments([*b" a b"], [0.0] * 4, {2, 3}, strip)] == ["a", " b"]


@given(st.text(max_size=12).map(str.encode), st.sets(st.integers(0, 30)))
def test_they_join_to_the_whole(encoded, forced):
    tokens = list(encoded)
    values = [-float(i) for i in range(len(tokens))]
    found = segments(tokens, values, {i for i in forced if i < len(tokens)}, decode)
    assert "".join(part.text for part in found) == encoded.decode()
    assert [token for part in found for token in part.actions] == tokens
    kept = [value for part in found for value in part.logprobs]
    assert kept == [value for i, value in enumerate(values) if i not in forced]
    assert all(part.train == (part.source == "policy") == (len(part.logprobs) == len(part)) for part in found if part)
    assert all(a.source != b.source for a, b in pairwise(found))
