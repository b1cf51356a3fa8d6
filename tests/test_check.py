"""What ``hone check`` says of configurations that are fine, and of those that are not."""

import asyncio
import tempfile
import threading
from io import StringIO
from pathlib import Path

import loop_parts as parts
import pytest
from loop_parts import Letters
from rich.console import Console

import hone
from hone import check as module
from hone.verifiers.probes import adversarial

PROBES = {"empty": "", "junk": "junk", "tower": "9**9**9"}


@pytest.fixture
def check(tiny_model_path, tmp_path, monkeypatch):
    """``check(**settings) -> (fine, text)``, with few adversarial answers."""
    monkeypatch.setattr(module, "adversarial", lambda: PROBES)

    def check(**changes):
        out = StringIO()
        config = hone.Config(**parts.settings(tiny_model_path, tmp_path / "run", **changes))
        fine = module.check(config, Console(file=out, width=100))
        assert not (tmp_path / "run").exists()
        return fine, out.getvalue()

    return check


def marks(text):
    """Step to "ok", "note", "skip" or "FAIL"."""
    found = [
        line.split(maxsplit=1) for line in text.splitlines() if line.startswith(("ok ", "note ", "skip ", "FAIL "))
    ]
    return {rest.partition(":")[0]: mark for mark, rest in found}


