"""`python -m benchmarks.bodies`: what bodies of 1 KiB to 4 MiB cost, in the broker and in a grpcio server, in one run.

Both serve the same hook on a Unix socket and are driven by h2load over one connection: frames of 16 KiB, as HTTP/2
clients send them unless told otherwise (grpc-go always does), and windows on h2load's side that hold nothing back. Each
server has its own windows.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks import h2load
from benchmarks.contenders import SYNC, sync_and_broker
from benchmarks.driving import WARM_UP_CALLS, h2load_case
from benchmarks.objects import answers, upload
from benchmarks.reports import FIGURES, Findings, Table, figures, figures_dict, numbers, pace_of, parser, present
from benchmarks.rounds import Pace, Readings, interleave
from tykpy.bench.measure import MIB
from tykpy.broker.units import show_size

KIB: Final = 1024
USUAL: Final = Pace(rounds=3, seconds=1.0)
SIZES: Final = (KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
WARM_UP_BYTES: Final = 64 * MIB
COLUMNS: Final = ("body", "server", "MiB/s", *FIGURES, "CPU us per MiB", "machine", "req/s : sync", "sync : CPU")


def measure(pace: Pace, sizes: Sequence[int], workers: int, streams: int) -> Findings:
    """Start both servers in a folder that is removed afterwards, and measure them."""
    h2load.find()
    with tempfile.TemporaryDirectory(prefix="tykpy-bench-") as name, ExitStack() as stack:
        servers = sync_and_broker(Path(name), workers)
        for server in servers.values():
            stack.enter_context(server)
        cases = []
        for size in sizes:
            item, warm_up = upload(size), min(WARM_UP_CALLS, WARM_UP_BYTES // size)
            cases += [
                h2load_case(
                    _name(size, server), one, item, answers(item), Path(name), streams, pace.seconds, 1, warm_up
                )
                for server, one in servers.items()
            ]
        found = interleave(cases, pace.rounds)
    pairs = [(size, server) for size in sizes for server in servers]
    return Findings(
        [Table(COLUMNS, [_cells(found, *pair) for pair in pairs])],
        ["machine: share of all CPUs that server and load generator used; at 100 % the machine is the limit."],
        {"rows": [_row(found, *pair) for pair in pairs]},
    )


def _name(size: int, server: str) -> str:
    return f"{server}; {size}"


def _row(found: Readings, size: int, server: str) -> dict[str, str | float]:
    name, sync = _name(size, server), _name(size, SYNC)
    ratio, cpu_ratio = found.ratio(name, sync, "rate"), found.ratio(sync, name, "cpu_us")
    return {"size": size, "server": server, "ratio": ratio, "cpu_ratio": cpu_ratio, **figures_dict(found, name)}


def _cells(found: Readings, size: int, server: str) -> tuple[str, ...]:
    name, sync = _name(size, server), _name(size, SYNC)
    rate, cpu_us, load_us = (found.median(name, figure) for figure in ("rate", "cpu_us", "load_us"))
    return (
        show_size(size),
        server,
        f"{rate * size / MIB:,.0f}",
        *figures(found, name),
        f"{cpu_us * MIB / size:,.0f}",
        f"{rate * (cpu_us + load_us) / 1e6 / (os.cpu_count() or 1):.0%}",
        f"{found.ratio(name, sync, 'rate'):.2f}x",
        f"{found.ratio(sync, name, 'cpu_us'):.2f}x",
    )


def main() -> int:
    """Run the command line; return the exit code."""
    made = parser("benchmarks.bodies", __doc__, USUAL)
    made.add_argument("--sizes", type=numbers, default=SIZES, metavar="BYTES,...", help="sizes of the body")
    made.add_argument("--workers", type=int, default=2, help="workers of the broker")
    made.add_argument("--streams", type=int, default=8, help="calls at a time")
    arguments = made.parse_args()
    pace = pace_of(arguments, USUAL)
    return present(arguments, lambda: measure(pace, arguments.sizes, arguments.workers, arguments.streams))


if __name__ == "__main__":
    sys.exit(main())
