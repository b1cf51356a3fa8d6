import json
import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hone.seats import TaskSource
from hone.tasks.files import Files, Hub

BFCL = [
    {
        "id": "simple_0",
        "question": [[{"role": "user", "content": "Area?"}]],
        "function": [{"name": "area", "parameters": {"properties": {"base": {"type": "integer"}}}}],
    },
    {
        "id": "simple_1",
        "question": [[{"role": "user", "content": "Mean?"}]],
        "function": [{"name": "mean", "parameters": {"properties": {"of": {"items": {"type": "float"}}}}}],
    },
]
TRUTH = [
    {"id": "simple_1", "ground_truth": [{"mean": {"of": [[1, 2.5, "x"]], "exact": [True, ""]}}]},
    {"id": "simple_0", "ground_truth": [{"area": {"base": [10], "unit": ["units", ""]}}, {"none": None}]},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def sums(tmp_path):
    return write(tmp_path / "sums.jsonl", [{"q": f"{i}+1?", "a": f"so\n#### {i + 1}"} for i in range(10)])


@pytest.fixture
def offline(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def questions(source, n=None):
    return [task.prompt[0]["content"] for task in islice(source, n)]


def test_maps_question_and_answer(sums):
    source = Files(path=sums, prompt="{q}", answer="{a}", answer_pattern=r"####\s*(.+)$", shuffle=False)
    assert isinstance(source, TaskSource)
    assert iter(source) is source
    task = next(source)
    assert (task.id, task.prompt, task.answer) == ("sums/0", [{"role": "user", "content": "0+1?"}], "1")
    assert task.meta == {}


def test_a_pattern_without_group_is_the_answer(sums):
    assert next(Files(path=sums, prompt="{q}", answer="{a}", answer_pattern=r"\d+", shuffle=False)).answer == "1"


def test_values_keep_their_types(tmp_path):
    path = write(tmp_path / "train.jsonl", [{"nums": [58, 97, 13], "target": 657, "solution": "(13 * 58) - 97"}])
    task = next(
        Files(
            path=path,
            prompt="From {nums} make {target}.",
            answer="{target}",
            meta=["nums", "solution"],
            name="countdown",
        )
    )
    assert task.id == "countdown/0"
    assert task.prompt[0]["content"] == "From [58, 97, 13] make 657."
    assert task.answer == 657
    assert task.meta == {"nums": [58, 97, 13], "solution": "(13 * 58) - 97"}


def test_joined_nested_rows_come_back_exactly_as_written(tmp_path):
    left, right = write(tmp_path / "q.jsonl", BFCL), write(tmp_path / "a.jsonl", TRUTH)
    source = Files(
        path=left,
        join={"path": right, "by": "id"},
        id="{id}",
        prompt="{question[0][0].content} {function!j}",
        answer="{ground_truth}",
        meta={"tools": "{function}", "first": "{function[0].name}"},
        repeat=False,
    )
    tasks = {task.id: task for task in source}
    truth = {row["id"]: row["ground_truth"] for row in TRUTH}
    assert tasks.keys() == truth.keys()
    for row in BFCL:
        task = tasks[row["id"]]
        assert json.dumps(task.answer) == json.dumps(truth[row["id"]])  # True is not 1, and null stands where it stood
        assert json.dumps(task.meta["tools"]) == json.dumps(row["function"])
        assert task.prompt[0]["content"] == f"{row['question'][0][0]['content']} {json.dumps(row['function'])}"
        assert task.meta["first"] == row["function"][0]["name"]


def test_a_field_of_messages_is_the_prompt(tmp_path):
    path = write(tmp_path / "q.jsonl", BFCL)
    assert next(Files(path=path, prompt="{question[0]}", shuffle=False)).prompt == BFCL[0]["question"][0]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("csv", '\ufeffid,note,answer\n007,"a, ""b""\r\nc",NA\n008,,1.50\n'),
        ("tsv", 'id\tnote\tanswer\n007\t"a, ""b""\r\nc"\tNA\n\n008\t\t1.50\n'),
    ],
)
def test_cells_stay_text(tmp_path, suffix, text):
    (tmp_path / f"t.{suffix}").write_text(text, encoding="utf-8", newline="")
    source = Files(path=str(tmp_path / f"t.{suffix}"), prompt="{note}.", answer="{answer}", id="{id}", shuffle=False)
    first, second = islice(source, 2)
    assert (first.id, first.prompt[0]["content"], first.answer) == ("007", 'a, "b"\r\nc.', "NA")
    assert (second.id, second.prompt[0]["content"], second.answer) == ("008", ".", "1.50")


