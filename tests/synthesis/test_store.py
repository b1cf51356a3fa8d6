import json

from hone.synthesis.store import Store, Tale


def row(seed, attempt=None, question=None, reason=None, solver="w", tokens=10, **passes):
    made = {
        "seed": {"id": f"t/{seed}", "hash": f"h{seed}", "question": "?"},
        "provenance": {"solver": solver},
        "rollouts": {name: {"passes": count, "wanted": 16, "tokens": tokens} for name, count in passes.items()},
    }
    if attempt is not None:
        made |= {"attempt": attempt, "question": question or f"q{seed}.{attempt}"}
    return made | ({"reason": reason} if reason else {"id": f"t/{seed}/synth-{attempt}"})


def test_rows_are_put_in_place_or_added(tmp_path):
    store = Store(tmp_path / "set")
    store.write([row(1, 1)], [row(2, reason="hard seed")])
    store.add([row(3, 1)], [])
    assert [json.loads(line)["id"] for line in store.accepted.read_text().splitlines()] == [
        "t/1/synth-1",
        "t/3/synth-1",
    ]
    store.write([], [])
    assert store.accepted.read_text() == store.rejected.read_text() == ""


def test_what_is_added_behind_a_torn_line_is_whole(tmp_path):
    store = Store(tmp_path)
    store.write([row(1, 1)], [])
    store.accepted.write_text(store.accepted.read_text() + '{"id": "to')
    store.add([row(2, 1)], [])
    assert len(Tale.of(tmp_path).accepted) == 2


def test_rewrites_are_found_by_their_seed_and_once(tmp_path):
    store = Store(tmp_path)
    store.write([row(1, 1), row(1, 2), row(2, 1), row(1, 1)], [])
    found = store.by_seed()
    assert found["h1"] == [
        {"name": "t/1/synth-1", "question": "q1.1"},
        {"name": "t/1/synth-2", "question": "q1.2"},
    ]
    assert found.keys() == {"h1", "h2"}
    assert Store(tmp_path / "none").by_seed() == {}


def test_a_row_that_is_there_twice_counts_once_and_another_policys_counts_too():
    tale = Tale([row(1, 1, before=14, after=8)] * 2 + [row(1, 1, before=15, after=9, solver="v")], [])
    assert len(tale.accepted) == 2


def test_the_summary_counts_tasks_seeds_shares_and_tokens():
    accepted = [row(1, 2, before=16, after=6), row(2, 1, before=12, after=8, question="Q1.2 q1.2?")]
    rejected = [row(1, 1, before=16, after=3, reason="too hard"), row(3, before=2, reason="hard seed")]
    summary = Tale(accepted, rejected).summary()
    assert summary == {
        "tasks": 3,
        "seeds": 2,
        "accepted": 2,
        "share": 0.4,
        "near_duplicates": 0,
        "mean_passes": {"tasks": 10.0, "seeds": 14.0, "rewritten": 14.0, "accepted": 7.0},
        "rejected": {"too hard": 1, "hard seed": 1},
        "tokens": 60,  # three tasks, three rewrites; the first seed's rollouts are told in two rows
    }
    assert Tale([], []).summary()["share"] == 0.0


def test_near_duplicates_are_those_that_are_like_one_before():
    texts = ["a cat eats 3 fish", "a dog eats 3 fish", "A cat eats 3 fish!", "fish 3 eats cat a", "a cat eats 4 fish"]
    tale = Tale([row(i, 1, text.replace("!", ".")) for i, text in enumerate(texts)], [])
    assert tale.summary()["near_duplicates"] == 2
