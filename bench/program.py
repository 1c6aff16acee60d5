"""What `tykpy bench` does with its options: plan, measure with a view of the progress, show tables, write files."""

import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tykpy.bench.errors import BenchError
from tykpy.bench.load import RunProgress
from tykpy.bench.measure import NS_PER_US, usable_cpus
from tykpy.bench.report import html
from tykpy.bench.results import BenchReport, Case, CaseResult, read_json, write_json, write_text
from tykpy.bench.runs import Observer, OnProgress, Plan, sweep
from tykpy.bench.scenarios import ALL, BUILT_IN, DEFAULT, OwnHook, Scenario, own_scenario
from tykpy.bench.tables import COLUMNS, COMPARED, Comparison, compare, duration, fitting, hidden_columns, remarks, row
from tykpy.client.dialing import ClientTls

PLAIN_WIDTH: Final = 200
"""Width of a table that goes into a file or a pipe."""
REFRESHES: Final = 5
"""Per second."""
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARK_COUNT: Final = 40
_BAR_WIDTH: Final = 40
_SAME: Final = (
    "streams", "rates", "body_sizes", "seconds", "warm_up", "repeat", "connections", "connect", "tracing",
    "runtime_dir",
)  # fmt: skip
"""Options that are passed on as they are."""


def run(options: Mapping[str, Any]) -> None:
    """Measure and report; raises BenchError or CommandError."""
    plan = plan_of(options)
    before = read_json(options["compare_file"]) if options["compare_file"] else None
    for name in ("json_file", "html_file"):
        path = options[name]
        if path is not None and not path.resolve().parent.is_dir():  # fail before minutes of load, not after
            raise BenchError(f"cannot write {path}: no such folder")
    with view(Console(stderr=True)) as observer:
        report = sweep(plan, shlex.join(["tykpy", *sys.argv[1:]]), observer)
    comparison = compare(before, report) if before else None
    show(report, comparison)
    if options["json_file"]:
        write_json(report, options["json_file"])
    if options["html_file"]:
        write_text(options["html_file"], html(report, comparison))


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Turn the options into a plan; raises BenchError if they contradict each other."""
    scenarios = _scenarios(options)
    tls = ClientTls.of(options)
    if options["rates"] and options["streams"]:
        raise BenchError("--rate and --streams: an open loop has no fixed number of calls at once; give one of them")
    if options["connect"] and (options["workers"] or options["threads"]):
        raise BenchError("--connect: that broker has its workers already; leave --workers and --threads out")
    if options["connections"] > min(options["streams"] or [scenario.streams for scenario in scenarios]):
        raise BenchError("--connections: more than --streams")
    if tls.given and not options["connect"]:
        raise BenchError(f"{', '.join(tls.given)}: for a running broker; give its address with --connect")
    return Plan(
        scenarios,
        workers=(0,) if options["connect"] else options["workers"] or _default_workers(),
        threads=(0,) if options["connect"] else options["threads"],
        tls=tls,
        **{name: options[name] for name in _SAME},
    )


def _scenarios(options: Mapping[str, Any]) -> tuple[Scenario, ...]:
    names, bundle = options["names"], options["bundle"]
    if bundle is not None:
        if names:
            raise BenchError("--bundle and --scenario: give one of them")
        own = OwnHook(bundle, options["hook"], options["hook_type"], options["object_file"])
        return (own_scenario(own, needs_files=options["connect"] is None),)
    if options["hook"] or options["object_file"]:
        raise BenchError("--hook and --object need --bundle: where is the hook?")
    if options["connect"]:
        raise BenchError("--connect needs --bundle and --hook: that broker does not have the built-in scenarios")
    chosen = list(BUILT_IN) if ALL in names else list(dict.fromkeys(names)) or [DEFAULT]
    return tuple(BUILT_IN[name] for name in chosen)


def _default_workers() -> tuple[int, ...]:
    cpus = usable_cpus()
    return (*(1 << power for power in range(cpus.bit_length()) if 1 << power < cpus), cpus)


class PlainView(Observer):
    """One line for each repetition, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._repeat = 1

    def begins(self, plan: Plan) -> None:
        """Say how long it takes."""
        self._repeat = plan.repeat
        self._console.print(f"about {plan.run_seconds:.2g} s of load", highlight=False)

    def finished(self, result: CaseResult) -> None:
        """Print the line."""
        sample = result.samples[-1]
        p50, p99 = (duration(sample.latencies_ns.percentile(percent) / NS_PER_US) for percent in (50, 99))
        failed = f", {sample.failed:,} failed" if sample.failed else ""
        done = f"{len(result.samples)}/{self._repeat} {result.case.title}"
        line = f"{done}: {sample.rate:,.0f}/s, p50 {p50}, p99 {p99}{failed}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveView(Observer):
    """A table that fills, the repetition that runs, and a bar of the whole progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._results: dict[Case, CaseResult] = {}
        self._now = Text("")
        self._total = self._run_seconds = 1.0
        self._done = self._began = 0.0
        self.live = Live(console=console, refresh_per_second=REFRESHES, transient=True, get_renderable=self._render)

    def begins(self, plan: Plan) -> None:
        """Learn how long it takes."""
        self._total, self._run_seconds = plan.run_seconds, plan.warm_up + plan.seconds

    def starting(self, workers: int, threads: int) -> None:
        """Say that a broker starts."""
        what = f"a broker with {workers} worker{'s' * (workers != 1)} starts" if workers else "connecting"
        self._now = Text(f"{what} ...", style="dim")

    def running(self, case: Case, number: int) -> OnProgress:
        """Show what runs, and how fast it is from moment to moment."""
        self._began = time.monotonic()
        rates: list[float] = []
        last = RunProgress()

        def on_progress(progress: RunProgress) -> None:
            nonlocal last
            if progress.seconds > last.seconds:
                rates.append((progress.answered - last.answered) / (progress.seconds - last.seconds))
            last = progress
            self._now = _now(case, number, progress, rates)

        on_progress(RunProgress())
        return on_progress

    def finished(self, result: CaseResult) -> None:
        """Renew the case's row."""
        self._results[result.case] = result
        self._done += self._run_seconds
        self._began = 0.0

    def _render(self) -> Group:
        running = min(self._run_seconds, time.monotonic() - self._began) if self._began else 0.0
        bar = ProgressBar(self._total, min(self._done + running, self._total), width=_BAR_WIDTH)
        # rich cuts what does not fit on the screen; the newest rows matter while it runs.
        newest = list(self._results.values())[-max(1, self._console.height - 8) :]
        return Group(*([table_of(newest, self._console.width)] if newest else []), self._now, bar)


