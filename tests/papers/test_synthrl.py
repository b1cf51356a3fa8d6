"""The algorithm, over a policy that solves each question as often as the question says; see synthesis_parts."""

import json
import re
from collections import Counter
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
from synthesis_parts import Player, Scripted, Tasks, asked, tagged, task

from hone.envs.single_turn import SingleTurn
from hone.papers.synthrl import SynthRL
from hone.seats import SamplingParams, TaskSource
from hone.synthesis.provenance import digest
from hone.synthesis.replies import Outage
from hone.synthesis.rewriting import SLOT
from hone.tasks.files import Files
from hone.types import Task


def rewrite(text, number):
    """What the seed says behind an arrow, several of them for several attempts: "seed c=14 -> rewrite c=9"."""
    return tagged(text.split(" -> ")[1:][number])


def seeds(*texts):
    return Tasks(task(text, name=f"t/{i}", answer=f"answer-{i}") for i, text in enumerate(texts))


@pytest.fixture
def made(tmp_path):
    """``made(texts, **settings) -> (rows, rejects, source)``: synthesised from seeds, or from a source."""

    def make(texts, reply=rewrite, player=None, **settings):
        source = seeds(*texts) if isinstance(texts, list) else texts
        given = {"attempts": 1, "instruction": SLOT, "writer": Scripted(reply), "store": str(tmp_path / "set")}
        synthrl = SynthRL(source=source, **(given | settings))
        player = player or Player()
        synthrl.bind(player)
        synthrl.summary = synthrl.make(lambda line: None)
        synthrl.player = player
        return *rows_of(synthrl), synthrl

    return make


def rows_of(synthrl):
    return [list(map(json.loads, text.splitlines())) for text in files_of(synthrl)[:2]]


def files_of(synthrl):
    return [Path(synthrl.store, f"{name}.jsonl").read_text() for name in ("accepted", "rejected", "journal")]


def reasons(rejected):
    return [row["reason"] for row in rejected]


# Selection and acceptance


def test_the_boundaries_of_the_paper(made):
    texts = [f"n{i} seed c=12 -> n{i} rewrite with c={after}" for i, after in enumerate((3, 4, 10, 11))]
    accepted, rejected, _ = made(texts)
    assert [row["question"] for row in accepted] == ["n1 rewrite with c=4", "n2 rewrite with c=10"]
    assert [(row["question"], row["reason"]) for row in rejected] == [
        ("n0 rewrite with c=3", "too hard"),
        ("n3 rewrite with c=11", "not harder"),
    ]


def test_eleven_passes_are_never_synthesised(made):
    accepted, rejected, source = made(["hard seed c=11 -> rewrite c=5", "fine seed c=12 -> other rewrite c=5"])
    assert list(source.writer.calls) == ["fine seed c=12 -> other rewrite c=5"]
    assert [row["question"] for row in accepted] == ["other rewrite c=5"]
    [row] = rejected
    assert row["reason"] == "hard seed"
    assert row["rollouts"]["before"]["passes"] == 11
    assert row["seed"] == {"id": "t/0", "hash": row["seed"]["hash"], "question": "hard seed c=11 -> rewrite c=5"}


def test_the_share_of_accepted_rewrites_is_the_binomials(made):
    """Seeds of rate 0.9, rewrites of rate 0.55: the model and its verifier are known."""

    def binomial(k, rate):
        return comb(16, k) * rate**k * (1 - rate) ** (16 - k)

    count = 300
    _, _, source = made([f"n{i} seed p=0.9 -> n{i} rewrite p=0.55" for i in range(count)], fresh="off")
    chosen = sum(binomial(c, 0.9) for c in range(12, 17))
    predicted = sum(binomial(c, 0.9) * binomial(k, 0.55) for c in range(12, 17) for k in range(4, c - 1))
    summary = source.summary
    assert summary["seeds"] == pytest.approx(count * chosen, abs=4 * (count * chosen * (1 - chosen)) ** 0.5)
    assert summary["accepted"] == pytest.approx(count * predicted, abs=4 * (count * predicted * (1 - predicted)) ** 0.5)
    assert 0.5 < predicted < 0.95


