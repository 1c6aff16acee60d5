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
from benchmarks.gateway.measuring import CLIENTS, USUAL, GatewayPlan, measure
from benchmarks.gateway.plugins import PLUGINS
from benchmarks.gateway.report import findings
from benchmarks.reports import Findings, numbers, pace_of, parser, present

DESCRIPTION = "Measure hooks through a gateway over HTTP: a small one, or a Tyk Gateway where TYK is its path."


def run(arguments: argparse.Namespace, tyk: str) -> Findings:
    """Measure what was asked for; raises BenchError."""
    h2load.find()
    plan = GatewayPlan(
        plugins=tuple(plugin for plugin in PLUGINS if plugin.key in arguments.rows and (tyk or not plugin.only_tyk)),
        columns=tuple(column for column in COLUMNS if column.key in arguments.columns),
        clients=arguments.clients,
        pace=pace_of(arguments, USUAL),
    )
    gateway = fronts.tyk(Path(tyk)) if tyk else fronts.harness
    with tempfile.TemporaryDirectory(prefix="tykpy-gateway-") as folder:
        measured = measure(plan, gateway, Path(folder))
    return findings(f"a Tyk Gateway (TYK={tyk})" if tyk else "the gateway of tests/gateway", plan, measured)


def _some(names: list[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(names)}")
        return found

    return chosen


def main() -> int:
    """Run the command line; return the exit code."""
    made = parser("benchmarks.gateway", DESCRIPTION, USUAL)
    rows, columns = [plugin.key for plugin in PLUGINS], [column.key for column in COLUMNS]
    made.add_argument("--rows", type=_some(rows), default=rows, help=f"some of {','.join(rows)}")
    made.add_argument("--columns", type=_some(columns), default=columns, help=f"some of {','.join(columns)}")
    made.add_argument("--clients", type=numbers, default=CLIENTS, help="simultaneous clients, e.g. 1,16,64")
    arguments = made.parse_args()
    return present(arguments, lambda: run(arguments, os.environ.get("TYK", "")))


if __name__ == "__main__":
    sys.exit(main())
