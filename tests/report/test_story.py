"""What is told at the end of a run."""

import json

import pytest

from hone.report.run import Run
from hone.report.story import story


def row(task, text, reward, answer="7", question="What is\n 3 + 4?", sibling=0):
    prompt = "<|im_start|>system\nAnswer.<|im_end|><|im_start|>user\nWhat is\n 3 + 4?<|im_end|>"
    segments = [
        {"name": "prompt", "source": "given", "train": False, "text": prompt, "tokens": 5},
        {"name": "response", "source": "policy", "train": True, "text": text, "tokens": 3},
        {"name": "response", "source": "forced", "train": False, "text": " end", "tokens": 1},
    ]
    made = {"step": 0, "task": task, "sibling": sibling, "reward": reward, "answer": answer, "segments": segments}
    return made | ({"question": question} if question else {})


@pytest.fixture
def told(write_run):
    """``told({step: rows}, steps=20) -> lines``: the story of a run with these evaluations."""

    def told(evaluations, steps=20, **options):
        folder = write_run(steps)
        (folder / "evals" / "heldout").mkdir(parents=True)
        for step, rows in evaluations.items():
            path = folder / "evals" / "heldout" / f"step-{step}.jsonl"
            path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
        return story(Run(folder), **options).splitlines()

    return told


def test_it_tells_numbers_answers_and_places(told, tmp_path):
    lines = told({0: [row("a", "= 12", 0.0)], 20: [row("a", "= 7", 1.0)]})
    assert lines == [
        "heldout: 0.100 -> 0.500 (step 20)",
        "reward: 0.075 -> 0.975",
        "steps: 20 in 0:01:20",
        "",
        "heldout: of 1 judged answers 1 got better and 0 worse; 1 with the largest gain, not typical ones:",
        "  'What is 3 + 4?' (answer: '7')",
        "    before: '= 12 end' -> 0",
        "    after:  '= 7 end' -> 1",
        "",
        f"run folder: {tmp_path / 'run'}",
        f"curves:     {tmp_path / 'run' / 'curves.png'}",
    ]
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000


def test_an_older_run_shows_what_is_left_of_its_prompts(told):
    lines = told({0: [row("a", "= 12", 0.0, question=None)], 20: [row("a", "= 7", 1.0)]})
    assert "  'system Answer. user What is 3 + 4?' (answer: '7')" in lines


def test_where_nothing_got_better_no_gain_is_told_of(told):
    lines = told({0: [row("a", "= 12", 0.5)], 20: [row("a", "= 7", 0.5)]})
    assert "heldout: of 1 judged answers 0 got better and 0 worse; 1 of them:" in lines


def test_what_was_played_aside_is_no_answer(told):
    first = [row("a", "one", 0.0), row("a", "aside", 1.0, sibling=None), row("b", "two", 0.0)]
    last = [row("a", "One", 1.0), row("b", "Two", 0.0)]
    lines = told({0: first, 20: last})
    assert "heldout: of 2 judged answers 1 got better and 0 worse; 2 with" in "\n".join(lines)
    shown = [line.split("'")[1] for line in lines if "before" in line or "after" in line]
    assert shown == ["one end", "One end", "two end", "Two end"]


def test_what_gained_most_comes_first_and_it_is_said_how_many_there_are(told):
    first = [
        row("lost", "l", 1.0),
        row("same", "s", 0.0),
        row("won", "w", 0.0),
        row("half", "h", 0.5),
        row("odd", "o", None),
    ]
    last = [
        row("lost", "L", 0.0),
        row("same", "S", 0.0),
        row("won", "W", 1.0),
        row("half", "H", 1.0),
        row("odd", "O", 0.25),
    ]
    lines = told({0: first, 20: last}, samples=3)
    assert "heldout: of 4 judged answers 2 got better and 1 worse; 3 with the largest gain, not typical ones:" in lines
    shown = [line for line in lines if line.startswith("    ")]
    assert shown == [
        "    before: 'w end' -> 0", "    after:  'W end' -> 1",
        "    before: 'h end' -> 0.5", "    after:  'H end' -> 1",
        "    before: 's end' -> 0", "    after:  'S end' -> 0",
    ]  # fmt: skip


def test_long_and_odd_texts_stay_on_a_line(told):
    odd = "first \x1b[2J\n\ud800 七 " + "x" * 5000 + " last"
    answer = {"call": ["y" * 5000]}
    lines = told({0: [row("a", odd, 0.0, answer, "p" * 5000 + "the end")], 20: [row("a", odd, 1.0, answer)]})
    text = "\n".join(lines)
    assert len(lines) == 11
    assert max(map(len, lines)) < 700
    assert "\x1b" not in text
    assert "\ud800" not in text
    assert "七" in text
    assert "first" in text
    assert "last end' -> 1" in text
    assert "the end' (answer: " in text


def test_an_interrupted_run_has_a_story_too(told, write_run):
    assert "before:" not in "".join(told({0: [row("a", "= 12", 0.0)]}, steps=1))
    empty = write_run(0, name="empty", before=False)
    assert story(Run(empty)).splitlines() == ["steps: 0 in 0:00:00", "", f"run folder: {empty}"]
    assert not (empty / "curves.png").exists()


def test_an_evaluation_whose_answers_are_gone(told):
    assert "before:" not in "".join(told({0: [row("a", "= 12", 0.0)]}))
