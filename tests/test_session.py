"""Playing without training: what a session gives to the sources that make their tasks by playing."""

import asyncio
import json
from dataclasses import field

import loop_parts as parts
import psutil
import pytest
from loop_parts import Letters

import hone
from hone.cli import main
from hone.envs.single_turn import SingleTurn
from hone.seats import Player, TaskSource
from hone.session import Session, make, within
from hone.tasks.mixture import Mixture


@hone.settings
class Counting:
    """Hands on the tasks of another source, and can count how long the policy's answers to them are."""

    source: TaskSource
    store: str = ""
    fails: bool = False
    player: Player | None = field(default=None, init=False, repr=False, compare=False)

    command = "mine"

    def __iter__(self):
        return self

    def __next__(self):
        task = next(self.source)
        if self.player is not None:
            params = hone.SamplingParams(max_tokens=2, seed=1)
            self.player.play([task], 1, params, parts.nothing, SingleTurn())
        return task

    def bind(self, player):
        self.player = player

    def make(self, report):
        if self.fails:
            raise OSError("the disk is full")
        groups = self.player.play([next(self.source) for _ in range(3)], 2, hone.SamplingParams(max_tokens=3))
        report("half way")
        slept = self.player.run(asyncio.sleep(0, "slept"))
        return {"tokens": sum(group.generated for group in groups), "slept": slept}

    def state_dict(self):
        return self.source.state_dict()

    def load_state_dict(self, state):
        self.source.load_state_dict(state)


@pytest.fixture
def config(tiny_model_path, tmp_path):
    def build(**changes):
        return hone.Config(**parts.settings(tiny_model_path, tmp_path / "run", **changes))

    return build


def test_sources_are_found_wherever_they_lie():
    inner = [Counting(source=Letters()) for _ in range(2)]
    mixture = Mixture(sources={"a": inner[0], "b": Counting(source=inner[1])})
    assert [type(found).__name__ for found in within(mixture)] == [
        "Mixture",
        *["Counting", "Letters"],
        *["Counting"] * 2,
        "Letters",
    ]


def test_a_session_is_a_player_and_leaves_nothing_behind(config):
    made = config(tasks=Counting(source=Letters()))
    with Session(made) as session:
        assert isinstance(session, Player)
        assert made.tasks.player is session
        [group] = session.play([next(made.tasks)], 3, made.sampling)
        assert len(group) == 3
        assert all(trajectory.reward is not None for trajectory in group)
        [other] = session.play([group.task], 1, made.sampling, parts.nothing, SingleTurn(suffix="!"))
        assert other.rewards == [0.0]
        assert other.trajectories[0].segments[0].text.startswith("<|user|>a!")
    assert made.tasks.source.cursor == 0  # where it was
    assert not [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def test_the_fingerprint_is_of_the_weights_and_of_nothing_else(config):
    import torch

    with Session(config()) as one:
        before = one.fingerprint()
        assert one.fingerprint() == before
        parameter = one.policy.parameters()[0]
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-6
        one.policy.advance()
        assert one.fingerprint() != before
    with Session(config(sampling={"max_tokens": 9}, seed=5)) as other:
        assert other.fingerprint() == before


def test_a_failure_while_loading_stops_what_had_begun(config, tmp_path):
    with pytest.raises(FileNotFoundError), Session(config(model=str(tmp_path / "nowhere"))):
        pass
    assert not [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def test_make_runs_the_sources_of_its_command_alone(config, capsys):
    said = []
    assert make(config(tasks=Counting(source=Letters())), "mine", said.append) == [{"tokens": 18, "slept": "slept"}]
    assert said == ["half way"]
    with pytest.raises(ValueError, match="no source here for `hone synth`"):
        make(config(tasks=Counting(source=Letters())), "synth", said.append)


def test_the_command_makes_a_data_set(config, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    text = config(tasks=Counting(source=Letters())).dump().replace("__main__", "test_session")
    path.write_text(text, encoding="utf-8")
    assert main(["mine", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "half way" in printed
    assert json.dumps(18) in printed
    assert main(["mine", str(path), "tasks.test_session:Counting.fails=true"]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_a_source_that_was_bound_is_not_looked_into_again(config):
    made = config(tasks=Counting(source=Letters()), steps=1)
    for name in ("one", "two"):
        made.folder = f"{made.folder}-{name}"
        assert [row["tokens/aside"] for row in hone.Trainer(made).fit().metrics] == [4]


def test_a_source_that_is_not_bound_yet_is_looked_into_and_plays_nothing(config):
    source = Counting(source=Letters(limit=0))
    with pytest.raises(ValueError, match=r"^eval\.e\.tasks: the source has no tasks"):
        Session(config(eval={"e": {"tasks": source}})).__enter__()
    assert source.player is None
    source = Counting(source=Letters())
    with Session(config(tasks=source)) as session:
        assert session.sampled == 0
        assert source.source.cursor == 0


def test_the_limits_of_the_workers_are_those_of_the_configuration(config):
    limits = {"workers": 1, "timeout": 3.0, "prepare_timeout": None, "memory_gb": 2.0}
    with Session(config(verification=limits | {"on_error": "stop"})) as session:
        assert session.collector._pools.limits == limits
        assert session.collector.on_error == "stop"


def test_a_source_may_play_while_the_trainer_trains(config):
    made = config(tasks=Counting(source=Letters()), steps=2)
    run = hone.Trainer(made).fit()
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert {row["task"] for row in run.rollouts} == {f"letter-{i}" for i in range(4)}
    assert [row["tokens/aside"] for row in run.metrics] == [4, 4]  # what the source played; not among the run's own
    assert [row["tokens/sampled"] for row in run.metrics] == [30, 30]
