import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pool_faults import Prepared, breed, misbehave

from hone.types import Segment, Task, Trajectory
from hone.verifiers.choice import ChoiceVerifier
from hone.verifiers.combine import Combine
from hone.verifiers.pool import VerifierPool

TASK = Task("t", [{"role": "user", "content": "?"}], "B")


def said(text, task=TASK):
    return Trajectory(task, [Segment("response", "policy", (1,), (-0.1,), text=text)])


def ask(pool, *texts):
    """The scores of several responses, judged at once."""

    return asyncio.run(asked(pool, *texts))


async def asked(pool, *texts):
    return await asyncio.gather(*(pool(TASK, said(text)) for text in texts))


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


def ended(file, seconds=5.0):
    """Whether the process whose number is in the file ends in time; a zombie that nobody reaps has ended."""
    stat = Path(f"/proc/{file.read_text().strip()}/stat")
    deadline = time.monotonic() + seconds
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def faulty():
    with VerifierPool(misbehave, workers=2, timeout=1.0, memory_gb=1.0) as pool:
        yield pool


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("raise", "ZeroDivisionError: division by zero"),
        ("raise_odd", "OddError: odd"),
        ("hang", "TimeoutError: no verdict within 1 s"),
        ("hang_in_c", "TimeoutError"),
        ("exit", "ProcessExpired: the worker died while judging, exit code 3"),
        ("sys_exit", "SystemExit: 4"),
        ("interrupt", "KeyboardInterrupt"),
        ("killed", "ProcessExpired: the worker died while judging, exit code -9"),
        ("memory", "MemoryError"),
        ("recursion", "RecursionError"),
        ("nan", "ValueError: the verifier's value is nan"),
        ("none", "TypeError: a verifier returns"),
        ("text", "TypeError: a verifier returns"),
        ("empty_score", "ValueError"),
        ("infinite_score", "ValueError"),
        ("unheard of", "KeyError"),
    ],
)
def test_a_fault_is_an_error_and_never_a_value(faulty, deed, error):
    start = time.perf_counter()
    bad, good, also_good = ask(faulty, deed, "true", "slow")
    assert bad.value is None
    assert bad.error.startswith(error)
    assert (good.value, also_good.value) == (1.0, 1.0)
    assert time.perf_counter() - start < 6


def test_it_survives_any_number_of_timeouts():
    before = set(multiprocessing.active_children())
    with VerifierPool(misbehave, workers=2, timeout=0.2) as pool:
        scores = ask(pool, *["hang"] * 24, *["exit"] * 6)
        assert all(score.error for score in scores)
        assert ask(pool, "true")[0].value == 1
    assert set(multiprocessing.active_children()) == before


def test_a_cancelled_question_does_not_block_the_others():
    async def impatient(pool):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool(TASK, said("hang")), 0.5)
        return await pool(TASK, said("true"))

    with VerifierPool(misbehave, workers=1, timeout=60) as pool:
        assert ask(pool, "true")[0].value == 1
        assert asyncio.run(impatient(pool)).value == 1


def test_workers_do_not_have_torch_and_do_not_print(capfd):
    with VerifierPool(misbehave, workers=1) as pool:
        noisy, torch = ask(pool, "print", "torch")
    assert (noisy.value, torch.value) == (1.0, 0.0)
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_at_the_terminal_is_not_for_workers():
    with VerifierPool(misbehave, workers=1) as pool:
        pid = int(ask(pool, "pid")[0].value)
        os.kill(pid, signal.SIGINT)
        assert ask(pool, "pid")[0].value == pid


def test_a_worker_that_dies_between_verdicts_is_replaced():
    with VerifierPool(misbehave, workers=1) as pool:
        pid = int(ask(pool, "pid")[0].value)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        second = ask(pool, *["pid"] * 3)
        assert all(score.value not in (None, pid) for score in second)
    assert gone(pid)
    assert all(gone(int(score.value)) for score in second)


def test_no_verdict_is_lost_however_workers_are_killed():
    def kill(at_random=random.Random(0)):
        while not over.wait(at_random.uniform(0, 0.3)):
            for worker in multiprocessing.active_children():
                if at_random.random() < 0.5:
                    os.kill(worker.pid, signal.SIGKILL)

    over = threading.Event()
    with VerifierPool(misbehave, workers=2) as pool:
        assert ask(pool, "true")[0].value == 1
        killer = threading.Thread(target=kill)
        killer.start()
        end = time.monotonic() + 6
        scores = []
        while time.monotonic() < end:
            scores += asyncio.run(asyncio.wait_for(asked(pool, *["true"] * 4), 60))
        over.set()
        killer.join()
        assert [score.value for score in ask(pool, *["true"] * 8)] == [1.0] * 8
    kinds = {score.error.partition(":")[0] for score in scores if score.error}
    assert kinds <= {"ProcessExpired", "BrokenProcessPool"}
    assert any(score.value == 1 for score in scores)


def test_preparation_is_not_on_the_clock():
    with VerifierPool(Prepared(seconds=1.0), workers=1, timeout=0.5) as pool:
        assert ask(pool, "")[0].value == 1
    with VerifierPool(Combine(parts={"p": Prepared()}), workers=1) as pool:
        assert ask(pool, "")[0].value == 1


def test_a_failed_preparation_is_told_by_every_verdict():
    with VerifierPool(Prepared(broken=True), workers=1) as pool:
        assert [score.error for score in ask(pool, "", "")] == ["OSError: the answers are not on this disk"] * 2