def test_up_to_so_many_attempts_and_the_first_accepted_ends_them(made):
    text = "seed c=14 -> first c=2 -> second c=13 -> third c=9 -> fourth c=5"
    accepted, rejected, source = made([text], attempts=8)
    assert [(row["attempt"], row["question"]) for row in accepted] == [(3, "third c=9")]
    assert reasons(rejected) == ["too hard", "not harder"]
    assert source.writer.calls[text] == 3
    accepted, _, source = made([text], attempts=2, store=source.store)
    assert accepted == []
    assert source.writer.calls.total() == 0, "both attempts were paid for before"


def test_the_code_takes_the_hardest_of_all_attempts(made):
    text = "seed c=14 -> first c=9 -> second c=5 -> third c=3 -> fourth c=7"
    accepted, rejected, _ = made([text], attempts=4, choose="hardest")
    assert [row["question"] for row in accepted] == ["second c=5"]
    assert Counter(reasons(rejected)) == {"not the hardest": 2, "too hard": 1}


def test_the_code_rewrites_what_was_accepted_and_the_paper_the_seed(made, tmp_path):
    def deeper(text, number):
        return tagged(f"more of {text.split(' -> ')[0].replace('c=14', 'c=9')} and number {number}")

    def read(rewrite_from):
        *_, source = made(
            ["seed c=14"],
            deeper,
            attempts=3,
            choose="hardest",
            rewrite_from=rewrite_from,
            store=str(tmp_path / rewrite_from),
        )
        return [asked(messages) for messages, _ in source.writer.read]

    assert read("seed") == ["seed c=14"] * 3
    first, second, third = read("accepted")
    assert first == "seed c=14"
    assert second == "more of seed c=9 and number 0"
    assert third == "more of more of seed c=9 and number 0 and number 0"


def test_the_bound_stays_that_of_the_seed_when_a_rewrite_is_rewritten(made):
    replies = {"seed c=14": "one step c=12", "one step c=12": "two steps c=11", "two steps c=11": "three steps c=10"}
    accepted, rejected, _ = made(
        ["seed c=14"], lambda text, n: tagged(replies[text]), attempts=3, choose="hardest", rewrite_from="accepted"
    )
    assert [row["question"] for row in accepted] == ["three steps c=10"]
    assert reasons(rejected) == ["not the hardest"] * 2


def test_the_rule_by_posteriors(made):
    texts = ["a seed c=16 -> a rewrite c=14", "b seed c=16 -> b rewrite c=10", "c seed c=16 -> c rewrite c=3"]
    accepted, rejected, _ = made(texts, acceptance="posterior")
    assert [row["question"] for row in accepted] == ["b rewrite c=10"]
    assert reasons(rejected) == ["not harder", "too hard"]


def test_what_counts_as_a_pass_is_a_setting(made):
    accepted, *_ = made(["seed p=1.0 -> rewrite c=9"], success=1.5)
    assert accepted == []


# Replies


def test_several_paragraphs_and_formulas_are_kept(made):
    question = "Let $a_1 * b^{**}$.\n\n* one\n* two\n\nFind x. c=8"
    accepted, *_ = made(["seed c=14"], lambda text, n: f"I think...\n\n<question>\n{question}\n</question>\n\nDone.")
    assert accepted[0]["question"] == question
    assert accepted[0]["prompt"] == [{"role": "user", "content": question}]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("A harder one: what is c=9?", "no question"),
        ("<question>cut off in the mid", "no question"),
        (tagged("Seed c=14 ?"), "unchanged"),
        (tagged("c=14 seed"), "unchanged"),
        (tagged("See <image> c=9"), "images changed"),
    ],
)
def test_replies_that_are_rejected_cost_no_rollouts(made, reply, reason):
    accepted, rejected, source = made(["seed c=14"], lambda text, n: reply)
    assert accepted == []
    assert reasons(rejected) == [reason]
    assert source.player.rollouts == 16


def test_the_same_question_is_not_tried_twice(made):
    """Nor what was a seed already."""
    texts = ["n0 seed c=14 -> the same c=2 -> the  SAME c=2 -> n1 seed c=11"]
    accepted, rejected, source = made(Tasks([*seeds(texts[0]), task("n1 seed c=11", name="t/1")]), attempts=3)
    assert accepted == []
    assert reasons(rejected) == ["too hard", "repeated", "repeated", "hard seed"]
    assert source.player.rollouts == 3 * 16