def table(text):
    """Name to the numbers in its row."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    return {name: tuple(numbers) for name, *numbers in rows}


ALL_FINE = {
    "tasks": "ok",
    "verifier, right answers": "ok",
    "verifier, adversarial answers": "ok",
    "one step of a miniature": "ok",
}
WITHOUT_EXAMPLE = {**ALL_FINE, "verifier, right answers": "skip"}


def test_all_is_well(check, monkeypatch):
    monkeypatch.setattr(module, "adversarial", adversarial)
    tasks = Letters()
    fine, text = check(verifier=parts.Echo(), tasks=tasks)
    assert fine
    assert marks(text) == ALL_FINE
    assert "tasks: letter-0: 'a' (answer: 'a')" in text
    assert "right answers: 3 of 3 scored 1" in text
    assert f"adversarial answers: {len(adversarial())} judged in" in text
    assert "none is paid for" in text
    assert "gradient norm 0" not in text.replace("gradient norm 0.", "")
    assert tasks.cursor == 0


def test_the_arithmetic(check):
    heldout = {"tasks": Letters(), "items": 7, "every": 10, "siblings": 2}
    fine, text = check(
        steps=100,
        prompts=9,
        siblings=16,
        max_rounds=3,
        sampling={"max_tokens": 50},
        update={"minibatches": 2, "epochs": 3, "tokens": 2048},
        eval={"often": heldout, "ends": {**heldout, "tasks": Letters(), "every": 0}},
    )
    assert fine
    rows = table(text)
    assert rows["prompts (groups)"] == ("9", "900")
    assert rows["trajectories = prompts x siblings"] == ("144", "14,400")
    assert rows["sampled tokens, at most"] == ("7,200", "720,000")
    assert rows["optimiser steps = minibatches x epochs"] == ("6", "600")
    assert rows["groups in an optimiser step"] == ("5", "")
    assert rows["tokens in a micro-batch, at most"] == ("2,048", "")
    assert rows["prompts with refills, at most"] == ("27", "")
    assert rows["evaluation often"] == ("", "11 x 7 items x 2")  # before, 9 on the way, and after
    assert rows["evaluation ends"] == ("", "2 x 7 items x 2")
    assert marks(text) == {**WITHOUT_EXAMPLE, "tasks of eval often": "ok", "tasks of eval ends": "ok"}


@pytest.mark.parametrize(
    ("steps", "every", "times"), [(0, 1, 1), (1, 1, 2), (4, 2, 3), (5, 2, 4), (5, 5, 2), (5, 9, 2)]
)
def test_the_number_of_evaluations(steps, every, times):
    part = {"tasks": Letters(), "items": 1, "every": every}
    config = hone.Config(**parts.settings("x", Path("x"), steps=steps, eval={"one": part}))
    console = Console(file=StringIO(), width=100)
    console.print(module.arithmetic(config))
    assert table(console.file.getvalue())["evaluation one"] == ("", f"{times} x 1 items x 1")


def test_a_right_answer_that_is_not_paid_for(check):
    fine, text = check(verifier=parts.Echo(value=0.5))
    assert not fine
    assert marks(text) == {**ALL_FINE, "verifier, right answers": "FAIL"}
    assert "task 'letter-0': the right answer '<a>' scored 0.5" in text


def test_a_verifier_that_hangs(check):
    limits = {"workers": 3, "timeout": 0.3}
    fine, text = check(verifier=parts.slow, verification=limits)
    assert not fine
    assert marks(text)["verifier, adversarial answers"] == "FAIL"
    assert all(f"{name} (TimeoutError: no verdict within 0.3 s)" in text for name in PROBES)


def test_a_verifier_that_fails(check):
    fine, text = check(verifier=parts.moody, tasks=Letters(kinds=2), prompts=1)
    assert fine  # its first task is judged well
    tasks = Letters()
    tasks.cursor = 1
    fine, text = check(verifier=parts.moody, tasks=tasks, prompts=1)
    assert not fine
    assert "no verdict on: empty (KeyError: 'the reference is lost')" in text


def test_a_verifier_that_pays_for_junk_is_told(check):
    fine, text = check(verifier=lambda task, trajectory: 1.0)
    assert fine
    assert f"it pays for: {', '.join(PROBES)}" in text
    assert marks(text) == {**WITHOUT_EXAMPLE, "verifier, adversarial answers": "note"}
    assert "skip verifier, right answers: this verifier gives no examples of right answers" in text


def test_every_verifier_is_tried_on_its_own_tasks(check):
    def evaluation(verifier=None, **letters):
        return {"tasks": Letters(**letters), "items": 2, "verifier": verifier}

    fine, text = check(
        verifier=parts.Echo(),
        eval={
            "same": evaluation(),
            "other": evaluation(parts.Echo(value=0.5)),
            "plain": evaluation(parts.nothing),
            "again": evaluation(parts.nothing, kinds=1),
            "moody": evaluation(parts.moody, kinds=2),
        },
    )
    assert not fine
    found = marks(text)
    assert {name: mark for name, mark in found.items() if name.startswith("verifier")} == {
        "verifier, right answers": "ok",
        "verifier, adversarial answers": "ok",
        "verifier of eval other, right answers": "FAIL",
        "verifier of eval other, adversarial answers": "ok",
        "verifier of eval plain, right answers": "skip",
        "verifier of eval plain, adversarial answers": "ok",
        "verifier of eval moody, right answers": "skip",
        "verifier of eval moody, adversarial answers": "ok",
    }
    assert "verifier, right answers: 6 of 6 scored 1" in text  # three tasks of training, three of the evaluation
    assert "verifier of eval other, right answers: ValueError: task 'letter-0': the right answer '<a>' scored" in text


def test_the_verifiers_and_tasks_of_stages_are_tried(check):
    tasks = Letters()
    tasks.cursor = 5
    fine, text = check(
        verifier=parts.Echo(),
        stages={2: {"tasks": tasks}, 3: {"verifier": parts.Echo(value=0.5)}, 4: {"siblings": 4}},
    )
    assert not fine
    assert marks(text) == {
        **ALL_FINE,
        "tasks of stage 2": "ok",
        "verifier of stage 3, right answers": "FAIL",
        "verifier of stage 3, adversarial answers": "ok",
    }
    assert "verifier of stage 3, right answers: ValueError: task 'letter-5': the right answer '<f>' scored 0.5" in text
    assert tasks.cursor == 5


def test_a_verifier_that_cannot_be_sent_to_a_process(check):
    class Locked:
        lock = None

        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, task, trajectory):
            return 0.0

    fine, text = check(verifier=Locked())
    assert not fine
    assert set(marks(text)) == set(ALL_FINE)
    assert "pickle" in text


def test_a_source_that_cannot_be_read(check):
    files = {"files": {"path": "nowhere.jsonl", "prompt": "{q}"}}
    fine, text = check(tasks=files)
    assert not fine
    assert marks(text) == {"tasks": "FAIL"}
    assert "no file 'nowhere.jsonl'" in text
    fine, text = check(eval={"late": {"tasks": files}})
    assert not fine
    assert marks(text) == {**WITHOUT_EXAMPLE, "tasks of eval late": "FAIL"}
    fine, text = check(tasks=Letters(limit=0))
    assert not fine
    assert marks(text) == {"tasks": "FAIL"}


def test_a_part_that_fails_in_the_miniature(check):
    def picky(groups):
        raise LookupError("[no] such group")

    fine, text = check(shapers=[picky])
    assert not fine
    assert marks(text) == {**WITHOUT_EXAMPLE, "one step of a miniature": "FAIL"}
    assert "FAIL one step of a miniature: LookupError: [no] such group" in text


def test_a_policy_without_a_miniature(check, monkeypatch):
    from hone.policies.causal_lm import CausalLM

    monkeypatch.delattr(CausalLM, "miniature")
    fine, text = check()
    assert fine
    assert "skip one step of a miniature: this policy has no miniature" in text


def test_the_miniature_is_small_and_leaves_nothing(check, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    fine, text = check(
        prompts=64, siblings=16, steps=50, sampling={"max_tokens": 200}, max_rounds=9, update={"minibatches": 8}
    )
    assert fine
    sampled = int(text.partition("miniature: sampled ")[2].partition(" tokens")[0])
    assert sampled <= 2 * 2 * 8
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_wants_several_processes_is_tried_in_one(check):
    fine, text = check(update={"sequence_parallel": 2})
    assert fine, text


def test_it_works_where_an_event_loop_runs(check):
    async def cell():
        return check(verifier=parts.Echo())

    assert asyncio.run(cell())[0]


# The order in which the parts act.


def test_the_order_of_a_step(check):
    _, text = check(
        objective={
            "policy_gradient": {
                "weights": ["truncated_importance"],
                "penalties": [{"kl_penalty": {"coefficient": 0.25, "estimator": "k2"}}],
            }
        },
        shapers=[{"overlong": {"max_length": 99, "buffer": 9}}],
        eval={"a": {"tasks": Letters(), "items": 2}},
        stages={7: {"siblings": 4}},
    )
    order = text.partition("order of a step")[2]
    rows = [line.strip("│").split("│") for line in order.splitlines() if line.startswith("│")]
    acts = [(place.strip(), part.strip()) for place, part, _ in rows]
    assert acts == [
        ("tasks", "loop_parts:Letters"),
        ("environment", "single_turn"),
        ("verifier", "loop_parts:low"),
        ("gate", "informative"),
        ("shaper", "overlong"),
        ("advantage", "zscore"),
        ("objective", "policy_gradient"),
        ("surrogate", "ppo_clip"),
        ("weight", "truncated_importance"),
        ("penalty", "kl_penalty x 0.25"),
        ("reduction", "token_mean"),
        *(("hook", name) for name in ("evaluate", "guard", "log", "checkpoint", "live")),
        ("stage, from 7 on", "siblings"),
    ]
    assert "surrogate adds" in text
    assert "kl_penalty adds 0 to the loss" in text  # before the first update, the policy is the reference


def test_a_source_that_plays_plays_nothing_when_it_is_checked(check):
    from test_session import Counting

    fine, text = check(tasks=Counting(source=Letters(), fails=True))
    assert fine
    assert "│ tasks       │ test_session:Counting" in text
