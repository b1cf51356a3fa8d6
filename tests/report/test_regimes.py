"""pass@k over training, the regimes, and the families of tasks."""

import json

import numpy as np
import pytest

from hone.report.regimes import FEW, GROWTH, PLATEAU, SHRINKING, draw, evaluations, family, regimes
from hone.report.run import Run


def rows(rewards_by_task, aside=0):
    """Rows of an evaluation: task id -> the rewards of its answers."""
    for group, (task, rewards) in enumerate(rewards_by_task.items()):
        for sibling, reward in enumerate(rewards):
            yield {"task": task, "group": group, "sibling": sibling, "reward": reward}
        for _ in range(aside):
            yield {"task": task, "group": group, "sibling": None, "reward": 1.0}


def answers(right, n=4):
    return [1.0] * right + [0.0] * (n - right)


@pytest.fixture
def evaluated(write_run):
    """``evaluated({step: {task: rewards}}, name="heldout", aside=0) -> Run``."""

    def evaluated(by_step, name="heldout", aside=0):
        folder = write_run(2, name=f"run-{name}")
        (folder / "evals" / name).mkdir(parents=True)
        for step, found in by_step.items():
            text = "".join(json.dumps({"step": step, **row}) + "\n" for row in rows(found, aside))
            (folder / "evals" / name / f"step-{step}.jsonl").write_text(text)
        return Run(folder)

    return evaluated


def tasks(*right, name="gcd", n=4):
    return {f"gym/{name}/heldout/0/{i}": answers(c, n) for i, c in enumerate(right)}


def test_it_tells_curves_changes_and_regimes(evaluated):
    """Ten tasks: none is ever solved at first, all are at the end, half of them in the middle."""
    run = evaluated({0: tasks(*[0] * 10), 10: tasks(*[1] * 5, *[0] * 5), 20: tasks(*[2] * 10)})
    assert regimes(run).splitlines() == [
        "heldout: 10 tasks, up to 4 answers each; 95 % over tasks",
        "           pass@1                pass@2                pass@4",
        "  step 0   0.000 [0.000, 0.000]  0.000 [0.000, 0.000]  0.000 [0.000, 0.000]",
        "  step 10  0.125 [0.050, 0.200]  0.250 [0.100, 0.400]  0.500 [0.200, 0.800]",
        "  step 20  0.500 [0.500, 0.500]  0.833 [0.833, 0.833]  1.000 [1.000, 1.000]",
        "",
        "  pass@4  tasks  step 0  step 20  change                   since step 10            regime",
        "  all     10     0.000   1.000    +1.000 [+1.000, +1.000]  +0.500 [+0.200, +0.800]  sustained growth",
    ]


N, Y = 0, 1
ALL, NONE = [Y] * 12, [N] * 12
HALF = [Y, N] * 6


@pytest.mark.parametrize(
    ("first", "middle", "last", "expected"),
    [
        (NONE, HALF, ALL, GROWTH),
        (NONE, ALL, ALL, PLATEAU),  # gained early
        (NONE, ALL, HALF, PLATEAU),  # and lost part of it again
        (ALL, HALF, NONE, SHRINKING),
        (ALL, ALL, HALF, SHRINKING),
        (HALF, NONE, HALF, "no change seen"),
        (ALL, HALF, ALL, "no change seen"),
        (NONE, NONE, [Y, *[N] * 11], "no change seen"),  # one task may be chance
    ],
)
def test_regimes(evaluated, first, middle, last, expected):
    run = evaluated({0: tasks(*first), 50: tasks(*middle), 100: tasks(*last)})
    [curves] = evaluations(run)
    assert curves.regime() == expected