def test_the_writer_never_reads_the_answer(made):
    answers = ["7316", "Blue Heron", "$1,048.50", "5/8191"]
    source = Tasks(
        Task(f"t/{i}", [{"role": "user", "content": f"n{i} seed c=14"}], answer, {"entry": {"answer": answer}})
        for i, answer in enumerate(answers)
    )
    judge = Scripted(lambda text, n: "Score: 9")
    accepted, _, synthrl = made(
        source,
        lambda text, n: tagged(f"harder {text}".replace("14", "8")),
        judge=judge,
        instruction="Rewrite {question}",
    )
    assert [row["answer"] for row in accepted] == answers
    for messages, _ in (*synthrl.writer.read, *judge.read):
        for answer in answers:
            for form in {answer, answer.lower(), answer.replace(",", ""), answer.strip("$"), answer.replace(" ", "")}:
                assert form.lower() not in str(messages).lower()


def test_a_writer_that_fails_on_one_question_is_asked_again_by_the_next_run(made):
    def reply(text, number):
        return TimeoutError("too slow") if text == "n0 seed c=14" and number == 0 else tagged(f"harder {text[:2]} c=8")

    accepted, rejected, source = made(["n0 seed c=14", "n1 seed c=14"], reply)
    assert [row["seed"]["id"] for row in accepted] == ["t/1"]
    assert [(row["reason"], row["detail"]) for row in rejected] == [("writer failed", "too slow")]
    source.source.load_state_dict({"cursor": 0})  # as a session does
    source.make(lambda line: None)
    accepted, rejected = rows_of(source)
    assert [row["seed"]["id"] for row in accepted] == ["t/0", "t/1"]
    assert rejected == []
    assert source.writer.calls == {"n0 seed c=14": 2, "n1 seed c=14": 1}


def test_a_writer_that_is_down_ends_the_run_and_nothing_counts_as_rejected(made, tmp_path):
    with pytest.raises(Outage):
        made([f"n{i} seed c=14" for i in range(20)], lambda text, n: ConnectionError("down"))
    assert (tmp_path / "set" / "rejected.jsonl").read_text() == ""


# The judge


def test_the_judge_keeps_low_grades_from_costing_rollouts(made):
    grades = {"n0": "Good.\nScore: 8", "n1": "Score: 7.5", "n2": "I like it"}
    judge = Scripted(lambda text, n: next(reply for name, reply in grades.items() if f" {name} " in text))
    texts = [f"n{i} seed c=14 -> rewrite n{i} c=8" for i in range(3)]
    accepted, rejected, source = made(texts, judge=judge, fresh="off")
    assert [(row["grade"], row["question"]) for row in accepted] == [(8.0, "rewrite n0 c=8")]
    assert [(row["grade"], row["reason"]) for row in rejected] == [(7.5, "low quality"), (None, "no grade")]
    assert source.player.rollouts == 4 * 16
    assert accepted[0]["provenance"]["judge"] == "scripted"


def test_a_judge_that_fails_is_no_low_grade(made):
    judge = Scripted(lambda text, n: TimeoutError("late"))
    _, rejected, _ = made(["seed c=14 -> rewrite c=8"], judge=judge)
    assert [(row["reason"], row["detail"]) for row in rejected] == [("judge failed", "late")]


# Measuring


def test_errors_and_truncations_are_counted_apart_from_wrong_answers(made):
    player = Player(faults={"seed c=14": 2, "endless rewrite c=9": 3})
    [row], _, _ = made(["seed c=14"], lambda text, n: tagged("endless rewrite c=9"), player=player, fresh="off")
    # The two answers that took the place of those without a verdict begin the second sixteen, 14 of which are right.
    assert row["rollouts"]["before"] == {
        "passes": 14,
        "wrong": 2,
        "truncated": 0,
        "errors": 2,
        "wanted": 16,
        "tokens": 36,
    }
    assert row["rollouts"]["after"] == {
        "passes": 9,
        "wrong": 0,
        "truncated": 7,
        "errors": 3,
        "wanted": 16,
        "tokens": 38,
    }


