"""What `tykpy bench` does with its options: plan, measure, show, write."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tykpy.bench.compare import Comparison, compare
from tykpy.bench.errors import BenchError
from tykpy.bench.live import rich_table, table_of, view
from tykpy.bench.measure import usable_cpus
from tykpy.bench.report import html
from tykpy.bench.results import BenchReport
from tykpy.bench.scenarios import ALL, BUILT_IN, DEFAULT, OwnHook, Scenario, own_scenario
from tykpy.bench.storage import read_json, write_json, write_text
from tykpy.bench.sweep import Plan
from tykpy.bench.sweep import run as sweep
from tykpy.bench.tables import COMPARED, compared_rows, hidden_columns, remarks
from tykpy.client.dialing import ClientTls

PLAIN_WIDTH: Final = 200
"""Columns of a table that goes into a file or a pipe."""


def run(options: Mapping[str, Any]) -> None:
    """Measure and report; raises BenchError or CommandError."""
    plan = plan_of(options)
    before = read_json(options["compare_file"]) if options["compare_file"] else None
    for name in ("json_file", "html_file"):
        _check_folder(options[name])
    command = shlex.join(["tykpy", *sys.argv[1:]])
    with view(Console(stderr=True)) as observer:
        report = sweep(plan, command, observer)
    comparison = compare(before, report) if before else None
    show(report, comparison)
    if options["json_file"]:
        write_json(report, options["json_file"])
    if options["html_file"]:
        write_text(options["html_file"], html(report, comparison))


def plan_of(options: Mapping[str, Any]) -> Plan:
    """The options as a plan; raises BenchError where they contradict each other."""
    scenarios = _scenarios(options)
    if options["rates"] and options["streams"]:
        raise BenchError("--rate and --streams: an open loop has no fixed number of calls at once; give one of them")
    if options["connect"] and (options["workers"] or options["threads"]):
        raise BenchError("--connect: that broker has its workers already; leave --workers and --threads out")
    if options["connections"] > min(options["streams"] or [scenario.streams for scenario in scenarios]):
        raise BenchError("--connections: more than --streams")
    return Plan(
        scenarios,
        workers=(0,) if options["connect"] else options["workers"] or _default_workers(),
        threads=(0,) if options["connect"] else options["threads"],
        tls=_tls(options),
        **{name: options[name] for name in _SAME},
    )


def _tls(options: Mapping[str, Any]) -> ClientTls:
    tls = ClientTls.of(options)
    if tls.given and not options["connect"]:
        raise BenchError(f"{', '.join(tls.given)}: for a running broker; give its address with --connect")
    return tls


_SAME: Final = (
    "streams",
    "rates",
    "body_sizes",
    "seconds",
    "warm_up",
    "repeat",
    "connections",
    "connect",
    "tracing",
    "runtime_dir",
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
    powers = [1 << power for power in range(cpus.bit_length()) if 1 << power < cpus]
    return (*powers, cpus)


def _check_folder(path: Path | None) -> None:
    # Told before minutes of load, not after.
    if path is not None and not path.resolve().parent.is_dir():
        raise BenchError(f"cannot write {path}: no such folder")


def show(report: BenchReport, comparison: Comparison | None) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(table_of(list(report.results), console.width))
    if hidden := hidden_columns(report.results, console.width):
        console.print(
            f"no room for: {', '.join(hidden)}; --html and --json have them",
            style="dim",
            soft_wrap=not console.is_terminal,
        )
    for line in remarks(report.results):
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    if comparison is not None:
        console.print(rich_table(COMPARED, compared_rows(comparison)))
        for line in comparison.remarks:
            console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
