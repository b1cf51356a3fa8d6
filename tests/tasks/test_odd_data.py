"""Data as they come: half files, other encodings, bytes for text. Each is read as what it is, or refused by name."""

import json

import pytest

from hone.tasks import rows
from hone.tasks.files import Files, Hub, Inline


@pytest.fixture(autouse=True)
def offline(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def parquet(tmp_path):
    def write(name, columns):
        import pyarrow
        from pyarrow.parquet import write_table

        path = tmp_path / name
        write_table(pyarrow.table(columns), path)
        return path

    return write


def in_order(path, **settings):
    return Files(path=str(path), prompt="{q}", shuffle=False, repeat=False, **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"q,a,q\n1,2,3\n", r"t\.csv: several columns are named 'q'"),
        ("t.tsv", b"q\ta\t\t\n1\t2\t\t\n", r"t\.tsv: several columns are named ''"),
        ("t.csv", "q,a\nwhy,1\ncafé,2\n".encode("latin1"), r"t\.csv: after line \d: the byte 0xe9 is not UTF-8.*iconv"),
        ("t.csv", "q,a\nwhy,1\n".encode("utf-16"), r"t\.csv: after line 0: the byte 0xff is not UTF-8"),
        ("t.csv", b'q,a\n1,"2\n3,4\n5,6\n', r"t\.csv:4: not CSV: unexpected end of data"),
        ("t.csv", b'q,a\n"G I G" in paint,2\n', r"t\.csv:2: not CSV: .*quotes is quoted, and they are doubled"),
        ("t.csv", b"", r"t\.csv: has no rows"),
        ("t.csv", b"q,a\n", r"t\.csv: has no rows"),
        ("t.jsonl", b"\n\n", r"t\.jsonl: has no rows"),
        ("t.json", b"[]", r"t\.json: has no rows"),
        ("t.jsonl", b'{"q": "ok"}\n{"q": "\\ud83d"}\n', r"t\.jsonl:2: prompt: .*'\\ud83d' stands alone, half of a"),
        ("t.jsonl", b'{"q": [{"role": "user", "content": "\\udc00"}]}', r"t\.jsonl:1: prompt: .*'\\udc00'"),
        ("t.jsonl", b'{"q": 1}\n' + b"[" * 100_000 + b"\n", r"t\.jsonl:2: not JSON: maximum recursion depth"),
        ("t.parquet", b"", r"t\.parquet: not Parquet, or only a part of it: .*0 bytes"),
        ("t.parquet", b"PAR1 and no more", r"t\.parquet: not Parquet, or only a part of it"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        next(in_order(tmp_path / name))


def test_a_lone_surrogate_is_refused_inside_text_too(tmp_path):
    for prompt, place in (("Say {q}.", "prompt: field 'q'"), ("Say {q!j}.", "prompt: field 'q'")):
        source = Inline(rows=[{"q": "\ud800"}], prompt=prompt)
        with pytest.raises(ValueError, match=rf"rows\[0\]: {place}: .*surrogate"):
            next(source)
    with pytest.raises(ValueError, match=r"rows\[0\]: answer: .*surrogate"):
        next(Inline(rows=[{"q": "?", "a": ["\ud800"]}], prompt="{q}", answer="{a}"))


def test_a_cell_of_any_length(tmp_path):
    (tmp_path / "t.csv").write_text(f"q,a\n{'long ' * 100_000},1\n")
    assert len(next(in_order(tmp_path / "t.csv")).prompt[0]["content"]) == 500_000


def test_quotes_in_a_tsv_file_are_text_unless_all_are_those_of_csv(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('q\ta\n"G I G" in paint\t1\na "stop" sign\t2\n')
    assert [task.prompt[0]["content"] for task in in_order(path)] == ['"G I G" in paint', 'a "stop" sign']
    path.write_text('q\ta\n"a ""stop"" sign"\t1\n')
    assert next(in_order(path)).prompt[0]["content"] == 'a "stop" sign'


def test_an_empty_part_of_several_is_no_fault(tmp_path, parquet):
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").write_text('{"q": "?"}\n')
    assert len(list(in_order(tmp_path / "?.jsonl"))) == 1
    parquet("a.parquet", {"q": []})
    with pytest.raises(ValueError, match=r"a\.parquet: has no rows"):
        next(in_order(tmp_path / "a.parquet"))
    parquet("b.parquet", {"q": ["?"]})
    assert len(list(in_order(tmp_path / "?.parquet"))) == 1


def test_no_rows_where_there_is_no_file():
    with pytest.raises(ValueError, match="inline: has no rows"):
        next(Inline(rows=[], prompt="{q}"))


def test_damage_inside_parquet_is_told_with_the_file(tmp_path, parquet):
    path = parquet("t.parquet", {"q": [f"question {i}" for i in range(2000)]})
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(400) + content[600:])
    with pytest.raises(ValueError, match=r"t\.parquet: damaged, or of different columns"):
        next(in_order(path))
    parquet("a.parquet", {"q": ["?"]})
    parquet("b.parquet", {"z": [1]})
    with pytest.raises(ValueError, match=r"a\.parquet, .*b\.parquet: damaged, or of different columns: .*names don't"):
        next(in_order(tmp_path / "[ab].parquet"))


def test_a_row_of_parquet_is_named_by_its_own_file(tmp_path, parquet):
    parquet("a.parquet", {"q": ["?", "?"]})
    parquet("b.parquet", {"q": ["?", None, "?"]})
    with pytest.raises(ValueError, match=r"/b\.parquet: row 1: prompt: neither text"):
        next(in_order(tmp_path / "?.parquet"))


def test_bytes_are_the_text_that_they_hold(parquet):
    columns = {"q": ["how many é?".encode()], "a": [b"1"], "more": [[b"x", b"y"]], "image": [b"\xff"]}
    path = parquet("t.parquet", columns)
    source = in_order(path, answer="{a}", id="{a}", meta=["image"])
    task = next(source)
    assert (task.prompt[0]["content"], task.answer, task.id) == ("how many é?", "1", "1")
    assert task.meta == {"image": b"\xff"}, "in meta they may be anything"
    task = next(Files(path=str(path), prompt="{q} {more} {more!j}", answer="{more}"))
    assert task.prompt[0]["content"] == "how many é? ['x', 'y'] [\"x\", \"y\"]"
    assert task.answer == ["x", "y"]
    for settings in ({"prompt": "{image}"}, {"prompt": "{q} {image}"}, {"prompt": "{q}", "answer": "{image}"}):
        with pytest.raises(ValueError, match=r"row 0: (prompt|answer): .*bytes that are no UTF-8 text"):
            next(Files(path=str(path), **settings))


def test_rows_on_disk_are_checked_before_the_first_task(tmp_path, parquet):
    questions = ["?"] * 3000
    questions[2345] = None
    path = parquet("t.parquet", {"q": questions, "a": [str(i // 2) for i in range(3000)]})
    with pytest.raises(ValueError, match=r"t\.parquet: row 2345: prompt"):
        next(in_order(path))
    with pytest.raises(ValueError, match="names 2 rows '0'"):
        next(in_order(path, id="{a}", limit=100))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in questions))
    with pytest.raises(ValueError, match=r"\(train\): row 2345: prompt"):
        next(Hub(dataset=str(tmp_path / "hub"), prompt="{q}", shuffle=False))


@pytest.mark.parametrize(("bad", "seen"), [(0, True), (999, True), (111, True), (112, False)])
def test_of_a_long_table_on_disk_rows_spread_over_it_are_checked(parquet, monkeypatch, bad, seen):
    """10 of 1000 rows: 0, 111, 222, ... 999."""
    monkeypatch.setattr(rows, "_CHECKED", 10)
    path = parquet("t.parquet", {"q": [None if i == bad else "?" for i in range(1000)]})
    source = in_order(path)
    with pytest.raises(ValueError, match=f"row {bad}: prompt"):
        next(source) if seen else list(source)
    if not seen:
        assert next(in_order(path)).id == "t/0"