def test_an_outage_of_the_verifier_makes_nothing_look_hard(made):
    texts = ["n0 seed p=1.0", "n1 seed p=1.0"]
    player = Player(faults={"n0 seed p=1.0": -1, "harder n1 p=0.5": -1})
    accepted, rejected, _ = made(texts, lambda text, n: tagged(f"harder {text[:2]} p=0.5"), player=player, replays=1)
    assert accepted == []
    assert [(row["seed"]["id"], row["reason"]) for row in rejected] == [
        ("t/0", "unmeasured seed"),
        ("t/1", "unmeasured"),
    ]
    assert rejected[0]["rollouts"]["before"]["errors"] == 32


def test_seeds_and_rewrites_are_answered_and_judged_alike(made):
    sampling = SamplingParams(temperature=0.7, max_tokens=33)
    *_, source = made([f"n{i} seed c=14 -> n{i} rewrite c=9" for i in range(5)], sampling=sampling, attempts=2)
    assert len({digest(vars(params)) for *_, params, _ in source.player.plays}) == 1
    assert {verifier for *_, verifier in source.player.plays} == {None}, "that of the run"
    for _, params in source.player.sampler.seen:
        assert replace(params, seed=0) == sampling
    assert len({params.seed for _, params in source.player.sampler.seen}) == len(source.player.sampler.seen)


def test_by_default_it_is_sampled_as_in_the_run(made):
    *_, source = made(["seed c=14 -> rewrite c=9"])
    assert {params.max_tokens for _, params in source.player.sampler.seen} == {source.player.sampling.max_tokens}


def test_it_is_played_in_the_environment_of_the_run_or_in_its_own(made, tmp_path):
    class Twice(SingleTurn):
        """Ends with the second of two tries, as the environment of another paper might."""

        def messages(self, task):
            return [*super().messages(task), {"role": "user", "content": "Try again."}]

    player = Player()
    player.environment = Twice()
    made(["seed c=14 -> rewrite c=9"], player=player, fresh="off")
    assert all(text.endswith("Try again.") for text, _ in player.sampler.seen)
    player.sampler.seen.clear()
    accepted, *_ = made(
        ["seed c=14 -> rewrite c=9"], player=player, fresh="off", environment=SingleTurn(system="Once."),
        store=str(tmp_path / "own"),
    )  # fmt: skip
    assert [row["question"] for row in accepted] == ["rewrite c=9"]
    assert {text.partition(" / ")[0] for text, _ in player.sampler.seen} == {"Once."}


def test_accepted_rewrites_and_their_seeds_are_played_afresh(made):
    accepted, rejected, source = made(["seed c=14,12 -> rewrite c=8,10", "other c=14 -> its rewrite c=2"])
    [row] = accepted
    passes = {name: tally["passes"] for name, tally in row["rollouts"].items()}
    assert passes == {"before": 14, "fresh_before": 12, "after": 8, "fresh_after": 10}
    assert "fresh_after" not in rejected[0]["rollouts"]
    assert source.summary["mean_passes"]["accepted, fresh"] == 10
    *_, source = made(["seed c=14,12 -> rewrite c=8,10"], fresh="off", store=f"{source.store}-off")
    assert source.player.rollouts == 32


def test_a_drop_that_does_not_come_again_can_be_refused(made):
    texts = ["a seed c=14 -> a rewrite c=8,13", "b seed c=14 -> b rewrite c=8,9"]
    accepted, rejected, _ = made(texts, fresh="require")
    assert [row["question"] for row in accepted] == ["b rewrite c=8,9"]
    assert reasons(rejected) == ["not confirmed"]


def test_a_refused_drop_leaves_further_attempts(made):
    accepted, _, _ = made(["seed c=14 -> first c=8,13 -> second c=8,9"], fresh="require", attempts=2)
    assert [row["question"] for row in accepted] == ["second c=8,9"]


# Images


def pictured(text, name="p/1"):
    content = [{"type": "image", "image": "square.png"}, {"type": "text", "text": f"<image> {text}"}]
    prompt = [{"role": "system", "content": "Box it."}, {"role": "user", "content": content}]
    return Task(name, prompt, {"value": "12 cm"}, {"split": "train"})


