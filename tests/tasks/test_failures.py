"""Mined failures: what counts as one, what is on disk when, and what training reads."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import loop_parts as parts
import pytest
import synthesis_parts
from pydantic import ValidationError
from synthesis_parts import Player, Tasks, task

import hone
from hone.cli import main
from hone.envs.single_turn import SingleTurn
from hone.session import make
from hone.tasks.failures import Failures
from hone.types import Score

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
QUESTIONS = [task(f"{i}: p={rate}", name=f"q/{i}", level=i) for i, rate in enumerate(RATES)]


@pytest.fixture
def mined(tmp_path):
    """``mined(player=None, tasks=QUESTIONS, **settings) -> (source, rows, summary)``"""

    def mined(player=None, tasks=QUESTIONS, **settings):
        source = Failures(source=Tasks(tasks), store=str(tmp_path / "store" / "failures.jsonl"), **settings)
        source.bind(player or Player())
        summary = source.make(lambda line: None)
        return source, read(source), summary

    return mined


def read(source):
    with open(source.store, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def counts(rows):
    return {row["id"]: (row["passed"], row["failed"], row["errors"]) for row in rows}


class TestMining:
    def test_every_attempt_is_counted(self, mined):
        player = Player()
        _, rows, summary = mined(player, stop_early=False, attempts=40, keep=2)
        by_id = {row["id"]: row for row in rows}
        assert [row["passed"] + row["failed"] for row in rows] == [40] * 5
        assert (by_id["q/0"]["passed"], by_id["q/4"]["failed"]) == (0, 0)
        assert 5 <= by_id["q/1"]["passed"] < by_id["q/2"]["passed"] < by_id["q/3"]["passed"] <= 37
        assert player.rollouts == summary["attempts passed"] + summary["attempts failed"] == 200
        assert (summary["tasks"], summary["tasks with a failure"], summary["failures"]) == (5, 4, 4)
        assert by_id["q/0"]["failures"] == [{"text": "WRONG", "stop": "eos"}]  # the same text twice is one
        assert by_id["q/4"]["failures"] == []

    def test_it_stops_when_it_has_what_is_kept_and_says_how_many_it_took(self, mined):
        player = Player()
        _, rows, _ = mined(player, attempts=12, chunk=5)
        found = counts(rows)
        assert found["q/0"] == (0, 5, 0)
        assert found["q/4"] == (12, 0, 0)  # the last chunk is cut
        assert player.rollouts == sum(map(sum, found.values()))
        assert sorted({n for _, n, *_ in player.plays}) == [2, 5]

    def test_a_row_tells_all(self, mined):
        _, rows, _ = mined(tasks=QUESTIONS[:1], attempts=8)
        [row] = rows
        assert (row["id"], row["answer"], row["meta"]) == ("q/0", "42", {"level": 0})
        assert row["prompt"] == [{"role": "user", "content": "0: p=0.0"}]
        assert row["made"]["model"] == "weights-0"
        assert row["made"]["verifier"] == "synthesis_parts:says_right"
        assert (row["made"]["sampling"]["max_tokens"], row["made"]["sampling"]["temperature"]) == (8, 1.0)
        assert row["made"]["attempts"] == 8

    def test_what_could_not_be_judged_is_no_failure(self, mined):
        player = Player(faults={"4: p=1.0": 3, "0: p=0.0": -1})
        source, rows, summary = mined(player, attempts=8)
        assert counts(rows)["q/4"] == (5, 0, 3)
        assert "q/0" not in counts(rows)  # of it nothing is known
        assert summary["tasks without a verdict, not stored"] == 1
        player.faults.clear()
        source.make(lambda line: None)
        assert counts(read(source))["q/0"] == (0, 8, 0)

    def test_different_failures_are_kept_up_to_a_number(self, mined):
        class Wordy(synthesis_parts.Rater):
            async def sample(self, context, params):
                made = await super().sample(context, params)
                text = f"WRONG {params.seed % 3}"
                return replace(made, segments=(replace(made.segments[0], text=text),), stop="length")

        player = Player()
        player.sampler = Wordy()
        _, rows, _ = mined(player, tasks=QUESTIONS[:1], attempts=64, keep=2)
        [row] = rows
        assert len({failure["text"] for failure in row["failures"]}) == len(row["failures"]) == 2
        assert {failure["stop"] for failure in row["failures"]} == {"length"}

    def test_noise_is_of_the_task_and_the_attempt_alone(self, tmp_path):
        orders = [(QUESTIONS, 16), (QUESTIONS[::-1], 2), (QUESTIONS[1:3], 1)]
        rows = [self._mine(tmp_path / f"{i}.jsonl", *order) for i, order in enumerate(orders)]
        assert counts(rows[0]) == counts(rows[1])
        assert counts(rows[2]).items() <= counts(rows[0]).items()
        other = self._mine(tmp_path / "other.jsonl", QUESTIONS, 16, seed=1)
        assert counts(other) != counts(rows[0])

    @staticmethod
    def _mine(path, tasks, batch, **settings):
        source = Failures(source=Tasks(tasks), store=str(path), attempts=16, stop_early=False, batch=batch, **settings)
        player = Player()
        source.bind(player)
        source.make(lambda line: None)
        seeds = Counter((text, params.seed) for text, params in player.sampler.seen)
        assert max(seeds.values()) == 1  # no draw twice
        return read(source)

    def test_it_looks_at_a_limited_number_and_at_none_twice(self, mined):
        assert len(mined(limit=2)[1]) == 2
        source, rows, _ = mined(tasks=QUESTIONS * 3)
        assert len(rows) == 5
        assert source.source.cursor == 0  # it is where it was

    def test_unbound_it_cannot(self, tmp_path):
        with pytest.raises(ValueError, match=r"bind\(player\) comes first"):
            Failures(source=Tasks([]), store=str(tmp_path / "x")).make(print)

    def test_what_cannot_be_stored_is_named(self, mined):
        player = Player()
        with pytest.raises(ValueError, match=r"'q/x' cannot be stored as JSON: .*set"):
            mined(player, tasks=[task("p=0", name="q/x", odd={1, 2})])
        assert player.plays == []


class TestTheStore:
    def test_an_interrupted_run_goes_on_and_pays_for_nothing_twice(self, mined, tmp_path):
        class Dying(Player):
            def play(self, *args, **rest):
                if len(self.plays) == 3:
                    raise KeyboardInterrupt
                return super().play(*args, **rest)

        _, whole, _ = mined(attempts=8, batch=1)
        store = tmp_path / "again.jsonl"
        settings = {"source": Tasks(QUESTIONS), "store": str(store), "attempts": 8, "batch": 1}
        first, second = Dying(), Player()
        source = Failures(**settings)
        source.bind(first)
        with pytest.raises(KeyboardInterrupt):
            source.make(lambda line: None)
        kept = read(source)
        assert len(kept) == 3
        with store.open("a", encoding="utf-8") as file:
            file.write('{"id": "q/3", "pro')  # killed while it wrote
        source = Failures(**settings)
        source.bind(second)
        source.make(lambda line: None)
        assert read(source) == whole
        assert first.rollouts + second.rollouts == sum(sum(counts) for counts in counts(whole).values())
        third = Player()
        source.bind(third)
        assert source.make(lambda line: None)["tasks"] == 5
        assert third.plays == []

    @pytest.mark.parametrize(
        ("changes", "player", "told"),
        [
            ({"attempts": 9}, {}, "attempts was 8 and is 9"),
            ({"success": 0.5}, {}, "success was 1.0 and is 0.5"),
            ({"seed": 1}, {}, "seed was 0 and is 1"),
            ({}, {"weights": "weights-1"}, "model was 'weights-0' and is 'weights-1'"),
        ],
    )
    def test_one_that_was_made_in_another_way_is_refused(self, mined, changes, player, told):
        settings = {"attempts": 8}
        mined(**settings)
        with pytest.raises(ValueError, match=f"mined in another way: {told}; name another"):
            mined(Player(**player), **settings | changes)

    def test_other_verdicts_or_sampling_are_another_way(self, mined):
        mined()
        for name, value in (("verifier", parts.nothing), ("sampling", hone.SamplingParams(max_tokens=9))):
            player = Player()
            setattr(player, name, value)
            with pytest.raises(ValueError, match=f"another way: {name} was"):
                mined(player)

    def test_answers_to_another_prompt_are_refused(self, mined):
        source, _, _ = mined()
        for changed in (
            Failures(source=Tasks(QUESTIONS), store=source.store, environment=SingleTurn(suffix="!")),
            Failures(source=Tasks([replace(QUESTIONS[0], prompt=QUESTIONS[1].prompt)]), store=source.store),
        ):
            changed.bind(Player())
            with pytest.raises(ValueError, match=r"'q/0' .* behind another prompt"):
                changed.make(lambda line: None)
        other = Failures(source=Tasks([]), store=source.store, environment=SingleTurn(system="Brief."))
        other.bind(Player())
        with pytest.raises(ValueError, match=r"'q/0' .* behind another prompt"):  # in training, too
            next(other)

    def test_what_does_not_change_the_attempts_may_change(self, mined):
        mined(attempts=8, stop_early=False)
        player = Player()
        _, rows, _ = mined(player, attempts=8, stop_early=False, low=0.2, high=0.9, batch=2, limit=3)
        assert player.plays == []
        assert len(rows) == 5


class TestTasks:
    def test_they_bring_their_failed_attempt(self, mined):
        source, _, _ = mined(stop_early=False)
        tasks = list(islice(source, 4))
        assert {t.id for t in tasks} == {"q/0#0", "q/1#0", "q/2#0", "q/3#0"}
        for made in tasks:
            assert made.meta["attempt"] == {"text": "WRONG", "stop": "eos"}
            assert made.answer == "42"
            assert made.prompt == QUESTIONS[made.meta["level"]].prompt

    def test_an_epoch_has_each_once_in_an_order_of_its_own(self, mined):
        many = [task(f"{i}: p=0", name=f"q/{i}") for i in range(12)]
        source, _, _ = mined(tasks=many)
        ids = [t.id for t in islice(source, 36)]
        epochs = [ids[:12], ids[12:24], ids[24:]]
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3
        state = source.state_dict()
        expected = [t.id for t in islice(source, 20)]
        again = Failures(source=Tasks(many), store=source.store)
        again.load_state_dict(json.loads(json.dumps(state)))
        assert [t.id for t in islice(again, 20)] == expected
        other = Failures(source=Tasks(many), store=source.store, seed=1)
        assert [t.id for t in islice(other, 12)] != epochs[0]

    def test_a_band_of_pass_rates(self, mined):
        source, rows, _ = mined(stop_early=False, attempts=40)
        rates = {row["id"]: row["passed"] / 40 for row in rows}
        source = Failures(source=Tasks([]), store=source.store, stop_early=False, low=rates["q/1"], high=rates["q/3"])
        assert {t.id for t in islice(source, 10)} == {"q/1#0", "q/2#0"}  # low itself is in, high is not

    def test_without_a_store_they_are_the_sources_until_it_is_bound(self, tmp_path):
        source = Failures(source=Tasks(QUESTIONS), store=str(tmp_path / "none.jsonl"))
        assert next(source) is QUESTIONS[0]
        state = source.state_dict()
        assert next(source) is QUESTIONS[1]
        source.load_state_dict(state)
        assert next(source) is QUESTIONS[1]
        source.bind(Player())
        with pytest.raises(FileNotFoundError, match="`hone mine`"):
            next(source)

    def test_a_store_without_failures_is_refused(self, mined):
        source, _, _ = mined(tasks=QUESTIONS[4:])
        with pytest.raises(ValueError, match="has a failure to use"):
            next(source)
        unbound = Failures(source=Tasks(QUESTIONS), store=source.store)
        assert next(unbound) is QUESTIONS[0]  # so that mining can go on


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"low": 0.5, "high": 0.5, "stop_early": False}, "must be below high"),
        ({"high": 0.5}, "need stop_early = false"),
        ({"attempts": 0}, "greater than or equal to 1"),
        ({"store": ""}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        Failures(**{"source": Tasks([]), "store": "x"} | settings)


def parity(task, trajectory) -> Score:
    return Score(float(sum(map(ord, trajectory.response)) % 2))


class TestWithAModel:
    """From the command to training, with the environment that both are for."""

    @pytest.fixture
    def config(self, tiny_model_path, tmp_path):
        def build(**changes):
            settings = parts.settings(
                tiny_model_path,
                tmp_path / "run",
                verifier=parity,
                tasks={"failures": {
                    "source": {"loop_parts:Letters": {"kinds": 6}},
                    "store": str(tmp_path / "failures.jsonl"),
                    "attempts": 4,
                    "chunk": 2,
                }},
                environment={"reflect_retry": {"system": "Reply.", "truncated_retry": "judge"}},
                gate="everything",
                steps=2,
            )  # fmt: skip
            return hone.Config(**settings | changes)

        return build

    def test_mine_and_train(self, config, tmp_path, capsys):
        path = tmp_path / "mine.yaml"
        path.write_text(config().dump(), encoding="utf-8")
        assert main(["train", str(path)]) == 2
        assert "first make it: `hone mine`" in capsys.readouterr().err
        assert main(["mine", str(path)]) == 0
        assert "tasks with a failure" in capsys.readouterr().out
        rows = {row["id"]: row for row in read(config().tasks)}
        assert len(rows) == 6
        texts = {f"{name}#{i}": f["text"] for name, row in rows.items() for i, f in enumerate(row["failures"])}
        assert texts
        run = hone.Trainer(hone.load_config(path)).fit()
        assert [row["step"] for row in run.metrics] == [1, 2]
        for row in run.rollouts:
            prompt, attempt, *_ = row["segments"]
            assert prompt["text"].startswith("<|system|>Reply.<|end|>")
            assert (attempt["name"], attempt["source"], attempt["text"]) == ("attempt", "given", texts[row["task"]])
            assert [part["name"] for part in row["segments"] if part["train"]] == ["reflection"]
        assert all("reflect/first_try" not in row and "reflect/retry" in row for row in run.metrics)
        assert all(row["grad_norm"] > 0 for row in run.metrics)

    def test_what_else_the_environment_does_needs_no_other_store(self, config):
        make(config(), "mine", print)
        before = read(config().tasks)
        changed = {"reflect_retry": {"system": "Reply.", "reflect_prompt": "Why?", "rounds": 2}}
        make(config(environment=changed), "mine", print)
        assert read(config().tasks) == before
        with pytest.raises(ValueError, match="behind another prompt"):
            make(config(environment={"reflect_retry": {"system": "Other."}}), "mine", print)
        sampled = {"system": "Reply.", "attempt": {"temperature": 0.5, "max_tokens": 5}}
        with pytest.raises(ValueError, match="sampling was"):
            make(config(environment={"reflect_retry": sampled}), "mine", print)