def test_a_preparation_without_end_is_told_by_every_verdict():
    with VerifierPool(Prepared(seconds=3600), workers=2, prepare_timeout=1.0) as pool:
        start = time.perf_counter()
        errors = [score.error for score in ask(pool, "", "", "")]
        assert 1.0 <= time.perf_counter() - start < 10
        start = time.perf_counter()
        errors += [score.error for score in ask(pool, "")]
        assert time.perf_counter() - start < 0.5
    assert errors == ["TimeoutError: the verifier was not prepared within 1 s (prepare_timeout)"] * 4
    with pytest.raises(RuntimeError, match="closed"):
        ask(pool, "")


def test_only_preparation_is_limited_by_its_limit():
    with VerifierPool(misbehave, workers=1, timeout=60, prepare_timeout=3.0) as pool:
        scores = ask(pool, "long", "true")
    assert [score.value for score in scores] == [1, 1], "one takes longer than the limit, and one waits longer"


def test_a_replaced_worker_that_never_gets_ready_is_told_too(tmp_path):
    with VerifierPool(Prepared(once=str(tmp_path / "mark")), workers=1, prepare_timeout=3.0) as pool:
        assert ask(pool, "")[0].value == 1
        assert "ProcessExpired" in ask(pool, "exit")[0].error
        assert ask(pool, "")[0].error == "TimeoutError: the verifier was not prepared within 3 s (prepare_timeout)"


@pytest.mark.parametrize("deed", ["hang", "hang_in_c", "exit", "killed"])
def test_what_a_verifier_started_ends_with_its_worker(tmp_path, deed):
    with VerifierPool(breed, workers=1, timeout=1.0) as pool:
        assert ask(pool, f"{deed} {tmp_path / 'pid'}")[0].error
        assert ended(tmp_path / "pid")
        assert ask(pool, "true")[0].value == 1


def test_what_a_verifier_started_ends_with_the_pool(tmp_path):
    with VerifierPool(breed, workers=1) as pool:
        assert ask(pool, f"true {tmp_path / 'pid'}")[0].value == 1
        assert not ended(tmp_path / "pid", 0.3), "so long as the worker lives, it is the verifier's own affair"
    assert ended(tmp_path / "pid")


def test_closing_at_once_ends_the_workers_and_nobody_else():
    before = set(multiprocessing.active_children())
    for pause in (0.0, 0.05, 0.2):
        with VerifierPool(misbehave, workers=2):
            time.sleep(pause)
    assert set(multiprocessing.active_children()) == before


def test_closing_leaves_nobody_waiting_and_nothing_running():
    async def close_midway():
        pool = VerifierPool(misbehave, workers=2, timeout=60)
        pid = int((await pool(TASK, said("pid"))).value)
        waiting = [asyncio.ensure_future(pool(TASK, said("hang" + " " * size))) for size in [0] * 4 + [2_000_000] * 20]
        await asyncio.sleep(0.5)
        start = time.perf_counter()
        pool.close()
        pool.close()
        scores = await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert time.perf_counter() - start < 5
        with pytest.raises(RuntimeError, match="closed"):
            await pool(TASK, said("true"))
        return pid, scores

    before = set(multiprocessing.active_children())
    pid, scores = asyncio.run(close_midway())
    assert all(score.value is None and score.error for score in scores)
    assert scores[0].error == "RuntimeError: the verifier pool is closed"
    assert gone(pid)
    assert set(multiprocessing.active_children()) == before


def test_what_cannot_be_pickled():
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        VerifierPool(lambda task, trajectory: lock.locked())
    with VerifierPool(ChoiceVerifier(), workers=1) as pool:
        task = Task("t", [], "B", {"generator": lambda: 0})
        assert "lambda" in asyncio.run(pool(task, said("B", task))).error
        assert ask(pool, "B")[0].value == 1


@pytest.mark.parametrize(
    ("deed", "timeout", "exit_code"),
    [("", 60.0, 0), ("hang", 60.0, -signal.SIGKILL), ("hang_in_c", 3.0, -signal.SIGKILL)],
)
def test_no_worker_outlives_its_parent(tmp_path, deed, timeout, exit_code):
    """The parent ends without closing its pool, or is killed while a verdict hangs."""
    script, child = Path(__file__).with_name("pool_faults.py"), tmp_path / "pid"
    deed = {"": f"true {child}", "hang": f"hang {child}"}.get(deed, deed)
    with subprocess.Popen([sys.executable, script, deed, str(timeout)], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        if exit_code:
            time.sleep(0.5)
            parent.kill()
        assert parent.wait(10) == exit_code
    deadline = time.monotonic() + min(2 * timeout, 6)
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(pid)
    assert not child.exists() or ended(child)


def test_a_script_without_a_guard_gets_an_error_instead_of_a_fork_bomb(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import asyncio\n"
        "from hone.types import Segment, Task, Trajectory\n"
        "from hone.verifiers.choice import ChoiceVerifier\n"
        "from hone.verifiers.pool import VerifierPool\n"
        "pool, task = VerifierPool(ChoiceVerifier(), workers=1), Task('t', [], 'B')\n"
        "print(asyncio.run(pool(task, Trajectory(task, [Segment('r', 'policy', (), text='B')]))).error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("BrokenProcessPool: workers die before they judge")
    assert "__main__" in done.stderr


def test_verifier_modules_do_not_import_torch():
    names = [
        f"hone.verifiers.{path.stem}" for path in Path(sys.modules["hone.verifiers.pool"].__file__).parent.glob("*.py")
    ]
    heavy = "'torch', 'transformers', 'math_verify', 'sympy', 'reasoning_gym'"
    code = f"import sys, {', '.join(names)}; assert not set(sys.modules) & {{{heavy}}}"
    subprocess.run([sys.executable, "-c", code.replace("hone.verifiers.__init__", "hone.verifiers")], check=True)