def test_images_system_message_and_answer_are_those_of_the_seed(made):
    seed = pictured("How long is AB? c=14")
    [row], _, source = made(Tasks([seed]), lambda text, n: tagged("AB is half of CD. How long is CD? c=9"))
    before, after = seed.prompt[-1]["content"], row["prompt"][-1]["content"]
    assert digest(before[0]) == digest(after[0])
    assert digest(seed.answer) == digest(row["answer"])
    assert row["prompt"][0] == seed.prompt[0]
    assert after[1]["text"] == "<image> AB is half of CD. How long is CD? c=9"
    assert row["meta"] == {"split": "train"}
    assert row["question"] != row["seed"]["question"]
    [(messages, _)] = source.writer.read
    assert messages[0]["content"][0] == before[0]


def test_questions_that_need_no_image_can_be_refused(made):
    source = Tasks([pictured("n0 seed c=14", "p/0"), pictured("n1 seed c=14", "p/1"), task("n2 seed c=14", name="t")])
    # The text alone begins the prompt of the image-free check; with an image before it, it does not.
    player = Player()
    tell = {"n0": 9, "n1": 9, "n2": 9}
    blind = {"n0": 3, "n1": 4}
    render = player.sampler.prompt

    def prompt(messages):
        segment = render(messages)
        name = next((name for name in tell if f"harder {name}" in segment.text), None)
        alone = isinstance(messages[-1]["content"], str)
        if name in blind and alone:
            return replace(segment, text=f"c={blind[name]} {segment.text}")
        return segment

    player.sampler.prompt = prompt
    accepted, rejected, _ = made(
        source, lambda text, n: tagged(f"harder {text.split()[-3]} c=9"), player=player, blind=3, fresh="off"
    )
    assert [(row["seed"]["id"], row["rollouts"].get("blind", {}).get("passes")) for row in accepted] == [
        ("p/0", 3),
        ("t", None),
    ]
    assert [(row["seed"]["id"], row["reason"]) for row in rejected] == [("p/1", "solved blind")]


def test_images_that_no_file_can_hold_are_refused_in_words(made):
    import numpy as np

    content = [{"type": "image", "image": np.zeros((2, 2))}, {"type": "text", "text": "seed c=14"}]
    with pytest.raises(ValueError, match="'p': its prompt is not plain data; give images by path or URL"):
        made(Tasks([Task("p", [{"role": "user", "content": content}], "1")]), lambda text, n: tagged("new c=8"))


# The set


def test_a_row_tells_where_it_comes_from(made):
    accepted, rejected, source = made(["seed c=14 -> rewrite c=9", "other c=3"])
    for row in (*accepted, *rejected):
        told = row["provenance"]
        assert told["writer"] == "scripted"
        assert told["solver"] == "weights-0" == source.player.fingerprint()
        assert told["verifier"] == "synthesis_parts:says_right"
        for name in ("writer_hash", "verifier_hash", "prompt_hash", "rule_hash"):
            assert len(told[name]) == 24
        assert told["sampling"]["hone.params:SamplingParams"]["max_tokens"] == 8
        assert len(row["seed"]["hash"]) == 24
        assert row["rollouts"]["before"]["wanted"] == 16
    texts = ["seed c=14 -> rewrite c=9"]
    [again], *_ = made(
        texts, lambda t, n: tagged("rewrite c=9"), drop=3, instruction="Do {question}", store=f"{source.store}2"
    )
    for name in ("prompt_hash", "rule_hash"):
        assert again["provenance"][name] != accepted[0]["provenance"][name]


def test_accepted_rows_are_tasks_for_the_source_over_files(made):
    source = Tasks(
        [task("seed c=14", answer=["a", 1], name="t/0", entry={"question": "?", "numbers": [1, 2]}, odd={1})]
    )
    [row], _, synthrl = made(source, lambda text, n: tagged("rewrite c=9"))
    files = Files(
        path=f"{synthrl.store}/accepted.jsonl",
        prompt="{prompt}",
        answer="{answer}",
        id="{id}",
        meta={"entry": "{meta.entry}"},
        repeat=False,
    )
    [loaded] = files
    assert loaded == Task(row["id"], row["prompt"], ["a", 1], {"entry": {"question": "?", "numbers": [1, 2]}})
    assert row["meta_left_out"] == ["odd"]


