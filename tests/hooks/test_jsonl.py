import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hone.hooks.jsonl import append, cut, plain


def refuse(constant: str) -> None:
    raise AssertionError(f"not strict JSON: {constant}")


def read(path: Path) -> list[dict]:
    """As a strict reader would: lines end with a line feed only, and there is no NaN."""
    return [json.loads(line, parse_constant=refuse) for line in path.read_bytes().decode().split("\n")[:-1]]


def test_values_that_json_lacks_become_plain(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    row = {
        "nan": math.nan,
        "inf": [math.inf, {"x": -math.inf}],
        "numpy": np.float32(0.5),
        "numpy nan": np.float64("nan"),
        "tensor": torch.tensor([1, 2]),
        "true": True,
        3: (1, None),
        "set": {7},
        "object": Path("a"),
        "complex": 1j,
    }
    append(path, [row])
    assert read(path) == [
        {
            "nan": None,
            "inf": [None, {"x": None}],
            "numpy": 0.5,
            "numpy nan": None,
            "tensor": [1, 2],
            "true": True,
            "3": [1, None],
            "set": "{7}",
            "object": "a",
            "complex": "1j",
        }
    ]


@pytest.mark.parametrize("text", ["λ ✓ 漢字 😀", "one\u2028line\u0085only\r\n", "\x00\x1b", 'a "\\" b', "\ud800 alone"])
def test_any_text_survives_on_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, [{"text": text}, {"text": "next"}])
    assert [row["text"] for row in read(path)] == [text, "next"]


def test_append_adds_to_what_is_there_and_empty_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, [{"step": 1}])
    append(path, [])
    append(path, [{"step": 2}])
    assert read(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("torn", ["", '{"step": 3, "x": "half', "{", '{"step": 3}'])
def test_cut_drops_later_steps_and_a_torn_end(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, [{"step": 1}, {"step": 2}, {"step": 2, "é": "é"}, {"step": 3}])
    with path.open("a") as file:
        file.write(torn)
    cut(path, 3)
    append(path, [{"step": 3, "again": True}])
    assert read(path) == [{"step": 1}, {"step": 2}, {"step": 2, "é": "é"}, {"step": 3, "again": True}]


def test_cut_repairs_a_torn_line_of_a_step_that_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, [{"step": 1}])
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    cut(path, 5)
    assert read(path) == [{"step": 1}]


def test_cut_refuses_to_throw_away_a_damaged_line_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\noops\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2 is not JSON"):
        cut(path, 9)
    assert path.read_text().count("\n") == 3


def test_cut_of_a_missing_file_makes_none(tmp_path: Path) -> None:
    cut(tmp_path / "none.jsonl", 1)
    assert not list(tmp_path.iterdir())


def test_plain_keeps_what_is_plain() -> None:
    value = {"a": [1, 2.5, "x", None, False]}
    assert plain(value) == value
