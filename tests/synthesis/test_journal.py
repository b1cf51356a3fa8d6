import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.synthesis.journal import Journal, append_rows, mend, read_rows, write_rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_what_was_put_is_there_at_once_and_in_the_next_process(tmp_path):
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    assert len(journal) == 0
    assert "a" not in journal
    journal.put("a", {"reply": "line\nline\u2028 \ud800 七"})
    again = Journal(journal.path)
    assert again["a"] == journal["a"]
    journal.put("b", 1)
    assert "b" not in again
    assert len(Journal(journal.path)) == 2


@given(values=st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=5), data=st.data())
def test_a_torn_end_costs_one_line_and_no_other(tmp_path_factory, values, data):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for key, value in values.items():
        journal.put(key, value)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    left = Journal(path)
    kept = whole[:cut].count(b"\n")
    assert {key: left[key] for key in left} == dict(list(values.items())[:kept])
    for key, value in values.items():
        if key not in left:
            left.put(key, value)
    assert path.read_bytes() == whole


def test_a_damaged_line_is_not_thrown_away(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a", "value": 1}\n{"key": "b", "va\n{"key": "c", "value": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        Journal(path)


def test_infinity_is_refused_and_leaves_no_trace(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        journal.put("a", float("inf"))
    assert "a" not in journal
    assert not journal.path.exists() or journal.path.read_text() == ""


def test_rows_are_replaced_whole_and_appended(tmp_path):
    path = tmp_path / "x" / "rows.jsonl"
    assert list(read_rows(path)) == []
    write_rows(path, [{"a": 1}])
    append_rows(path, [{"a": 2}, {"a": "七"}])
    assert list(read_rows(path)) == [{"a": 1}, {"a": 2}, {"a": "七"}]
    write_rows(path, [{"a": 3}])
    assert json.loads(path.read_text()) == {"a": 3}
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_mending_cuts_a_line_that_has_no_end(tmp_path):
    path = tmp_path / "rows.jsonl"
    mend(path)
    assert not path.exists()
    for text, left in {"": "", "x": "", "a\n": "a\n", "a\nb": "a\n", "a\nb\nc": "a\nb\n"}.items():
        path.write_text(text)
        mend(path)
        assert path.read_text() == left