def _now(case: Case, number: int, progress: RunProgress, rates: list[float]) -> Text:
    text = Text(f"{case.title}, repetition {number}: ", style="bold")
    if not rates:
        return text.append("warming up\n", style="dim")
    text.append(f"{rates[-1]:,.0f}/s  ")
    text.append(f"p50 {duration(progress.p50 / NS_PER_US)}  p99 {duration(progress.p99 / NS_PER_US)}", style="cyan")
    if progress.failed:
        text.append(f"  {progress.failed:,} failed", style="red")
    shown = rates[-_SPARK_COUNT:]
    highest = max(shown) or 1.0
    sparks = "".join(_SPARKS[int(rate / highest * (len(_SPARKS) - 1))] for rate in shown)
    # On a line of its own from the start: the view must not jump, and narrow terminals have room for it.
    return text.append(f"\n{sparks}", style="green")


@contextmanager
def view(console: Console) -> Iterator[Observer]:
    """Return the view that fits the output: a live one on a terminal, lines elsewhere."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainView(console)
        return
    live = LiveView(console)
    with live.live:
        yield live


def table_of(results: Sequence[CaseResult], width: int) -> Table:
    """Return the figures as a table, without the columns for which such a terminal has no room."""
    rows = [row(result) for result in results]
    columns = fitting(rows, width)
    return rich_table(columns, [tuple(cells[COLUMNS.index(column)] for column in columns) for cells in rows])


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return rows under columns: the first one and the limit to the left, figures to the right."""
    table = Table()
    for number, column in enumerate(columns):
        words = number == 0 or column == "limit"
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=number > 0)
    for cells in rows:
        table.add_row(*cells)
    return table


def show(report: BenchReport, comparison: Comparison | None) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    wrap = not console.is_terminal
    console.print(table_of(report.results, console.width))
    if hidden := hidden_columns(report.results, console.width):
        console.print(f"no room for: {', '.join(hidden)}; --html and --json have them", style="dim", soft_wrap=wrap)
    lines = remarks(report.results)
    if comparison is not None:
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=wrap)
        console.print(rich_table(("case", *COMPARED.values()), comparison.rows()))
        lines = comparison.remarks
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=wrap)