def test_parquet(tmp_path, offline):
    from datasets import Dataset

    rows = [{"chat": [{"role": "user", "content": f"q{i}"}], "answer": i} for i in range(6)]
    for part in range(2):
        Dataset.from_list(rows[3 * part : 3 * part + 3]).to_parquet(str(tmp_path / f"train-{part}.parquet"))
    source = Files(path=str(tmp_path / "train-*.parquet"), prompt="{chat}", answer="{answer}", repeat=False, start=1)
    assert {task.answer: list(task.prompt) for task in source} == {i: rows[i]["chat"] for i in range(1, 6)}
    with pytest.raises(ValueError, match=r"train-0\.parquet.*: row \d: prompt: no 'cat' in the row"):
        next(Files(path=str(tmp_path / "train-*.parquet"), prompt="{cat}"))


def test_json(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([{"q": "a"}, {"q": "b"}]))
    (tmp_path / "object.json").write_text(json.dumps({"canary": "x", "examples": [{"q": "c"}]}))
    assert questions(Files(path=str(tmp_path / "list.json"), prompt="{q}", repeat=False, shuffle=False)) == ["a", "b"]
    assert questions(Files(path=str(tmp_path / "object.json"), prompt="{q}", rows_key="examples"), 1) == ["c"]
    with pytest.raises(ValueError, match=r"rows_key.*examples"):
        next(Files(path=str(tmp_path / "object.json"), prompt="{q}"))
    (tmp_path / "lines.json").write_text('{"q": "a"}\n{"q": "b"}\n')
    with pytest.raises(ValueError, match=r"lines\.json: not JSON.*format: jsonl"):
        next(Files(path=str(tmp_path / "lines.json"), prompt="{q}"))
    assert questions(Files(path=str(tmp_path / "lines.json"), format="jsonl", prompt="{q}", shuffle=False), 1) == ["a"]


