"""`python -m benchmarks.bodies`: what bodies of 1 KiB to 4 MiB cost, in the broker and in a grpcio server, in one run.

Both serve the same hook on a Unix socket and are driven by h2load over one connection: frames of 16 KiB, as HTTP/2
clients send them unless told otherwise (grpc-go always), and windows on h2load's side that hold nothing back, for both
alike. What the servers' own windows are is theirs. Both get their turns in every round; the table shows medians.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks import h2load
from benchmarks.contenders import SYNC, broker, grpc_server
from benchmarks.measure import cpu_per_request
from benchmarks.objects import expected_answer, framed, upload
from benchmarks.output import (
    EXIT_ERROR,
    add_file_flags,
    attempt,
    command_line,
    console_for_tables,
    markdown_table,
    numbers,
    say,
    write_files,
)
from benchmarks.results import Row, Sample, machine, median_row
from benchmarks.running import RunningServer
from tykpy.bench.measure import MIB, cpu_ns

KIB: Final = 1024
WARM_UP_BYTES: Final = 64 * MIB
WARM_UP_REQUESTS: Final = 1000
MIN_REQUESTS: Final = 16
COLUMNS: Final = (
    "body", "server", "requests/s", "min..max", "MiB/s", "p50 us", "p99 us",
    "front CPU us", "workers CPU us", "CPU us", "CPU us per MiB", "load CPU us", "machine",
    "req/s : sync", "sync : CPU",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """What to measure; sizes in bytes."""

    sizes: tuple[int, ...] = (KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
    workers: int = 2
    streams: int = 8
    rounds: int = 3
    seconds: float = 1.0
    """Aimed-at length of one run of the load generator."""


@dataclass(frozen=True, slots=True)
class BodyRow:
    """One server at one size of the body: medians over all rounds."""

    size: int
    figures: Row
    ratio: float
    """Requests per second against grpcio sync at this size."""
    cpu_ratio: float
    """CPU per request of grpcio sync against this: what is left where the load generator shares the machine."""

    @property
    def cpu_us_per_mib(self) -> float:
        """CPU of all the server's processes for each MiB of body, there and back."""
        return self.figures.total_us * MIB / self.size

    @property
    def machine_share(self) -> float:
        """How much of all CPUs server and load generator used: at 1 the machine is the limit."""
        return self.figures.rate * (self.figures.total_us + self.figures.load_us) / 1e6 / (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class BodyReport:
    """Everything one run found out."""

    command: str
    machine: dict[str, str]
    rows: tuple[BodyRow, ...]

    def row(self, size: int, server: str) -> BodyRow:
        """The row of one server at one size."""
        return next(row for row in self.rows if row.size == size and row.figures.server == server)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def notes(self) -> list[str]:
        """What belongs under the table."""
        return [", ".join(f"{key} {value}" for key, value in self.machine.items()), f"Made by: {self.command}"]


class _Comparison:
    """Drives the running servers and keeps what was measured."""

    def __init__(self, servers: Sequence[RunningServer], plan: BodyPlan, folder: Path) -> None:
        self._servers = servers
        self._plan = plan
        self._folder = folder
        self._samples: dict[tuple[int, str], list[Sample]] = {}
        self._requests: dict[tuple[int, str], int] = {}
        self._answer_sizes: dict[int, int] = {}

    def run(self) -> tuple[BodyRow, ...]:
        """Check answers and warm up, then measure all rounds."""
        for size in self._plan.sizes:
            self._prepare(size)
        for number in range(1, self._plan.rounds + 1):
            say(f"round {number} of {self._plan.rounds}")
            for size, server in self._turns():
                self._measure(size, server)
        return tuple(self._row(size, server) for size, server in self._turns())

    def _turns(self) -> Iterator[tuple[int, RunningServer]]:
        for size in self._plan.sizes:
            for server in self._servers:
                yield size, server

    def _prepare(self, size: int) -> None:
        item = upload(size)
        self._body(size).write_bytes(framed(item.SerializeToString()))
        self._answer_sizes[size] = len(framed(expected_answer(item).SerializeToString()))
        requests = max(self._plan.streams * 2, min(WARM_UP_REQUESTS, WARM_UP_BYTES // size))
        for server in self._servers:
            server.check(item)
            load = self._load(size, server, requests)
            self._requests[size, server.name] = max(MIN_REQUESTS, int(load.rate * self._plan.seconds))

    def _measure(self, size: int, server: RunningServer) -> None:
        pids = server.pids
        before = cpu_ns(pids)
        load = self._load(size, server, self._requests[size, server.name])
        cpu = cpu_per_request(before, cpu_ns(pids), load.requests)
        self._samples.setdefault((size, server.name), []).append(Sample(load, cpu))

    def _load(self, size: int, server: RunningServer, requests: int) -> h2load.Load:
        return h2load.run(server.socket, self._body(size), requests, self._plan.streams, self._answer_sizes[size])

    def _body(self, size: int) -> Path:
        return self._folder / f"upload-{size}"

    def _row(self, size: int, server: RunningServer) -> BodyRow:
        figures, sync = (
            median_row(name, self._plan.streams, self._samples[size, name]) for name in (server.name, SYNC)
        )
        return BodyRow(size, figures, figures.rate / sync.rate, sync.total_us / figures.total_us)


def measure(plan: BodyPlan | None = None, command: str = "benchmarks.bodies.measure") -> BodyReport:
    """Start both servers in a folder that is gone afterwards, and measure them."""
    h2load.find()
    plan = plan or BodyPlan()
    depends_on = machine()
    with tempfile.TemporaryDirectory(prefix="tykpy-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        servers = [grpc_server(folder, SYNC, "grpc_sync"), broker(folder, plan.workers)]
        for server in servers:
            stack.enter_context(server)
        return BodyReport(command, depends_on, _Comparison(servers, plan, folder).run())


def cells(row: BodyRow) -> tuple[str, ...]:
    """One line of the table."""
    figures = row.figures
    return (
        size_name(row.size),
        figures.server,
        f"{figures.rate:,.0f}",
        f"{figures.rate_min:,.0f}..{figures.rate_max:,.0f}",
        f"{figures.rate * row.size / MIB:,.0f}",
        f"{figures.p50_us:,.0f}",
        f"{figures.p99_us:,.0f}",
        f"{figures.front_us:,.0f}",
        f"{figures.workers_us:,.0f}",
        f"{figures.total_us:,.0f}",
        f"{row.cpu_us_per_mib:,.0f}",
        f"{figures.load_us:,.0f}",
        f"{row.machine_share:.0%}",
        f"{row.ratio:.2f}x",
        f"{row.cpu_ratio:.2f}x",
    )


def size_name(size: int) -> str:
    """A size as people write it."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def show(report: BodyReport) -> None:
    """Print the table."""
    console = console_for_tables()
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in report.rows:
        table.add_row(*cells(row))
    console.print(table)
    for note in report.notes():
        console.print(note, highlight=False)


def markdown(report: BodyReport) -> str:
    """The table for the docs."""
    table = markdown_table(COLUMNS, map(cells, report.rows))
    return "\n\n".join([table, "\n".join(f"* {note}" for note in report.notes())]) + "\n"


def _arguments() -> argparse.Namespace:
    usual = BodyPlan()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bodies", description=__doc__)
    parser.add_argument("--sizes", type=numbers, default=usual.sizes, metavar="BYTES,...", help="sizes of the body")
    parser.add_argument("--workers", type=int, default=usual.workers, help="workers of the broker")
    parser.add_argument("--streams", type=int, default=usual.streams, help="calls at a time")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="rounds to take the median of")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="about how long each run takes")
    add_file_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Entry point; returns the exit code."""
    arguments = _arguments()
    plan = BodyPlan(arguments.sizes, arguments.workers, arguments.streams, arguments.rounds, arguments.seconds)
    report = attempt(lambda: measure(plan, command_line("benchmarks.bodies")))
    if report is None:
        return EXIT_ERROR
    show(report)
    write_files(arguments, report.as_dict(), markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
