"""The command line: `python -m benchmarks.ring --rounds 7 --count 20000`."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final, NamedTuple

from benchmarks.reports import Findings, Table, pace_of, parser, present
from benchmarks.ring.transports import TRANSPORTS, WINDOW, Transport
from benchmarks.rounds import Pace, in_rounds
from tykpy.bench.measure import NS_PER_US
from tykpy.ipc.ring.checksum import crc32

PAYLOAD: Final = bytes(index % 251 for index in range(900))
ROUND_TRIPS: Final = 20_000
USUAL: Final = Pace(rounds=7)
OPTIONAL: Final = "iceoryx2"
PACKAGES: Final = ("pyzmq", "faster-fifo", OPTIONAL)
COLUMNS: Final = ("transport", "median us", "best", "worst", "ratio")
_WARM_UP: Final = 2_000


class RoundTrip(NamedTuple):
    """One transport's round trip, in microseconds."""

    name: str
    median_us: float
    best_us: float
    worst_us: float
    rounds_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TransportCase:
    """A transport whose round trips are timed."""

    transport: Transport
    count: int

    @property
    def name(self) -> str:
        """The transport's name."""
        return self.transport.name

    def warm_up(self) -> None:
        """Fill caches and buffers."""
        self.transport.round_trips(_WARM_UP, PAYLOAD)

    def measure(self) -> float:
        """Return the microseconds of one round trip."""
        start = time.perf_counter_ns()
        self.transport.round_trips(self.count, PAYLOAD)
        return (time.perf_counter_ns() - start) / self.count / NS_PER_US


def measure(rounds: int, count: int) -> Findings:
    """Measure every transport that is installed in each round."""
    transports = _start()
    try:
        pinned = pin(transports)
        found = in_rounds([TransportCase(transport, count) for transport in transports], rounds)
    finally:
        for transport in transports:
            transport.close()
    trips = [
        RoundTrip(name, statistics.median(took), min(took), max(took), tuple(took)) for name, took in found.items()
    ]
    trips.sort(key=lambda trip: trip.median_us)
    rows = [
        (trip.name, *(f"{value:.2f}" for value in trip[1:4]), f"{trip.median_us / trips[0].median_us:.2f}x")
        for trip in trips
    ]
    crc = crc32.__module__
    notes = [
        f"{WINDOW} x {len(PAYLOAD)} bytes in flight, CRC-32 by {crc}, {'' if pinned else 'not '}pinned to two cores.",
        *missing(),
        ", ".join(f"{name} {found}" for name, found in _versions().items()),
    ]
    figures = {
        "versions": _versions(), "missing": missing(), "crc32": crc, "payload_bytes": len(PAYLOAD), "window": WINDOW,
        "rounds": rounds, "round_trips": count, "results": [trip._asdict() for trip in trips],
    }  # fmt: skip
    return Findings([Table(COLUMNS, rows)], notes, figures)


def missing() -> list[str]:
    """Return what is not measured, and how to install it."""
    if find_spec(OPTIONAL) is not None:
        return []
    return [f"{OPTIONAL} is not installed: pip install --only-binary :all: {OPTIONAL}"]


def pin(transports: Sequence[Transport]) -> bool:
    """Give this process one core and all echo processes another; return False if there is only one core.

    Without it the scheduler often puts both on one core, in one run but not in the next.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return False
    for pid, core in [(os.getpid(), cores[0]), *((transport.pid, cores[1]) for transport in transports)]:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {core})
    return True


def _start() -> list[Transport]:
    kinds: list[Callable[[], Transport]] = [*TRANSPORTS]
    if not missing():
        from benchmarks.ring.iceoryx2 import Iceoryx2Transport

        kinds.append(Iceoryx2Transport)
    return [kind() for kind in kinds]


def _versions() -> dict[str, str]:
    found = {"machine": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> int:
    """Run the command line; return the exit code."""
    made = parser("benchmarks.ring", __doc__, USUAL)
    made.add_argument("--count", type=int, default=ROUND_TRIPS, help="round trips per round and transport")
    arguments = made.parse_args()
    return present(arguments, lambda: measure(pace_of(arguments, USUAL).rounds, arguments.count))


if __name__ == "__main__":
    sys.exit(main())