def test_pass_at_1_may_rise_while_what_can_be_solved_shrinks(evaluated):
    """The paper's first regime: twelve tasks solved now and then become six solved always."""
    run = evaluated({0: tasks(*[1] * 12), 5: tasks(*[2] * 12), 10: tasks(*[4, 0] * 6)})
    [curves] = evaluations(run)
    assert (curves.passed(0, 1).mean, curves.passed(-1, 1).mean) == (0.25, 0.5)
    assert (curves.passed(0, 4).mean, curves.passed(-1, 4).mean) == (1.0, 0.5)
    assert curves.regime() == SHRINKING


def test_the_middle_is_the_evaluation_nearest_to_half_of_the_way(evaluated):
    run = evaluated({step: tasks(*ALL) for step in (0, 5, 30, 60, 100)})
    [curves] = evaluations(run)
    assert curves.steps == [0, 5, 30, 60, 100]
    assert curves.middle == 3


def test_families_have_regimes_of_their_own(evaluated):
    math, logic = partial_tasks("algebra"), partial_tasks("knights")
    run = evaluated({0: math(ALL) | logic(NONE), 1: math(HALF) | logic(HALF), 2: math(NONE) | logic(ALL)})
    lines = regimes(run).splitlines()[-4:]
    assert [line.split()[0] for line in lines] == ["pass@4", "all", "gym/knights", "gym/algebra"]  # the best first
    assert [line.split("]")[-1].strip() for line in lines[1:]] == ["no change seen", GROWTH, SHRINKING]
    assert [line.split()[1] for line in lines[1:]] == ["24", "12", "12"]


def partial_tasks(name):
    return lambda right: tasks(*right, name=name)


def test_of_few_tasks_nothing_is_said(evaluated):
    few, more = tasks(*[N] * (FEW - 1), name="rare"), tasks(*[N] * 9, name="often")
    after = tasks(*[Y] * (FEW - 1), name="rare") | tasks(*[Y] * 9, name="often")
    told = regimes(evaluated({0: few | more, 1: after}))
    assert told.splitlines()[-2].startswith("  gym/rare")
    assert "too few tasks" in told
    assert "growth; whether it is sustained" in told  # of two evaluations


def test_unjudged_answers_and_what_was_played_aside_do_not_count(evaluated):
    judged = {"a/1": [1.0, 0.0, None, None], "a/2": [0.0, 0.0, 0.5, 0.0]}
    [curves] = evaluations(evaluated({0: judged, 1: judged}, aside=3))
    assert curves.counts[0] == [(2, 1), (4, 0)]
    assert curves.ks == [1, 2, 4]
    assert curves.passed(0, 1).mean == pytest.approx((1 / 2 + 0) / 2)
    assert curves.passed(0, 4).mean == 0.0  # only the second was judged four times
    assert np.isnan(curves.values(0, 4)).tolist() == [True, False]


def test_a_k_that_few_tasks_reach_is_left_out(evaluated):
    most = {f"a/{i}": [1.0, 0.0, 0.0, None] for i in range(3)} | {"a/9": [0.0] * 4}
    [curves] = evaluations(evaluated({0: most, 1: most}))
    assert curves.ks == [1, 2]


def test_tasks_that_an_evaluation_lacks_are_left_out_of_all(evaluated):
    run = evaluated({0: tasks(1, 1, 1), 1: tasks(0, 0), 2: tasks(1, 1, 1)})
    [curves] = evaluations(run)
    assert curves.tasks == ["gym/gcd/heldout/0/0", "gym/gcd/heldout/0/1"]
    assert "no judged tasks in common" in regimes(evaluated({0: {"a": [1.0]}, 1: {"b": [1.0]}}, name="other"))


