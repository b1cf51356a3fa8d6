import io
import logging
import math
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

from hone.hooks.dashboard import printable, sparkline
from hone.hooks.live import Live
from hone.seats import Hook, State

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=50, _environ={})


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=100, _environ={})


def drive(live: Live, state: State, advance, steps: int = 10) -> str:
    state.metrics = {"eval/heldout/accuracy": 0.125}
    live.on_start(state)
    for step in range(1, steps + 1):
        more = {"eval/heldout/accuracy": 0.75} if step == 5 else {}
        live.on_step(advance(**{"tokens/sampled": 600.0, "time/step": 0.25, "grad_norm": math.nan}, **more))
    live.on_end(state)
    return live.console.file.getvalue()


def test_is_a_hook() -> None:
    assert isinstance(Live(), Hook)


def test_terminal_shows_everything_and_is_restored(state: State, advance) -> None:
    stdout = sys.stdout
    live = Live(console=terminal())
    output = drive(live, state, advance)
    last = output[output.rindex("10/10") :]
    for shown in ("reward/mean", "0.5", "tokens/second", "2,400", "grad_norm", "nan", "eval/heldout", "0.75", "0.125"):
        assert shown in last
    for shown in ("3 + 4", "= 7", "reward 1", "▁"):
        assert shown in last
    assert output.count(HIDE) == output.count(SHOW) == 1
    assert output.rstrip().endswith(SHOW)
    assert sys.stdout is stdout


def test_a_pipe_gets_plain_lines_only(state: State, advance) -> None:
    output = drive(Live(console=pipe()), state, advance)
    assert "\x1b" not in output
    start, before, during, end = output.splitlines()
    assert start == f"{state.folder}: 10 steps"
    assert before == "step 0: heldout 0.125"
    assert during == "step 5: heldout 0.75"
    assert end.startswith(f"{state.folder}: ended at step 10 of 10 after 0:00:0")


def test_plain_lines_of_a_resumed_and_stopped_run(state: State, advance) -> None:
    live = Live(console=pipe())
    state.step = 3
    live.on_start(state)
    live.on_step(advance())
    state.stop = "reward fell"
    live.on_end(state)
    start, end = live.console.file.getvalue().splitlines()
    assert start.endswith("10 steps, 3 done")
    assert "step 4 of 10" in end
    assert end.endswith(": reward fell")


def test_a_resumed_run_tells_of_the_evaluation_that_it_made_up_for(state: State) -> None:
    live = Live(console=pipe())
    state.step, state.metrics = 3, {"eval/heldout/accuracy": 0.5}
    live.on_start(state)
    assert live.console.file.getvalue().splitlines()[1:] == ["step 3: heldout 0.5"]


def test_a_long_path_stays_on_one_line(state: State) -> None:
    state.folder = Path("x" * 300)
    live = Live(console=pipe())
    live.on_start(state)
    assert live.console.file.getvalue() == f"{'x' * 300}: 10 steps\n"


def test_what_a_model_writes_can_neither_break_nor_drive_the_terminal(state: State, advance, group) -> None:
    live = Live(console=terminal())
    live.on_start(state)
    advance()
    state.groups = [group("t", [1.0], text="[/bold] [red] \x1b[2J\x07\r\ud800 λ漢字😀")]
    live.on_step(state)
    live.on_end(state)
    output = live.console.file.getvalue()
    assert "[/bold] [red]" in output
    assert "λ漢字😀" in output
    assert "\x1b[2J" not in output
    assert "\x07" not in output


def test_long_texts_are_shortened(state: State, advance, group) -> None:
    live = Live(console=terminal())
    live.on_start(state)
    advance()
    state.groups = [group("t", [None], text="start " + "blah " * 5000 + " end")]
    live.on_step(state)
    live.on_end(state)
    output = live.console.file.getvalue()
    assert output.count("blah") < 1000
    assert "start" in output
    assert "end" in output
    assert "not judged: TimeoutError" in output


def test_the_sample_can_be_left_out(state: State, advance) -> None:
    assert "3 + 4" not in drive(Live(console=terminal(), sample=False), state, advance)


def test_the_terminal_is_restored_after_an_interrupt(state: State, advance) -> None:
    live = Live(console=terminal())
    live.on_start(state)
    live.on_step(advance())
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        live.on_end(state)
    assert live.console.file.getvalue().rstrip().endswith(SHOW)
    live.on_end(state)  # a second end changes nothing


def test_end_without_start(state: State) -> None:
    live = Live(console=terminal())
    live.on_end(state)
    assert live.console.file.getvalue() == ""


class Breaking(io.StringIO):
    """A terminal that goes away."""

    broken = False

    def write(self, text: str) -> int:
        if self.broken:
            raise OSError("Input/output error")
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_broken_terminal_is_noted_once_and_never_raises(state: State, advance, caplog, is_terminal: bool) -> None:
    file, stdout = Breaking(), sys.stdout
    live = Live(console=Console(file=file, force_terminal=is_terminal, _environ={}))
    with caplog.at_level(logging.WARNING):
        live.on_start(state)
        file.broken = True
        for _ in range(3):
            live.on_step(advance(**{"eval/heldout/accuracy": 0.5}))
        live.on_end(state)
    assert (
        [record.getMessage() for record in caplog.records].count(
            "the live view failed and is off: OSError('Input/output error')"
        )
        == len(caplog.records)
        == 1
    )
    assert sys.stdout is stdout


@pytest.mark.parametrize(("name", "notes"), [("plain", 0), ("λ", 1)])
def test_a_terminal_without_unicode_gets_plain_lines(state: State, advance, caplog, name: str, notes: int) -> None:
    raw = io.BytesIO()
    live = Live(console=Console(file=io.TextIOWrapper(raw, encoding="ascii"), force_terminal=True, _environ={}))
    state.folder = Path(name)
    live.on_start(state)
    live.on_step(advance())
    live.on_end(state)
    assert HIDE.encode() not in raw.getvalue()
    assert (b"plain: 10 steps" in raw.getvalue()) == (name == "plain")
    assert len(caplog.records) == notes


def test_a_notebook_keeps_the_last_picture_without_widgets() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    code = """
    from pathlib import Path
    from hone.hooks.live import Live
    from hone.seats import State
    live, state = Live(), State(0, 3, Path("run"), None)
    live.on_start(state)
    for state.step in (1, 2, 3):
        state.metrics = {"reward/mean": state.step / 3}
        live.on_step(state)
    live.on_end(state)
    """
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute()
    (output,) = book.cells[0].outputs
    assert "3/3" in output["data"]["text/html"]
    assert "▁▄█" in output["data"]["text/html"]


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2, 2, 2]) == "▁▁▁"
    assert sparkline([0, math.nan, 1]) == "▁ █"
    assert sparkline([]) == ""
    assert sparkline([math.inf]) == " "
    long = sparkline(range(1000), width=40)
    assert len(long) == 40
    assert (long[0], long[-1]) == ("▁", "█")


def test_printable() -> None:
    assert printable("a\nb\tc λ\u3000😀") == "a\nb\tc λ\u3000😀"
    assert printable("\x1b[31m\r\x9b\ud800") == "�[31m���"
