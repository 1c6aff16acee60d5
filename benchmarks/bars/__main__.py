"""The command line: `python -m benchmarks.bars --only throughput --only ring`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import h2load
from benchmarks.bars.bar import Outcome
from benchmarks.bars.groups import GROUPS, NAMES
from benchmarks.bars.report import BarsReport
from benchmarks.bars.rounds import QUICK, Pace
from benchmarks.errors import BenchmarkError
from benchmarks.output import EXIT_ERROR, add_file_flags, attempt, command_line, say, write_files
from benchmarks.results import machine
from tykpy.commands.errors import CommandError


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
    add_file_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Entry point; returns the exit code: not 0 where a bar could not be measured."""
    arguments = _arguments()
    base = QUICK if arguments.quick else Pace()
    pace = Pace(arguments.rounds or base.rounds, arguments.seconds or base.seconds)
    report = attempt(lambda: measure(arguments.only or NAMES, pace, command_line("benchmarks.bars")))
    if report is None:
        return EXIT_ERROR
    print(report.markdown(), end="")
    write_files(arguments, report.as_dict(), report.markdown())
    return EXIT_ERROR if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
