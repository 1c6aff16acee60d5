"""The screen of `tykpy top`, drawn in several widths."""

import io
import time

import pytest
from rich.console import Console

from tests.support.snapshots import a_snapshot
from tykpy.commands.top.screen import COLUMNS, Screen, columns_for, duration, sorted_hooks, sparkline
from tykpy.telemetry.view import HookView, View, Viewer


def a_hook(name: str = "hook", **changes: float) -> HookView:
    values: dict[str, float] = {"rate": 1234.5, "p50": 0.0012, "p99": 0.25, "errors": 12.5, "busy": 99.0, **changes}
    return HookView(bundle="orders.py", hook=name, breaker="half open", rates=[1.0, 5.0, 3.0], **values)


def a_view(*hooks: HookView) -> View:
    view = Viewer().see(a_snapshot(time_ns=time.monotonic_ns()))
    view.hooks = list(hooks)
    return view


def drawn(screen: Screen, width: int, height: int = 24) -> str:
    out = io.StringIO()
    Console(file=out, width=width, height=height, markup=False, highlight=False).print(screen)
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_every_width_has_the_columns_that_fit(width: int) -> None:
    text = drawn(Screen(a_view(a_hook())), width)
    assert all(len(line) <= width for line in text.splitlines())
    titles = [column.title for column in columns_for(width)]
    assert [title for title in titles if title in text] == titles


def test_80_columns_have_all_but_the_trend() -> None:
    titles = [column.title for column in COLUMNS]
    assert [one.title for one in columns_for(80)] == titles[:-1]
    assert [one.title for one in columns_for(120)] == titles
    assert [one.title for one in columns_for(50)] == ["RATE/s", "P99", "ERR%"]


def test_a_low_terminal_shows_the_first_hooks() -> None:
    text = drawn(Screen(a_view(*(a_hook(f"hook{number:02}") for number in range(50)))), 80, height=20)
    assert "hook00" in text
    assert "hook49" not in text
    assert "more" in text


def test_names_cannot_control_the_terminal() -> None:
    text = drawn(Screen(a_view(a_hook("\x1b[2J[bold]x[/]"))), 120)
    assert "\x1b" not in text
    assert "[bold]x[/]" in text


def test_hooks_are_sorted_by_the_chosen_column() -> None:
    hooks = [a_hook("time"), a_hook("rate", rate=9_999.0), a_hook("p99", p99=9.0)]
    assert [sorted_hooks(hooks, sort)[0].hook for sort in ("TIME", "RATE/s", "P99")] == ["time", "rate", "p99"]


def test_what_is_wrong_is_said_first() -> None:
    view = a_view()
    view.stuck, view.age, view.not_ready = True, 12.3, ["no worker is ready"]
    lines = drawn(Screen(view), 80).splitlines()
    assert lines[0].startswith("event loop has not turned for 12 s")
    assert lines[1] == "not ready: no worker is ready"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.0 us"), (0.000012, "12 us"), (0.0023, "2.3 ms"), (1.5, "1.5 s"), (30.0, "30 s")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_sparklines_show_the_course() -> None:
    assert sparkline([0.0, 5.0, 10.0]) == "▁▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"