def test_ids_are_stable_and_come_from_seed_and_text(made):
    [row], _, source = made(["seed c=14 -> rewrite c=9"])
    [again], _, _ = made(["seed c=14 -> rewrite c=9"], store=f"{source.store}-2")
    assert row["id"] == again["id"]
    assert row["id"].startswith("t/0/synth-")
    assert row["id"] != made(["seed c=14 -> rewritten c=9"], store=f"{source.store}-3")[0][0]["id"]


def test_the_union_keeps_all_seeds(made):
    texts = ["a seed c=14 -> a rewrite c=9", "b seed c=14 -> b rewrite c=2", "c seed c=5"]
    *_, source = made(texts)
    fresh = SynthRL(source=seeds(*texts), writer=source.writer, store=source.store)
    tasks = list(fresh)
    assert [t.prompt[0]["content"] for t in tasks if "/synth-" not in t.id] == texts
    [made_] = [t for t in tasks if "/synth-" in t.id]
    assert (made_.prompt[0]["content"], made_.answer) == ("a rewrite c=9", "answer-0")
    replaced = SynthRL(source=seeds(*texts), writer=source.writer, store=source.store, mix="replace")
    assert [t.prompt[0]["content"] for t in replaced if "/synth-" not in t.id] == texts[1:]


def test_duplicates_and_near_duplicates_are_counted(made):
    same = "the numbers of cats and of dogs in one old house of ours c=9"
    texts = [
        "a seed c=14 -> " + same,
        "b seed c=14 -> house of ours " + same.replace(" house of ours", ""),
        "a seed c=14",
    ]
    source = Tasks([task(text.split(" -> ")[0], name=f"t/{i}") for i, text in enumerate(texts)])
    replies = dict(text.split(" -> ") for text in texts[:2])
    _, rejected, synthrl = made(source, lambda text, n: tagged(replies[text]))
    summary = synthrl.summary
    assert summary["near_duplicates"] == 1
    assert (summary["tasks"], summary["accepted"], summary["share"]) == (2, 2, 0.5)
    assert summary["rejected"] == {"duplicate seed": 1}
    assert rejected[0]["seed"]["id"] == "t/2"


def test_nothing_of_an_evaluation_gets_in(made):
    long = "a train leaves the town at noon and another one leaves the next town an hour later"
    evaluation = Tasks([task("How many legs have 3 cats?"), task(f"{long}; when do they meet?"), task("beyond c=9")])
    replies = {
        "n0 seed c=14": "how many legs have 3 cats",
        "n1 seed c=14": f"{long} by bus; how far is it c=9",
        "n2 seed c=14": "how many legs have 4 cats c=9",
        "n3 seed c=14": "beyond c=9",
    }
    accepted, rejected, source = made(
        list(replies), lambda text, n: tagged(replies[text]), avoid=[evaluation], avoid_items=2
    )
    assert [row["question"] for row in accepted] == ["how many legs have 4 cats c=9", "beyond c=9"]
    assert [(row["reason"], row["detail"]) for row in rejected] == [
        ("contaminated", "How many legs have 3 cats?"),
        ("contaminated", f"{long}; when do they meet?"),
    ]
    assert evaluation.cursor == 0
    assert source.player.rollouts == (4 + 2 + 2 * 2) * 16


def test_it_looks_at_so_many_tasks_and_at_none_twice(made):
    texts = [f"n{i} seed c=3" for i in range(5)]
    *_, source = made(texts, limit=3)
    assert source.summary["tasks"] == 3

    class Endless(Tasks):
        def __next__(self):
            self.cursor += 1
            return self.tasks[(self.cursor - 1) % len(self.tasks)]

    *_, source = made(Endless(seeds(*texts).tasks), store=f"{source.store}-2")
    assert source.summary["tasks"] == 5


