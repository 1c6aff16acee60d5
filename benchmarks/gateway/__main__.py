"""The command line: `python -m benchmarks.gateway --rows floor,tykpy --columns header`."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import h2load
from benchmarks.gateway import fronts
from benchmarks.gateway.columns import COLUMNS
from benchmarks.gateway.measuring import CLIENTS, ROUNDS, SECONDS, Plan, measure
from benchmarks.gateway.plugins import PLUGINS
from benchmarks.gateway.report import GatewayReport
from benchmarks.output import EXIT_ERROR, add_file_flags, attempt, command_line, numbers, write_files
from benchmarks.results import machine


def run(arguments: argparse.Namespace, tyk: str) -> GatewayReport:
    """Measure what was asked for; raises BenchmarkError."""
    h2load.find()
    depends_on = machine()
    plan = Plan(
        plugins=tuple(plugin for plugin in PLUGINS if plugin.key in arguments.rows and (tyk or not plugin.only_tyk)),
        columns=tuple(column for column in COLUMNS if column.key in arguments.columns),
        clients=arguments.clients,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    gateway = fronts.tyk(Path(tyk)) if tyk else fronts.harness
    with tempfile.TemporaryDirectory(prefix="tykpy-gateway-") as folder:
        measured = measure(plan, gateway, Path(folder))
    command = command_line("benchmarks.gateway")
    if tyk:
        return GatewayReport(f"TYK={tyk} {command}", "a Tyk Gateway", depends_on, plan, measured)
    return GatewayReport(command, "the gateway of tests/gateway", depends_on, plan, measured)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway",
        description="Measure hooks through a gateway over HTTP: a small one, or a Tyk Gateway where TYK is its path.",
    )
    rows, columns = [plugin.key for plugin in PLUGINS], [column.key for column in COLUMNS]
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    parser.add_argument("--rows", type=_some(rows), default=rows, help=f"some of {','.join(rows)}")
    parser.add_argument("--columns", type=_some(columns), default=columns, help=f"some of {','.join(columns)}")
    parser.add_argument("--clients", type=numbers, default=CLIENTS, help="simultaneous clients, e.g. 1,16,64")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds to take the median of")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="how long each measurement takes")
    add_file_flags(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1
    return arguments


def _some(names: list[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(names)}")
        return found

    return chosen


def main() -> int:
    """Entry point; returns the exit code."""
    arguments = _arguments()
    report = attempt(lambda: run(arguments, os.environ.get("TYK", "")))
    if report is None:
        return EXIT_ERROR
    print(report.markdown(), end="")
    write_files(arguments, report.as_dict(), report.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