def test_several_files_are_one_table(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", [{"q": f"{name}{i}"} for i in range(2)]) for name in "ba"]
    source = Files(path=paths, prompt="{q}", shuffle=False, repeat=False)
    assert [task.id for task in source] == ["b/0", "b/1", "b/2", "b/3"]
    assert questions(Files(path=paths, prompt="{q}", shuffle=False), 5) == ["b0", "b1", "a0", "a1", "b0"]


def test_hub_reads_a_folder_of_the_hubs_layout(tmp_path, offline):
    for split, n in (("train", 4), ("test", 2)):
        write(tmp_path / f"{split}.jsonl", [{"q": f"{split} {i}", "a": str(i)} for i in range(n)])
    source = Hub(dataset=str(tmp_path), split="test", prompt="{q}", answer="{a}", shuffle=False, repeat=False)
    tasks = list(source)
    assert [task.prompt[0]["content"] for task in tasks] == ["test 0", "test 1"]
    assert [task.id for task in tasks] == [f"{tmp_path}/test/0", f"{tmp_path}/test/1"]
    with pytest.raises(ValueError, match=r"\(train\): row \d: answer: no 'b' in the row: there are: q, a"):
        next(Hub(dataset=str(tmp_path), prompt="{q}", answer="{b}"))


def test_each_epoch_is_a_permutation_of_its_own(sums):
    source = Files(path=sums, prompt="{q}")
    epochs = [questions(source, 10) for _ in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert len(set(epochs[0])) == 10
    assert questions(Files(path=sums, prompt="{q}", seed=1), 10) != epochs[0]


def test_ids_do_not_depend_on_the_order(sums):
    shuffled = {task.id: task.prompt for task in Files(path=sums, prompt="{q}", seed=3, repeat=False)}
    assert shuffled == {task.id: task.prompt for task in Files(path=sums, prompt="{q}", shuffle=False, repeat=False)}


def test_global_random_state_is_neither_read_nor_written(sums):
    random.seed(0)
    before, first = random.getstate(), questions(Files(path=sums, prompt="{q}"), 15)
    assert random.getstate() == before
    random.seed(1)
    assert questions(Files(path=sums, prompt="{q}"), 15) == first


def test_slices_of_one_file_are_disjoint_and_keep_row_numbers(sums):
    train = {task.id for task in Files(path=sums, prompt="{q}", limit=7, repeat=False)}
    heldout = {task.id for task in Files(path=sums, prompt="{q}", start=7, seed=5, repeat=False)}
    assert train == {f"sums/{i}" for i in range(7)}
    assert heldout == {f"sums/{i}" for i in range(7, 10)}
    assert len(list(Files(path=sums, prompt="{q}", start=7, limit=99, repeat=False))) == 3


def test_one_pass_ends_and_stays_ended(sums):
    source = Files(path=sums, prompt="{q}", repeat=False)
    assert len(list(source)) == 10
    assert list(source) == []
    resumed = Files(path=sums, prompt="{q}", repeat=False)
    resumed.load_state_dict(source.state_dict())
    assert list(resumed) == []


@given(taken=st.integers(0, 35), shuffle=st.booleans(), seed=st.integers(0, 2))
def test_resume_is_exact(tmp_path_factory, taken, shuffle, seed):
    path = tmp_path_factory.getbasetemp() / "resume.jsonl"
    if not path.exists():
        write(path, [{"q": str(i)} for i in range(9)])
    settings = {"path": str(path), "prompt": "{q}", "shuffle": shuffle, "seed": seed, "start": 1}
    source, resumed = Files(**settings), Files(**settings)
    list(islice(source, taken))
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert list(islice(resumed, 20)) == list(islice(source, 20))


def test_equality_is_of_settings(sums):
    source = Files(path=sums, prompt="{q}")
    next(source)
    assert source == Files(path=sums, prompt="{q}")
    assert source != Files(path=sums, prompt="{q}", seed=1)


def test_nothing_is_read_before_the_first_task(tmp_path):
    source = Files(path=str(tmp_path / "trian.jsonl"), prompt="{q}")
    write(tmp_path / "train.jsonl", [{"q": "a"}])
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"did you mean 'train\.jsonl'"):
            next(source)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        next(Files(path=str(tmp_path / "none" / "train.jsonl"), prompt="{q}"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "q"}, "prompt: 'q' names no field"),
        ({"prompt": "{q}", "answer": "{}"}, "answer: .*doubled"),
        ({"prompt": "{q}", "meta": {"x": "y"}}, "meta.x: 'y' names no field"),
        ({"prompt": "{q}", "answer_pattern": "x"}, "answer_pattern: there is no answer"),
        ({"prompt": "{q}", "answer": "{a}", "answer_pattern": "("}, "not a regular expression"),
        ({"prompt": "{q}", "answer": "{a}", "answer_pattern": "(a)(b)"}, "2 groups"),
        ({"prompt": "{q}", "limit": 0}, "limit"),
        ({"prompt": "{q}", "strat": 3}, "strat"),
        ({"prompt": "{q}", "path": []}, "path: no files"),
    ],
)
def test_wrong_settings_are_refused_when_made(settings, message):
    with pytest.raises(ValidationError, match=message):
        Files(**{"path": "none.jsonl"} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{qestion}"}, r"t\.jsonl:1: prompt: no 'qestion' in the row: did you mean 'question'"),
        ({"prompt": "{question}", "answer": "{n}"}, r"t\.jsonl:4: answer: no 'n' in the row"),
        ({"prompt": "{question}", "meta": ["n"]}, r"t\.jsonl:4: meta\.n: no 'n'"),
        ({"prompt": "{question}", "answer": "{a}", "answer_pattern": r"\d"}, r"t\.jsonl:3: answer: .*is not in 'x'"),
        ({"prompt": "{question}", "answer": "{a}", "answer_pattern": r"x|(\d)"}, r"t\.jsonl:3: answer"),
        ({"prompt": "{tags}"}, r"t\.jsonl:1: prompt: neither text nor a list of messages"),
        ({"prompt": "{chat}"}, r"t\.jsonl:1: prompt: .*assistant's turn"),
        ({"prompt": "{question}", "id": "{a}"}, "id: '{a}' names 2 rows '1'"),
        ({"prompt": "{question}", "start": 3}, "start=3 leaves none of its 3 rows"),
    ],
)
def test_every_row_is_checked_before_the_first_task(tmp_path, settings, message):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = [
        {"question": "1", "a": "1", "n": 1, "tags": [], "chat": chat},
        {"question": "2", "a": "x", "n": 1},
        {"question": "3", "a": "1"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join([json.dumps(lines[0]), "", *map(json.dumps, lines[1:])]))
    source = Files(path=str(tmp_path / "t.jsonl"), **settings)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            next(source)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", b'{"q": 1}\n{"q": \n', r"t\.jsonl:2: not JSON"),
        ("t.jsonl", b'{"q": 1}\n{"q": "\xff"}\n', r"t\.jsonl:2: not JSON: .*utf-8"),
        ("t.jsonl", b'["q"]\n', r"t\.jsonl:1: a row is an object with named fields, not list"),
        ("t.csv", b"q,a\n1,2\n3\n", r"t\.csv:3: 1 cells under a header of 2: q, a"),
        ("t.txt", b"q\n", r"cannot tell the format by suffix \['txt'\]"),
    ],
)
def test_unreadable_files_are_refused_by_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        next(Files(path=str(tmp_path / name), prompt="{q}"))