def test_a_task_that_comes_twice_is_two(evaluated):
    run = evaluated({0: {}}, name="twice")
    path = run.folder / "evals" / "twice" / "step-0.jsonl"
    found = [{"step": 0, "task": "a", "group": group, "sibling": 0, "reward": float(group)} for group in (0, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    [curves] = evaluations(run)
    assert curves.counts == [[(1, 0), (1, 1)]]


def test_one_evaluation_or_one_answer_is_nothing_to_compare(evaluated):
    assert "one evaluation: nothing to compare" in regimes(evaluated({0: tasks(1, 2)}))
    single = regimes(evaluated({0: tasks(1, 0, n=1), 1: tasks(1, 1, n=1)}, name="single"))
    assert single.splitlines()[-1].endswith("needs several (eval.*.siblings)")
    assert "regime" not in single


def test_a_run_without_evaluations(write_run):
    assert regimes(Run(write_run(2))) == "no evaluation has left its answers"


def test_the_interval_is_that_of_a_mean_over_tasks(evaluated):
    """Of 400 tasks, half solved: the standard error is 0.5 / 20, and 1.96 of it lie on either side."""
    [curves] = evaluations(evaluated({0: tasks(*[1, 0] * 200, n=1)}))
    found = curves.passed(0, 1)
    assert found.mean == 0.5
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((0.049, 0.049), abs=0.004)


def test_changes_are_of_the_same_tasks(evaluated):
    """Every task gains a quarter: its own level is no part of the uncertainty."""
    run = evaluated({0: tasks(*[0, 1, 2, 3] * 5), 1: tasks(*[1, 2, 3, 4] * 5)})
    [curves] = evaluations(run)
    change = curves.change(0, 1)
    assert (change.low, change.mean, change.high) == pytest.approx((0.25, 0.25, 0.25))
    assert curves.passed(0, 1).high - curves.passed(0, 1).low > 0.2


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("reasoning_gym/chain_sum/heldout/0/17", "reasoning_gym/chain_sum"),
        ("sums/reasoning_gym/gcd/train/3/4", "sums/reasoning_gym/gcd"),
        ("math500/12", "math500"),
        ("gsm8k/test/3", "gsm8k"),
        ("simple_python_17", "simple_python"),
        ("letter-3", "letter"),
        ("aime24", "aime"),
        ("17", "all"),
        ("test/4", "all"),
        ("what is it", "what is it"),
        ("", "all"),
    ],
)
def test_a_family_is_an_id_without_split_and_number(task, expected):
    assert family(task) == expected


def test_ids_that_tell_no_families_apart(evaluated):
    hashes = {f"{i:x}f3a": answers(1) for i in range(9)}
    [curves] = evaluations(evaluated({0: hashes, 1: hashes}))
    assert curves.families == {}
    assert len(regimes(evaluated({0: hashes, 1: hashes}, name="again")).splitlines()[-1].split("  ")) > 3


def test_the_picture(evaluated, tmp_path):
    run = evaluated({0: tasks(*NONE), 1: tasks(*HALF), 2: tasks(*ALL)}, name="a_$b$")
    assert draw(run) == run.folder / "passk.png"
    assert (run.folder / "passk.png").stat().st_size > 5000
    assert draw(run, tmp_path / "other.png").exists()


def test_it_reads_what_the_hook_writes(tmp_path):
    from hone.hooks.evaluate import Evaluate
    from hone.seats import SamplingParams, State
    from hone.tasks.files import Inline
    from hone.types import Group, Segment, Trajectory

    def play(tasks, n, *_, **__):
        segments = [Segment("response", "policy", (1,), (0.0,), "x")]
        return [Group(task, [Trajectory(task, segments, reward=float(i < 2)) for i in range(n)]) for task in tasks]

    source = Inline(rows=[{"q": str(i)} for i in range(3)], prompt="{q}", shuffle=False, repeat=False)
    hook = Evaluate(name="heldout", tasks=source, items=3, siblings=4, sampling=SamplingParams())
    state = State(0, 1, tmp_path, None, play=play)
    hook.on_start(state)
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).touch()
    [curves] = evaluations(Run(tmp_path))
    assert curves.counts == [[(4, 2)] * 3]
    for k in (2, 4):
        assert curves.passed(0, k).mean == pytest.approx(state.metrics[f"eval/heldout/pass@{k}"])
