"""What the benchmarks' command lines share: flags, errors, notes on the machine, Markdown tables and JSON."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.rounds import QUICK, Pace, Readings
from tykpy.bench import results
from tykpy.commands.errors import CommandError

EXIT_ERROR: Final = 1
PACKAGES: Final = ("grpcio", "msgpack", "uvloop", "hpack")
LOAD_AVERAGE: Final = "load average"
QUIET_LOAD_AVERAGE: Final = 0.5
"""Above this, other processes use the CPUs that the servers and the load generator share."""
FIGURES: Final = (
    "requests/s", "min..max", "p50 us", "p99 us", "front CPU us", "workers CPU us", "CPU us", "load CPU us",
)  # fmt: skip
"""Columns of `figures`."""


class Table(NamedTuple):
    """A table's columns, and its rows of cells."""

    columns: Sequence[str]
    rows: Iterable[Sequence[str]]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = (self.columns, ("---",) * len(self.columns), *self.rows)
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a benchmark measured: tables and notes for people, figures for programs, and what it could not measure."""

    tables: Sequence[Table]
    notes: Sequence[str]
    figures: Mapping[str, Any]
    failures: Mapping[str, str] = field(default_factory=dict)
    """Reasons by what could not be measured."""

    def as_dict(self, machine: Mapping[str, str], command: str) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"command": command, "machine": machine, **self.figures, "failures": self.failures}

    def markdown(self, machine: Mapping[str, str], command: str) -> str:
        """Return the tables with their notes, for people."""
        notes = (
            *(f"Not measured: {name}: {why}" for name, why in self.failures.items()),
            *doubts(machine),
            *self.notes,
            ", ".join(f"{key} {value}" for key, value in machine.items()),
            f"Made by: {command}",
        )
        return "\n\n".join([*(table.markdown() for table in self.tables), bullets(notes)]) + "\n"


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"* {line}" for line in lines)


def figures(found: Readings, name: str) -> tuple[str, ...]:
    """Return the cells of a case under `FIGURES`."""
    rates = found.each(name, "rate")
    return (
        f"{found.median(name, 'rate'):,.0f}",
        f"{min(rates):,.0f}..{max(rates):,.0f}",
        *(f"{found.median(name, figure):,.0f}" for figure in ("p50_us", "p99_us")),
        *(f"{found.median(name, figure):,.1f}" for figure in ("broker_us", "workers_us", "cpu_us", "load_us")),
    )


def figures_dict(found: Readings, name: str) -> dict[str, float]:
    """Return the medians of a case, for JSON."""
    rates = found.each(name, "rate")
    names = ("rate", "p50_us", "p99_us", "broker_us", "workers_us", "cpu_us", "load_us")
    medians = {figure: found.median(name, figure) for figure in names}
    return medians | {"rate_min": min(rates), "rate_max": max(rates)}


def machine() -> dict[str, str]:
    """Return what figures depend on besides the code. Ask before the load, for the load average of others."""
    load_average = {LOAD_AVERAGE: f"{os.getloadavg()[0]:.1f}"}
    return results.machine() | load_average | {package: version(package) for package in PACKAGES}


def doubts(machine: Mapping[str, str]) -> list[str]:
    """Return a warning if other processes used the CPUs."""
    load_average = machine.get(LOAD_AVERAGE, "0")
    if float(load_average) <= QUIET_LOAD_AVERAGE:
        return []
    return [f"Not to be relied on: the load average was {load_average} before the start; repeat on a quiet machine."]


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(","))


def parser(module: str, description: str | None, pace: Pace | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that benchmarks share; `pace` is the usual one, None if there are no rounds."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    made.set_defaults(module=module)
    if pace is not None:
        made.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
        made.add_argument("--rounds", type=int, help=f"rounds to take the median of  [{pace.rounds}]")
        made.add_argument("--seconds", type=float, help=f"about how long each measurement takes  [{pace.seconds:g}]")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    return made


def pace_of(arguments: argparse.Namespace, usual: Pace) -> Pace:
    """Return the rounds and seconds that the flags ask for."""
    base = QUICK if arguments.quick else usual
    return Pace(arguments.rounds or base.rounds, arguments.seconds or base.seconds)


def present(arguments: argparse.Namespace, measure: Callable[[], Findings]) -> int:
    """Measure, print the tables, and write the files that were asked for; return the exit code."""
    depends_on, command = machine(), " ".join([f"python -m {arguments.module}", *sys.argv[1:]])
    try:
        found = measure()
    except CommandError as error:
        say(f"error: {error}")
        return EXIT_ERROR
    print(found.markdown(depends_on, command), end="")
    if arguments.json:
        arguments.json.write_text(json.dumps(found.as_dict(depends_on, command), indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(found.markdown(depends_on, command))
    return EXIT_ERROR if found.failures else 0
