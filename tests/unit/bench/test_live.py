"""What is seen while it runs, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from tests.unit.bench.samples import MS, report, result, sample
from tykpy.bench.load import RunProgress
from tykpy.bench.program import ProgressView, show
from tykpy.bench.runs import Plan
from tykpy.bench.scenarios import BUILT_IN

PLAN = Plan((BUILT_IN["header"],), (2,), repeat=2, seconds=3, warm_up=1)


def played(*, terminal: bool, kind: str = "xterm") -> str:
    """What is written during one repetition."""
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=160, height=30, legacy_windows=False, _environ={"TERM": kind}
    )
    done = result(sample(12_345, failures={"INTERNAL: x": 3}))
    view = ProgressView(console, PLAN)
    with view.live:
        view.starting(2, 1)
        on_progress = view.running(done.case, 1)
        on_progress(RunProgress(0.2, 2000, 0, MS, 7 * MS))
        on_progress(RunProgress(0.4, 6000, 3, MS, 9 * MS))
        view.live.refresh()
        view.finished(done)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_one_line_for_each_repetition() -> None:
    lines = played(terminal=False).splitlines()
    assert lines == [
        "about 8 s of load",
        "1/2 header, 2 workers, 64 streams: 12,345/s, p50 2 ms, p99 3.01 ms, 3 failed",
    ]


def test_a_terminal_that_cannot_move_its_cursor_gets_lines() -> None:
    assert "\x1b[?25l" not in played(terminal=True, kind="dumb")
    assert played(terminal=True, kind="dumb").splitlines() == played(terminal=False).splitlines()


def test_a_terminal_sees_what_runs_and_what_is_done() -> None:
    text = played(terminal=True)
    for part in ("header, 2 workers, 64 streams, repetition 1", "20,000/s", "p99 9 ms", "3 failed", "▄█", "12,345"):
        assert part in text


def test_control_characters_of_hooks_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    show(report(result(sample(failures={"INTERNAL: \x1b[2Jgone": 1}))), None)
    out = capsys.readouterr().out
    assert "\\x1b[2Jgone" in out
    assert "\x1b" not in out
