"""`python -m benchmarks.idle_connections`: what idle connections cost a working one.

One connection with 64 streams, driven by h2load, beside none and beside N idle connections, in turn.
"""

import resource
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import h2load
from benchmarks.contenders import HookBroker
from benchmarks.driving import h2load_case, idle_connections
from benchmarks.objects import answers, typical_post
from benchmarks.reports import FIGURES, Findings, Table, figures, figures_dict, pace_of, parser, present
from benchmarks.rounds import Pace, interleave

USUAL: Final = Pace(rounds=5, seconds=2.0)
STREAMS: Final = 64
WORKERS: Final = 2
OWN_FILES: Final = 200
"""Descriptors that are needed besides the connections."""


def measure(pace: Pace, count: int) -> Findings:
    """Measure one broker with and without idle connections."""
    h2load.find()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + OWN_FILES, hard))
    item = typical_post()
    with tempfile.TemporaryDirectory() as name, HookBroker(Path(name), WORKERS) as broker:
        cases = [
            replace(
                h2load_case(f"{idle:,}", broker, item, answers(item), Path(name), STREAMS, pace.seconds),
                around=partial(idle_connections, broker.address, idle),
            )
            for idle in (0, count)
        ]
        found = interleave(cases, pace.rounds)
    names = [case.name for case in cases]
    rows = [(name, *figures(found, name)) for name in names]
    return Findings(
        [Table(("idle connections", *FIGURES), rows)], [], {"rows": {name: figures_dict(found, name) for name in names}}
    )


def main() -> int:
    """Run the command line; return the exit code."""
    made = parser("benchmarks.idle_connections", __doc__, USUAL)
    made.add_argument("--count", type=int, default=8_000, help="idle connections (default: 8,000)")
    arguments = made.parse_args()
    return present(arguments, lambda: measure(pace_of(arguments, USUAL), arguments.count))


if __name__ == "__main__":
    sys.exit(main())
