"""What `tykpy bench` does with its options: plan, measure with a view of the progress, show tables, write files."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tykpy.bench.errors import BenchError
from tykpy.bench.load import RunProgress
from tykpy.bench.measure import NS_PER_US, usable_cpus
from tykpy.bench.replay import replay_scenario
from tykpy.bench.report import html
from tykpy.bench.results import BenchReport, Case, CaseResult, read_json, write_json, write_text
from tykpy.bench.runs import Observer, OnProgress, Plan, sweep
from tykpy.bench.scenarios import ALL, BUILT_IN, DEFAULT, Scenario, own_scenario
from tykpy.bench.tables import COLUMNS, COMPARED, Comparison, compare, duration, fitting, remarks, row
from tykpy.client.dialing import ClientTls
from tykpy.commands.terminal import harmless
from tykpy.telemetry.records import counted

PLAIN_WIDTH: Final = 200
"""Width of a table that goes into a file or a pipe."""
REFRESHES: Final = 5
"""Per second."""
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARK_COUNT: Final = 40
_BAR_WIDTH: Final = 40


def run(options: Mapping[str, Any]) -> None:
    """Measure and report; raises BenchError or CommandError."""
    plan = plan_of(options)
    before = read_json(options["compare_file"]) if options["compare_file"] else None
    for name in ("json_file", "html_file"):
        path = options[name]
        if path is not None and not path.resolve().parent.is_dir():  # fail before minutes of load, not after
            raise BenchError(f"cannot write {path}: no such folder")
    view = ProgressView(Console(stderr=True), plan)
    with view.live:
        report = sweep(plan, shlex.join(["tykpy", *sys.argv[1:]]), view)
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
    given = {field.name: options[field.name] for field in fields(Plan) if field.name in options}
    if options["connect"]:
        given |= {"workers": (0,), "threads": (0,)}
    elif not options["workers"]:
        given["workers"] = _default_workers()
    return Plan(scenarios, tls=tls, **given)


def _scenarios(options: Mapping[str, Any]) -> tuple[Scenario, ...]:
    names, bundle = options["names"], options["bundle"]
    if options["recorded"] and options["replay"] is None:
        raise BenchError("--recorded names a bundle of a recording; give it with --replay FILE")
    if bundle is not None:
        if names:
            raise BenchError("--bundle and --scenario: give one of them")
        if options["replay"] is not None:
            return (_replayed(options, bundle),)
        own = (options[name] for name in ("bundle", "hook", "hook_type", "object_file"))
        return (own_scenario(*own, needs_files=options["connect"] is None),)
    if options["replay"] is not None:
        raise BenchError("--replay needs --bundle: which bundle gets the recorded calls?")
    if options["hook"] or options["object_file"]:
        raise BenchError("--hook and --object need --bundle: where is the hook?")
    if options["connect"]:
        raise BenchError("--connect needs --bundle and --hook: that broker does not have the built-in scenarios")
    chosen = list(BUILT_IN) if ALL in names else list(dict.fromkeys(names)) or [DEFAULT]
    return tuple(BUILT_IN[name] for name in chosen)


def _replayed(options: Mapping[str, Any], bundle: Path) -> Scenario:
    if options["object_file"] or options["body_sizes"]:
        raise BenchError("--replay sends recorded objects as they are; leave --object and --body-size out")
    return replay_scenario(
        options["replay"], bundle, options["hook"], options["recorded"], needs_files=options["connect"] is None
    )


def _default_workers() -> tuple[int, ...]:
    cpus = usable_cpus()
    return (*(1 << power for power in range(cpus.bit_length()) if 1 << power < cpus), cpus)


class ProgressView(Observer):
    """A line for each repetition and, on a terminal, what runs, how fast it is, and a bar of the whole progress."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._plan = plan
        self._now = Text()
        self._done = self._running = 0.0
        self.live = Live(console=console, refresh_per_second=REFRESHES, transient=True, get_renderable=self._render)
        _print(console, *(scenario.note for scenario in plan.scenarios if scenario.note))
        console.print(f"about {plan.run_seconds:.2g} s of load", highlight=False)

    def starting(self, workers: int, threads: int) -> None:
        """Say that a broker starts."""
        what = f"a broker with {counted(workers, 'worker')} starts" if workers else "connecting"
        self._now = Text(f"{what} ...", style="dim")

    def running(self, case: Case, number: int) -> OnProgress:
        """Show what runs, and how fast it is from moment to moment."""
        rates: list[float] = []
        last = RunProgress()

        def on_progress(progress: RunProgress) -> None:
            nonlocal last
            if progress.seconds > last.seconds:
                rates.append((progress.answered - last.answered) / (progress.seconds - last.seconds))
            last = progress
            self._running = progress.seconds
            self._now = _now(case, number, progress, rates)

        on_progress(last)
        return on_progress

    def finished(self, result: CaseResult) -> None:
        """Print the repetition's line."""
        self._done += self._plan.warm_up + self._plan.seconds
        self._running = 0.0
        sample = result.samples[-1]
        p50, p99 = (duration(sample.latencies_ns.percentile(percent) / NS_PER_US) for percent in (50, 99))
        failed = f", {sample.failed:,} failed" if sample.failed else ""
        done = f"{len(result.samples)}/{self._plan.repeat} {result.case.title}"
        _print(self._console, f"{done}: {sample.rate:,.0f}/s, p50 {p50}, p99 {p99}{failed}")

    def _render(self) -> Group:
        return Group(self._now, ProgressBar(self._plan.run_seconds, self._done + self._running, width=_BAR_WIDTH))


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


def show(report: BenchReport, comparison: Comparison | None) -> None:
    """Print the tables: of the figures, without the columns for which a terminal has no room, and of what changed."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    rows = [row(result) for result in report.results]
    shown = fitting(rows, console.width)
    console.print(_table(shown, ([cells[COLUMNS.index(column)] for column in shown] for cells in rows)))
    if hidden := [column for column in COLUMNS if column not in shown]:
        _print(console, f"no room for: {', '.join(hidden)}; --html and --json have them", style="dim")
    _print(console, *remarks(report.results))
    if comparison is not None:
        console.print(_table(("case", *COMPARED.values()), comparison.rows()))
        _print(console, *comparison.remarks)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return rows under columns: the first one and the limit to the left, figures to the right."""
    table = Table()
    for number, column in enumerate(columns):
        words = number == 0 or column == "limit"
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=number > 0)
    for cells in rows:
        table.add_row(*cells)
    return table


def _print(console: Console, *lines: str, style: str | None = None) -> None:
    for line in lines:
        console.print(harmless(line), style=style, highlight=False, markup=False, soft_wrap=not console.is_terminal)
