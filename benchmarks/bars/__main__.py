"""The command line: `python -m benchmarks.bars --only throughput --only ring`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import h2load
from benchmarks.bars.bar import Outcome
from benchmarks.bars.groups import GROUPS, NAMES
from benchmarks.bars.report import BarsReport
from benchmarks.bars.rounds import QUICK, Pace, say
from benchmarks.errors import BenchmarkError
from benchmarks.results import machine
from commands.errors import CommandError

EXIT_ERROR: Final = 1


def measure(names: Sequence[str], pace: Pace, command: str) -> BarsReport:
    """Measure these bars; one that cannot be measured does not keep the others from it."""
    h2load.find()
    depends_on = machine()
    outcomes: list[Outcome] = []
    failures: dict[str, str] = {}
    for group in GROUPS:
        wanted = [bar.name for bar in group.bars if bar.name in names]
        if not wanted:
            continue
        say(f"measuring {', '.join(wanted)}")
        try:
            with tempfile.TemporaryDirectory(prefix="tykpy-bars-") as folder:
                found = group.measure(pace, Path(folder))
        except (BenchmarkError, CommandError) as error:
            failures.update(dict.fromkeys(wanted, str(error)))
            say(f"  failed: {error}")
            continue
        for outcome in found:
            if outcome.bar.name in wanted:
                outcomes.append(outcome)
                say(
                    f"  {outcome.bar.name}: {outcome.measured}, {'met' if outcome.met else 'NOT met'}; {outcome.detail}"
                )
    return BarsReport(command, depends_on, pace, tuple(outcomes), failures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bars", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    parser.add_argument("--rounds", type=int, help="rounds to take the median of")
    parser.add_argument("--seconds", type=float, help="about how long each measurement takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    return parser.parse_args()


def main() -> int:
    """Entry point; returns the exit code: not 0 where a bar could not be measured."""
    arguments = _arguments()
    base = QUICK if arguments.quick else Pace()
    pace = Pace(arguments.rounds or base.rounds, arguments.seconds or base.seconds)
    command = " ".join(["python -m benchmarks.bars", *sys.argv[1:]])
    try:
        report = measure(arguments.only or NAMES, pace, command)
    except BenchmarkError as error:
        say(f"error: {error}")
        return EXIT_ERROR
    print(report.markdown(), end="")
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown())
    return EXIT_ERROR if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
