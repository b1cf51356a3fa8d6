"""Grids in whatever form they are written, and nothing that is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.types import Segment, Task, Trajectory
from hone.verifiers.grid import GridVerifier, read_grid, written

GRID = [[1, 0, 2], [3, 3, 3]]
GRIDS = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, 9), min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
    )
)


@pytest.mark.parametrize(
    "text",
    [
        "1 0 2\n3 3 3", "102\n333", "1,0,2\n3,3,3", "| 1 | 0 | 2 |\n| 3 | 3 | 3 |", "[[1, 0, 2], [3, 3, 3]]",
        "[[1,0,2],\n [3,3,3]]", "```\n1 0 2\n3 3 3\n```", "so it is\n\n1 0 2\n3 3 3\n\nas I said",
        "[[1]] and then [[1,0,2],[3,3,3]]",
        "9 9\n9 9\n\n1 0 2\n3 3 3", "<answer>\n1 0 2\n3 3 3\n</answer>", "1 0 2\r\n3 3 3\r\n",
    ],
)  # fmt: skip
def test_forms(judge, text):
    assert judge(GridVerifier(), text, GRID).value == 1


@pytest.mark.parametrize(
    "text",
    [
        "1 0 2\n3 3 4", "1 0 2\n3 3 3\n3 3 3", "1 0 2 3 3 3", "1 3\n0 3\n2 3", "1 0 2\n\n3 3 3",
        "1 0 2\n3 3 3\n\n1 0 2\n3 3 4", "[[1,0,2],[3,3,3]] or [[0]]",
    ],
)  # fmt: skip
def test_others_are_wrong(judge, text):
    assert judge(GridVerifier(), text, GRID).value == 0


@pytest.mark.parametrize("text", ["", "no idea", "1 0 2\n3 3", "[[1, 0], [2]]", "[[10, 0]]", "[" * 9000])
def test_no_grid_is_invalid(judge, text):
    assert judge(GridVerifier(extract="text"), text, [[1, 0], [2, 2]]).parts == {"invalid": 1.0}


def test_what_is_no_rectangle_of_colours_is_none():
    for text in ("no idea", "[[1, 0], [2]]", "[[10, 0]]", "[[true]]", "[" * 9000, "[[1.5]]", "[[[1]]]", "0 " * 31):
        assert read_grid(text) is None


@given(GRIDS)
def test_what_is_written_is_read(grid):
    assert read_grid(written(grid)) == grid
    assert read_grid(json.dumps(grid)) == grid
    task = Task("t", [], json.dumps(grid))
    text = GridVerifier().example(task)
    assert GridVerifier()(task, Trajectory(task, [Segment("r", "policy", (), text=text)])).value == 1


def test_partial_pays_nothing_for_a_grid_of_one_colour(judge):
    right = [[0, 0, 0, 0], [0, 5, 6, 0]]
    verifier = GridVerifier(partial=True)
    assert judge(verifier, written([[0] * 4] * 2), right).value == 0
    assert judge(verifier, written([[0, 0, 0, 0], [0, 5, 0, 0]]), right).value == pytest.approx(0.5)
    assert judge(verifier, written(right), right).value == 1
    assert judge(verifier, written([[0, 5, 6, 0]]), right).value == 0
    assert judge(verifier, written([[7] * 4] * 2), right).value == 0


def test_the_answer_is_the_grid(judge):
    texts = ("1 0 2\n3 3 3", "[[1, 0, 2], [3, 3, 3]]")
    assert {judge(GridVerifier(), text, GRID).answer for text in texts} == {"[[1,0,2],[3,3,3]]"}


@pytest.mark.parametrize("answer", [None, [], [[]], [[1], [1, 2]], [[10]], "x", 5, [["1"]], [[True]]])
def test_a_bad_reference_is_an_error(judge, answer):
    with pytest.raises(ValueError, match="task 't'"):
        judge(GridVerifier(), "1", answer)
