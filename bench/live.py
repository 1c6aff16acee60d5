"""What is seen while it runs: a view that renews itself on a terminal, one line for each repetition elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tykpy.bench.results import Case, CaseResult
from tykpy.bench.runs import OnProgress, Progress
from tykpy.bench.sweep import Observer, Plan
from tykpy.bench.tables import COLUMNS, duration, fitting, row

REFRESHES: Final = 5
"""A second."""
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARK_COUNT: Final = 40
_BAR_WIDTH: Final = 40
_NS_PER_US: Final = 1000


class PlainView:
    """Lines for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._plan: Plan | None = None

    def begins(self, plan: Plan) -> None:
        """Say how long it takes."""
        self._plan = plan
        self._console.print(f"about {plan.run_seconds:.2g} s of load", highlight=False)

    def starting(self, workers: int, threads: int) -> None:
        """Nothing to say."""

    def running(self, case: Case, number: int) -> OnProgress:
        """Nothing to say yet."""
        return lambda progress: None

    def finished(self, result: CaseResult) -> None:
        """One line."""
        sample = result.samples[-1]
        repeat = self._plan.repeat if self._plan else 1
        p50, p99 = (duration(sample.latencies.percentile(percent) / _NS_PER_US) for percent in (50, 99))
        failed = f", {sample.failed:,} failed" if sample.failed else ""
        line = f"{len(result.samples)}/{repeat} {result.case.title}: {sample.rate:,.0f}/s, p50 {p50}, p99 {p99}{failed}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveView:
    """A table that fills, the repetition that runs, and how far all of it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._results: dict[Case, CaseResult] = {}
        self._now = Text("")
        self._total = 1.0
        self._done = 0.0
        self._run_seconds = 1.0
        self._began = 0.0
        self.live = Live(console=console, refresh_per_second=REFRESHES, transient=True, get_renderable=self._render)

    def __enter__(self) -> None:
        self.live.start()

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def begins(self, plan: Plan) -> None:
        """Nothing is done yet."""
        self._total, self._run_seconds = plan.run_seconds, plan.warm_up + plan.seconds

    def starting(self, workers: int, threads: int) -> None:
        """Say that a broker starts."""
        what = f"a broker with {workers} worker{'s' * (workers != 1)} starts" if workers else "connecting"
        self._now = Text(f"{what} ...", style="dim")

    def running(self, case: Case, number: int) -> OnProgress:
        """Show what runs, and how fast it is from moment to moment."""
        self._began = time.monotonic()
        rates: list[float] = []
        last = Progress()

        def on_progress(progress: Progress) -> None:
            nonlocal last
            if progress.seconds > last.seconds:
                rates.append((progress.answered - last.answered) / (progress.seconds - last.seconds))
            last = progress
            self._now = _now(case, number, progress, rates)

        on_progress(Progress())
        return on_progress

    def finished(self, result: CaseResult) -> None:
        """Renew the case's row."""
        self._results[result.case] = result
        self._done += self._run_seconds
        self._began = 0.0

    def _render(self) -> Group:
        running = min(self._run_seconds, time.monotonic() - self._began) if self._began else 0.0
        bar = ProgressBar(self._total, min(self._done + running, self._total), width=_BAR_WIDTH)
        # What does not fit on the screen is not shown by rich; the newest rows matter while it runs.
        room = max(1, self._console.height - 8)
        newest = list(self._results.values())[-room:]
        return Group(*([table_of(newest, self._console.width)] if newest else []), self._now, bar)


def _now(case: Case, number: int, progress: Progress, rates: list[float]) -> Text:
    text = Text(f"{case.title}, repetition {number}: ", style="bold")
    if not rates:
        return text.append("warming up\n", style="dim")
    text.append(f"{rates[-1]:,.0f}/s  ")
    text.append(f"p50 {duration(progress.p50 / _NS_PER_US)}  p99 {duration(progress.p99 / _NS_PER_US)}", style="cyan")
    if progress.failed:
        text.append(f"  {progress.failed:,} failed", style="red")
    # A line of its own, from the start on: what is shown must not jump, and narrow terminals have room for it.
    return text.append(f"\n{_sparkline(rates)}", style="green")


def _sparkline(rates: list[float]) -> str:
    shown = rates[-_SPARK_COUNT:]
    highest = max(shown) or 1.0
    return "".join(_SPARKS[int(rate / highest * (len(_SPARKS) - 1))] for rate in shown)


def table_of(results: list[CaseResult], width: int) -> Table:
    """The figures as a table: all of them, or those that such a terminal has room for."""
    rows = [row(result) for result in results]
    columns = fitting(rows, width)
    return rich_table(columns, [tuple(cells[COLUMNS.index(column)] for column in columns) for cells in rows])


def rich_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Rows under columns; the first one and words to the left, figures to the right."""
    table = Table()
    for number, column in enumerate(columns):
        words = number == 0 or column in ("limit", "figure", "verdict")
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=number > 0)
    for cells in rows:
        table.add_row(*cells)
    return table


@contextmanager
def view(console: Console) -> Iterator[Observer]:
    """The view that fits where the output goes."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainView(console)
        return
    live = LiveView(console)
    with live:
        yield live
