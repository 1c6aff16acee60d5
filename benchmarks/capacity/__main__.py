"""The command line: `python -m benchmarks.capacity` measures one calibration, and whether the formula holds."""

import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.capacity.measuring import confirm, findings
from benchmarks.reports import Findings, pace_of, parser, present
from benchmarks.rounds import Pace

USUAL: Final = Pace(rounds=3, seconds=0.5)


def measure(pace: Pace) -> Findings:
    """Measure in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tykpy-capacity-") as folder:
        return findings(confirm(pace, Path(folder)), pace)


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = parser("benchmarks.capacity", __doc__, USUAL).parse_args()
    return present(arguments, lambda: measure(pace_of(arguments, USUAL)))


if __name__ == "__main__":
    sys.exit(main())
