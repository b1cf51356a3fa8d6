import asyncio

import pytest
from synthesis_parts import Player, says_right, task

from hone.seats import SamplingParams
from hone.synthesis.journal import Journal
from hone.synthesis.rollouts import Rollouts


def rollouts(tmp_path, player, **changes):
    settings = {
        "player": player,
        "journal": Journal(tmp_path / "journal.jsonl"),
        "environment": player.environment,
        "sampler": None,
        "params": SamplingParams(max_tokens=8, seed=3),
        "count": 16,
        "success": 1.0,
        "replays": 2,
        "identity": ["w", "v"],
    }
    return Rollouts(**(settings | changes))


def test_counts_follow_the_rate(tmp_path):
    tasks = {str(i): task(f"{i} p=0.7") for i in range(200)}
    tallies = rollouts(tmp_path, Player()).tally(tasks, "select")
    assert all(tally.full and tally.wrong == 16 - tally.passes for tally in tallies.values())
    assert sum(t.passes for t in tallies.values()) / 3200 == pytest.approx(0.7, abs=0.033)  # four deviations
    assert {tally.tokens for tally in tallies.values()} == {32}


def test_errors_are_no_failures_and_are_played_again(tmp_path):
    player = Player(faults={"p=1.0": 5})
    tally = rollouts(tmp_path, player).tally({"a": task("p=1.0"), "b": task("b p=0.0")}, "select")
    assert (tally["a"].passes, tally["a"].wrong, tally["a"].errors, tally["a"].full) == (16, 0, 5, True)
    assert (tally["b"].passes, tally["b"].wrong, tally["b"].errors) == (0, 16, 0)
    assert [(texts, n) for texts, n, *_ in player.plays] == [(["p=1.0", "b p=0.0"], 16), (["p=1.0"], 5)]


def test_who_stays_without_a_full_set_is_not_measured(tmp_path):
    player = Player(faults={"p=1.0": -1})
    tally = rollouts(tmp_path, player, replays=1).tally({"a": task("p=1.0")}, "select")["a"]
    assert (tally.passes, tally.wrong, tally.errors, tally.full) == (0, 0, 32, False)
    assert player.rollouts == 32


def test_replays_draw_fresh_noise(tmp_path):
    player = Player(faults={"p=0.5": 16})
    rollouts(tmp_path, player, replays=1).tally({"a": task("p=0.5")}, "select")
    seeds = [params.seed for _, params in player.sampler.seen]
    assert len(set(seeds)) == 32


def test_truncated_answers_are_counted_apart(tmp_path):
    tally = rollouts(tmp_path, Player()).tally({"a": task("endless p=0.5")}, "select")["a"]
    assert tally.wrong == 0
    assert tally.passes + tally.truncated == 16
    assert 0 < tally.truncated < 16
    assert tally.full


def test_success_is_a_bound_on_the_reward(tmp_path):
    class Halves(Player):
        def __init__(self):
            super().__init__()
            self.verifier = lambda task, trajectory: type(says_right(task, trajectory))(
                0.9 if trajectory.response == "RIGHT" else 0.1
            )

    one = rollouts(tmp_path, Halves()).tally({"a": task("p=1.0")}, "select")["a"]
    assert one.passes == 0
    player = Halves()
    other = rollouts(tmp_path, player, success=0.9).tally({"a": task("p=1.0")}, "select")["a"]
    assert other.passes == 16
    assert not player.plays, "another bound needs no other rollouts"


def test_nothing_is_played_twice_but_for_another_purpose_policy_or_setting(tmp_path):
    player = Player()
    tasks = {"a": task("a p=0.5"), "b": task("b p=0.5")}
    first = rollouts(tmp_path, player).tally(tasks, "select")
    assert rollouts(tmp_path, player).tally(tasks, "select") == first
    assert player.rollouts == 32
    renamed = {"c": task("a p=0.5", name="another id")}
    assert rollouts(tmp_path, player).tally(renamed, "select")["c"] == first["a"]
    assert player.rollouts == 32
    for n, other in enumerate(
        [
            rollouts(tmp_path, player, identity=["w2", "v"]),
            rollouts(tmp_path, player, count=15),
        ],
        start=1,
    ):
        other.tally(renamed, "select")
        assert player.rollouts == 32 + (16, 31)[n - 1]
    fresh = rollouts(tmp_path, player).tally(tasks, "fresh")
    assert player.rollouts == 32 + 31 + 32
    assert fresh != first


def test_the_noise_does_not_depend_on_the_tasks_beside(tmp_path):
    tasks = {str(i): task(f"{i} p=0.5") for i in range(30)}
    together = rollouts(tmp_path / "1", Player()).tally(tasks, "select")
    player, alone = Player(), {}
    for name in reversed(tasks):
        alone |= rollouts(tmp_path / "2", player).tally({name: tasks[name]}, "select")
    assert alone == together
    assert len(player.plays) == 30


def test_the_same_question_twice_is_played_once(tmp_path):
    player = Player()
    tallies = rollouts(tmp_path, player).tally({"a": task("p=0.5", name="x"), "b": task("p=0.5", name="y")}, "select")
    assert tallies["a"] == tallies["b"]
    assert player.rollouts == 16


def test_an_own_sampler_answers_in_place_of_the_players(tmp_path):
    from synthesis_parts import Rater

    player, own = Player(), Rater()
    rollouts(tmp_path, player, sampler=own).tally({"a": task("p=0.5")}, "select")
    assert (len(own.seen), len(player.sampler.seen)) == (16, 0)


def test_a_group_is_on_disk_before_the_others_are_played(tmp_path):
    class Stops(Player):
        """Ctrl-C comes while the second task is played."""

        def play(self, tasks, n, params, verifier=None, environment=None, finished=None):
            first = super().play(tasks[:1], n, params, verifier, environment, finished)
            if len(tasks) > 1:
                raise KeyboardInterrupt
            return first

    counting = rollouts(tmp_path, Stops())
    with pytest.raises(KeyboardInterrupt):
        counting.tally({"a": task("a p=0.5"), "b": task("b p=0.5")}, "select")
    player = Player()
    rollouts(tmp_path, player).tally({"a": task("a p=0.5"), "b": task("b p=0.5")}, "select")
    assert [texts for texts, *_ in player.plays] == [["b p=0.5"]]


def test_it_works_beside_a_real_collector(tmp_path):
    from synthesis_parts import Rater

    from hone.collect import Collector
    from hone.envs.single_turn import SingleTurn

    collector = Collector(SingleTurn(), Rater(), says_right, workers=1)
    try:
        player = Player()
        player.play, player.run = collector.play, collector.run
        tally = rollouts(tmp_path, player).tally({"a": task("p=1.0"), "b": task("p=0.0")}, "select")
        assert (tally["a"].passes, tally["b"].passes) == (16, 0)
        assert player.run(asyncio.sleep(0, "awaited")) == "awaited"
    finally:
        collector.close()
