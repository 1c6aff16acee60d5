"""`python -m benchmarks.ring`: a pipelined 900-byte round trip between two processes, tykpy's channel and what else one
could take, in one run: rounds interleaved, medians compared.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.output import command_line
from benchmarks.ring_peers import PEERS, WINDOW, Peer
from tykpy.ipc.ring.checksum import crc32

PAYLOAD_BYTES: Final = 900
ROUND_TRIPS: Final = 20_000
ROUNDS: Final = 7
_WARM_UP: Final = 2_000
_NS_PER_US: Final = 1000
OPTIONAL: Final = "iceoryx2"
PACKAGES: Final = ("pyzmq", "faster-fifo", OPTIONAL)


MACHINE: Final = {
    "python": platform.python_version(),
    "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
}


class Result(NamedTuple):
    """One transport's round trip, microseconds."""

    name: str
    median_us: float
    best_us: float
    worst_us: float
    rounds_us: tuple[float, ...]


def start_peers() -> list[Peer]:
    """All transports that are installed, with their echo processes."""
    kinds: list[Callable[[], Peer]] = [*PEERS]
    if not missing():
        from benchmarks.ring_iceoryx2 import Iceoryx2Peer

        kinds.append(Iceoryx2Peer)
    return [kind() for kind in kinds]


def missing() -> list[str]:
    """What is not measured, and how it would be."""
    if find_spec(OPTIONAL) is not None:
        return []
    return [f"{OPTIONAL} is not installed: pip install --only-binary :all: {OPTIONAL}"]


def measure(peers: Sequence[Peer], rounds: int, count: int) -> list[Result]:
    """Let every peer run once per round, so that a disturbance hits all; fastest first."""
    payload = bytes(index % 251 for index in range(PAYLOAD_BYTES))
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for peer in peers:
        peer.round_trips(_WARM_UP, payload)
    pinned = pin(peers)
    print(f"{WINDOW} x {PAYLOAD_BYTES} bytes in flight, CRC-32 by {crc32.__module__}, {pinned=}", file=sys.stderr)
    for _ in range(rounds):
        for peer in peers:
            start = time.perf_counter_ns()
            peer.round_trips(count, payload)
            times[peer.name].append((time.perf_counter_ns() - start) / count / _NS_PER_US)
    results = [Result(name, statistics.median(took), min(took), max(took), tuple(took)) for name, took in times.items()]
    return sorted(results, key=lambda result: result.median_us)


def pin(peers: Sequence[Peer]) -> bool:
    """Give this process one core and the echo processes another, for every peer the same; False where there is but one.

    Without it the scheduler often puts both on one core, in one run but not in the next.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return False
    for pid, core in [(os.getpid(), cores[0]), *((peer.pid, cores[1]) for peer in peers)]:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {core})
    return True


def table(results: Sequence[Result]) -> str:
    """The results for people."""
    lines = [f"{'transport':24} {'median us':>10} {'best':>8} {'worst':>8} {'ratio':>7}"]
    fastest = results[0].median_us
    for name, median, best, worst, _ in results:
        lines.append(f"{name:24} {median:10.2f} {best:8.2f} {worst:8.2f} {median / fastest:6.2f}x")
    return "\n".join(lines)


def report(results: Sequence[Result], rounds: int, count: int) -> dict[str, object]:
    """The results for programs, with what they depend on."""
    return {
        "command": command_line("benchmarks.ring"),
        **MACHINE,
        "versions": _versions(),
        "missing": missing(),
        "crc32": crc32.__module__,
        "payload_bytes": PAYLOAD_BYTES,
        "window": WINDOW,
        "rounds": rounds,
        "round_trips": count,
        "results": [result._asdict() for result in results],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> None:
    """Run, print the table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--count", type=int, default=ROUND_TRIPS, help="round trips per round and transport")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    peers = start_peers()
    try:
        results = measure(peers, options.rounds, options.count)
    finally:
        for peer in peers:
            peer.close()
    print(table(results))
    for text in missing():
        print(text)
    print(", ".join(f"{name} {found}" for name, found in (MACHINE | _versions()).items()))
    print(f"Made by: {command_line('benchmarks.ring')}")
    if options.json is not None:
        options.json.write_text(json.dumps(report(results, options.rounds, options.count), indent=2) + "\n")


if __name__ == "__main__":
    main()
