"""The command line: `python -m benchmarks.bars --only throughput --only ring`."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import h2load
from benchmarks.bars.bar import BarOutcome, findings
from benchmarks.bars.groups import GROUPS, NAMES
from benchmarks.reports import Findings, pace_of, parser, present, say
from benchmarks.rounds import Pace
from tykpy.commands.errors import CommandError


def measure(names: Sequence[str], pace: Pace) -> Findings:
    """Measure these bars; if one cannot be measured, the others still are."""
    h2load.find()
    outcomes: list[BarOutcome] = []
    failures: dict[str, str] = {}
    for group in GROUPS:
        wanted = [bar.name for bar in group.bars if bar.name in names]
        if not wanted:
            continue
        say(f"measuring {', '.join(wanted)}")
        try:
            with tempfile.TemporaryDirectory(prefix="tykpy-bars-") as folder:
                found = group.measure(pace, Path(folder))
        except CommandError as error:
            failures.update(dict.fromkeys(wanted, str(error)))
            say(f"  failed: {error}")
            continue
        for one in found:
            if one.bar.name in wanted:
                outcomes.append(one)
                say(f"  {one.bar.name}: {one.measured}, {'met' if one.met else 'NOT met'}; {one.detail}")
    return findings(pace, outcomes, failures)


def main() -> int:
    """Run the command line; return the exit code, which is not 0 if a bar could not be measured."""
    made = parser("benchmarks.bars", __doc__, Pace())
    made.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    arguments = made.parse_args()
    return present(arguments, lambda: measure(arguments.only or NAMES, pace_of(arguments, Pace())))


if __name__ == "__main__":
    sys.exit(main())
