"""The command line: `python -m benchmarks.capacity` measures one calibration, and whether the formula holds."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import h2load
from benchmarks.bars.rounds import QUICK, Pace
from benchmarks.capacity.measuring import confirm, markdown
from benchmarks.output import EXIT_ERROR, attempt, command_line
from benchmarks.results import doubts, machine

NORMAL: Final = Pace(rounds=3, seconds=0.5)


def measure(pace: Pace, command: str) -> str:
    """The table and its notes; raises BenchmarkError or CommandError."""
    h2load.find()
    depends_on = machine()
    with tempfile.TemporaryDirectory(prefix="tykpy-capacity-") as folder:
        found = confirm(pace, Path(folder))
    notes = [
        *doubts(depends_on),
        f"Medians of {pace.rounds} interleaved rounds of about {pace.seconds:g} s.",
        ", ".join(f"{key} {value}" for key, value in depends_on.items()),
        f"Made by: {command}",
    ]
    return markdown(found, notes)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    parser.add_argument("--rounds", type=int, help="rounds to take the median of")
    parser.add_argument("--seconds", type=float, help="about how long each measurement takes")
    arguments = parser.parse_args()
    base = QUICK if arguments.quick else NORMAL
    pace = Pace(arguments.rounds or base.rounds, arguments.seconds or base.seconds)
    report = attempt(lambda: measure(pace, command_line("benchmarks.capacity")))
    if report is None:
        return EXIT_ERROR
    print(report, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
