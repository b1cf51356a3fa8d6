import logging

import pytest
from synthesis_parts import Player, Scripted

from hone.synthesis.journal import Journal
from hone.synthesis.replies import PATIENCE, Outage, Replies


def request(text, attempt=1):
    return [{"role": "user", "content": text}], attempt


def replies(tmp_path, writer, seed=0):
    return Replies(Player(), Journal(tmp_path / "journal.jsonl"), writer, seed)


def test_replies_come_by_name_and_are_paid_for_once(tmp_path):
    writer = Scripted(lambda text, number: f"{text}{number}")
    asked = {"a": request("A"), "b": request("B"), "again": request("A", 2)}
    first = replies(tmp_path, writer).ask(asked)
    assert first.keys() == asked.keys()
    assert first["b"] == "B0"
    assert {first["a"], first["again"]} == {"A0", "A1"}
    assert replies(tmp_path, writer).ask(asked) == first
    assert writer.calls.total() == 3


def test_seeds_differ_between_requests_and_attempts_and_runs(tmp_path):
    writer = Scripted(lambda text, number: "x")
    asked = {"a": request("A"), "b": request("B"), "again": request("A", 2)}
    replies(tmp_path / "1", writer).ask(asked)
    replies(tmp_path / "2", writer, seed=1).ask(asked)
    assert len({seed for _, seed in writer.read}) == 6
    first = sorted(seed for _, seed in writer.read[:3])
    writer.read.clear()
    replies(tmp_path / "3", writer).ask(asked)
    assert sorted(seed for _, seed in writer.read) == first


def test_another_writer_is_asked_anew(tmp_path):
    writer, other = Scripted(lambda text, number: "one"), Scripted(lambda text, number: "other")
    other.name = "other"
    replies(tmp_path, writer).ask({"a": request("A")})
    assert replies(tmp_path, other).ask({"a": request("A")}) == {"a": "other"}


def test_a_failure_is_told_and_not_kept(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "hone")
    writer = Scripted(lambda text, number: ConnectionError("refused") if text == "A" and not number else f"{text} ok")
    asked = {"a": request("A"), "b": request("B")}
    first = replies(tmp_path, writer).ask(asked)
    assert isinstance(first["a"], ConnectionError)
    assert first["b"] == "B ok"
    assert "no reply of scripted on a: refused" in caplog.text
    assert replies(tmp_path, writer).ask(asked) == {"a": "A ok", "b": "B ok"}
    assert writer.calls == {"A": 2, "B": 1}


def test_a_writer_that_is_down_ends_it(tmp_path):
    writer = Scripted(lambda text, number: ConnectionError("refused"))
    with pytest.raises(Outage, match=f"scripted: {PATIENCE} requests in a row failed; refused"):
        replies(tmp_path, writer).ask({str(i): request(str(i)) for i in range(40)})


def test_failures_in_a_row_are_counted_over_calls_and_a_success_ends_the_row(tmp_path):
    writer = Scripted(lambda text, number: "fine" if text == "good" else ConnectionError("no"))
    asking = replies(tmp_path, writer)
    for i in range(PATIENCE - 1):
        asking.ask({"x": request(f"bad {i}")})
    asking.ask({"x": request("good")})
    for i in range(PATIENCE - 1):
        asking.ask({"x": request(f"worse {i}")})
    with pytest.raises(Outage):
        asking.ask({"x": request("worst")})


def test_settings_of_a_writer_are_part_of_who_it_is(tmp_path):
    from hone.writers.policy import PolicyWriter

    told = replies(tmp_path, PolicyWriter(system="s")).identity()
    assert told["settings"]["hone.writers.policy:PolicyWriter"]["system"] == "s"
    assert told != replies(tmp_path, PolicyWriter()).identity()
