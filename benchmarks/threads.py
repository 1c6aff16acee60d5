"""`python -m benchmarks.threads`: `--threads auto` against each fixed number of threads.

All brokers run at the same time and are measured in interleaved rounds; figures are medians. Failed calls are counted.
"""

import contextlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.driving import drive
from benchmarks.reports import Findings, Table, pace_of, parser, present, say
from benchmarks.rounds import Pace, in_rounds
from tykpy.bench.results import Sample
from tykpy.bench.scenarios import BUILT_IN
from tykpy.bench.serving import OwnBroker

USUAL: Final = Pace(rounds=5, seconds=1.5)
AUTO: Final = 0
SETTINGS: Final = (AUTO, 1, 2, 4, 8, 16, 32)
WORKERS: Final = 2
STREAMS: Final = 64
LEARNING_SECONDS: Final = 1.0
"""Load before the first round, from which `auto` learns how long hooks wait."""
PADDING: Final = 32
"""Least number of bytes that a header takes."""
LOADS: Final = {
    "20 ms waiting": ("wait",),
    "2 ms CPU": ("cpu",),
    "header edit": ("header",),
    "all three in turn": ("wait", "cpu", "header"),
}
"""Scenarios of `tykpy bench`."""


@dataclass(frozen=True, slots=True)
class ThreadsCase:
    """A broker with so many threads under one of the loads."""

    threads: int
    broker: OwnBroker
    messages: Sequence[bytes]
    seconds: float

    @property
    def name(self) -> str:
        """The number of threads."""
        return str(self.threads)

    def warm_up(self) -> None:
        """Let the broker learn the hooks' times."""
        drive(self.broker, self.messages, STREAMS, LEARNING_SECONDS)

    def measure(self) -> Sample:
        """Measure one round."""
        return drive(self.broker, self.messages, STREAMS, self.seconds)


def measure(pace: Pace) -> Findings:
    """Measure all loads with all brokers."""
    files = sorted({file for names in LOADS.values() for name in names for file in BUILT_IN[name].files})
    found = {}
    with contextlib.ExitStack() as stack:
        brokers = {number: stack.enter_context(OwnBroker(files, WORKERS, number, STREAMS)) for number in SETTINGS}
        for load, names in LOADS.items():
            say(f"measuring {load}")
            messages = _messages(names)
            cases = [ThreadsCase(number, broker, messages, pace.seconds) for number, broker in brokers.items()]
            found[load] = in_rounds(cases, pace.rounds)
    columns = ("hook", "auto", "best number", "auto : best", *map(str, SETTINGS[1:]))
    rows = [_cells(load, samples) for load, samples in found.items()]
    return Findings([Table(columns, rows)], [], {"rows": [dict(zip(columns, row, strict=True)) for row in rows]})


def _messages(names: Sequence[str]) -> list[bytes]:
    """Return requests of equal length, as the load generator needs them."""
    objects = [BUILT_IN[name].build(None) for name in names]
    length = PADDING + max(one.ByteSize() for one in objects)
    for one in objects:
        while one.ByteSize() < length:
            one.request.headers["X-Padding"] += "x"
    return [one.SerializeToString(deterministic=True) for one in objects]


def _cells(load: str, samples: Mapping[str, Sequence[Sample]]) -> tuple[str, ...]:
    rates = {number: statistics.median(sample.rate for sample in found) for number, found in samples.items()}
    # One that answers calls with errors is not the best, however fast it is.
    errors = {number: sum(sample.failed for sample in found) for number, found in samples.items()}
    best = max((number for number in rates if number != str(AUTO) and not errors[number]), key=rates.__getitem__)
    cells = [
        f"{rate:,.0f}" + (f" ({errors[number]:,} errors)" if errors[number] else "") for number, rate in rates.items()
    ]
    return load, cells[0], best, f"{rates[str(AUTO)] / rates[best]:.2f}", *cells[1:]


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = parser("benchmarks.threads", __doc__, USUAL).parse_args()
    return present(arguments, lambda: measure(pace_of(arguments, USUAL)))


if __name__ == "__main__":
    sys.exit(main())