def test_a_question_without_text_is_left_alone(made):
    picture = Task("p", [{"role": "user", "content": [{"type": "image", "image": "c=14"}]}], "1")
    _, rejected, source = made(Tasks([picture, task("seed c=1")]))
    assert reasons(rejected) == ["no text", "hard seed"]
    assert source.player.rollouts == 16


# Interruption


TEXTS = [f"n{i} seed p=0.9 -> n{i} first p=0.97 -> n{i} second p=0.5 -> n{i} third p=0.4" for i in range(7)]


def test_a_second_run_costs_nothing_and_gives_the_same(made):
    settings = {"attempts": 3, "fresh": "require", "batch": 3, "seed_passes": 10}
    first = made(TEXTS, **settings)
    assert first[0]
    files = files_of(first[2])
    second = made(TEXTS, **settings)
    assert files_of(second[2]) == files
    assert second[2].summary == first[2].summary
    assert second[2].player.rollouts == 0
    assert second[2].writer.calls.total() == 0


class Fallen(BaseException):
    """The process ends."""


class Falling(Player):
    """Goes down at its so-and-so-many-th answer or reply."""

    def __init__(self, after):
        super().__init__()
        self.left, sample = after, self.sampler.sample

        async def falling(context, params):
            self.spend()
            return await sample(context, params)

        self.sampler.sample = falling

    def spend(self):
        self.left -= 1
        if self.left < 0:
            raise Fallen


@pytest.mark.parametrize("after", [0, 1, 20, 63, 64, 66, 70, 100, 140, 180, 240, 300])
def test_an_interrupted_run_goes_on_to_the_same_set_and_pays_for_nothing_twice(made, tmp_path, after):
    settings = {"attempts": 3, "batch": 4, "seed_passes": 10}

    whole = made(TEXTS, rewrite, store=str(tmp_path / "whole"), **settings)
    player = Falling(after)

    def falling(text, number):
        player.spend()
        return rewrite(text, number)

    with pytest.raises((Fallen, BaseExceptionGroup)):
        made(TEXTS, falling, player, **settings)
    journal = tmp_path / "set" / "journal.jsonl"
    kept = [json.loads(line)["value"] for line in journal.read_text().splitlines()] if journal.exists() else []
    replied = Counter(re.search(r"n\d", value["reply"])[0] for value in kept if "reply" in value)
    played = sum(len(value["outcomes"]) for value in kept if "outcomes" in value)
    assert played <= after

    accepted, rejected, source = made(TEXTS, lambda text, n: rewrite(text, n + replied[text[:2]]), **settings)
    assert (accepted, rejected) == whole[:2]
    assert source.summary == whole[2].summary
    assert played + source.player.rollouts == whole[2].player.rollouts
    assert replied.total() + source.writer.calls.total() == whole[2].writer.calls.total()


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed_passes": 17}, "a seed cannot pass more often than rollouts"),
        ({"min_passes": 15}, "nothing can be accepted"),
        ({"rewrite_from": "accepted"}, "needs choose: hardest"),
        ({"sampling": {"temperature": 0}}, "greedy rollouts are all alike"),
        ({"instruction": "no slot"}, "has no {question}"),
        ({"solver_sampler": Player().sampler}, "give both"),
        ({"confidence": 1.0}, "less than 1"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SynthRL(source=seeds(), writer=Scripted(rewrite), store="x", **settings)


def test_it_is_a_source_and_unbound_without_a_store_it_gives_the_sources_tasks(tmp_path):
    source = SynthRL(source=seeds("a", "b", "c"), writer=Scripted(rewrite), store=str(tmp_path / "none"), refresh=2)
    assert isinstance(source, TaskSource)
    assert source.command == "synth"
    assert list(source) == seeds("a", "b", "c").tasks
    with pytest.raises(ValueError, match="bind"):
        source.make(print)


def test_binding_goes_on_to_what_it_holds(tmp_path):
    class Inner(Tasks):
        def bind(self, player):
            self.player = player

    player, writer, judge = Player(), Scripted(rewrite), Scripted(rewrite)
    source = SynthRL(source=Inner([]), writer=writer, judge=judge, store=str(tmp_path))
    source.bind(player)
    assert source.source.player is writer.player is judge.player is player