@pytest.mark.parametrize(
    ("right", "message"),
    [
        ([{"id": "a", "x": 1}], r"l\.jsonl:2: id='b' has no partner"),
        ([{"id": "a"}, {"id": "b"}, {"id": "a"}], r"r\.jsonl:3: id='a' again, after .*r\.jsonl:1"),
        ([{"id": "a"}, {"idd": "b"}], r"r\.jsonl:2: no field 'id' to join by; did you mean 'idd'"),
        ([{"id": ["a"]}], r"r\.jsonl:1: rows cannot be joined by 'id', which is a list"),
        ([{"id": "a", "q": "?"}, {"id": "b"}], r"l\.jsonl:1: the joined file has another value of q"),
    ],
)
def test_joins_that_do_not_fit_are_refused(tmp_path, right, message):
    left = write(tmp_path / "l.jsonl", [{"id": "a", "q": "1"}, {"id": "b", "q": "2"}])
    join = {"path": write(tmp_path / "r.jsonl", right), "by": "id"}
    with pytest.raises(ValueError, match=message):
        next(Files(path=left, prompt="{q}", join=join))


def test_inline_rows_are_tasks_as_they_stand():
    from hone.tasks.files import Inline

    source = Inline(
        rows=[{"q": "2 + 2 =", "a": [4]}, {"q": "3 + 3 =", "a": [6]}], prompt="{q}", answer="{a}", shuffle=False
    )
    first, second, again = next(source), next(source), next(source)
    assert (first.id, first.prompt[0]["content"], first.answer) == ("inline/0", "2 + 2 =", [4])
    assert (second.answer, again.id) == ([6], "inline/0")
    with pytest.raises(ValueError, match=r"rows\[0\]"):
        next(Inline(rows=[{"q": "2 + 2 ="}], prompt="{question}"))
