"""`python -m benchmarks.compare`: the broker beside the servers that a Tyk user could run instead, in one run.

Each serves the same hook on a Unix socket and is driven by h2load over one connection. All are up all the time, and
each gets its turn in every round, so that a disturbance hits all; the tables show medians over the rounds.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rich.table import Table

from benchmarks import h2load, rpc_load
from benchmarks.contenders import contenders
from benchmarks.errors import BenchmarkError
from benchmarks.h2load import Load
from benchmarks.measure import Cost, bare_interpreter_mib, cpu_per_request, memory
from benchmarks.objects import expected_answer, framed, request_bytes
from benchmarks.output import (
    EXIT_ERROR,
    add_file_flags,
    attempt,
    command_line,
    console_for_tables,
    numbers,
    say,
    write_files,
)
from benchmarks.results import Memory, Report, Row, Sample, embedded_row, machine, markdown, median_row
from benchmarks.running import RunningServer
from benchmarks.servers import embedded
from tykpy.bench.measure import cpu_ns

WARM_UP_REQUESTS: Final = 1000
MIN_REQUESTS: Final = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    workers: tuple[int, ...] = (1, 2, 4, 8)
    streams: tuple[int, ...] = (1, 8, 64)
    rounds: int = 3
    seconds: float = 2.0
    """Aimed-at length of one run of the load generator."""
    grpc_only: bool = False
    """Leave MessagePack-RPC out."""


QUICK: Final = Plan(rounds=1, seconds=0.5)


@dataclass(frozen=True, slots=True)
class Target:
    """A server and one way to call it."""

    name: str
    server: RunningServer
    load: Callable[[int, int], Load]
    """Makes so many requests, so many at a time."""


def targets(servers: Sequence[RunningServer], body: Path, *, grpc_only: bool) -> list[Target]:
    """Every server over gRPC, and over MessagePack-RPC where it has that, too."""
    answer_size = len(framed(expected_answer().SerializeToString()))
    found = []
    for server in servers:
        grpc_load = partial(h2load.run, server.socket, body, answer_size=answer_size)
        found.append(Target(server.name, server, grpc_load))
        if server.rpc_socket is not None and not grpc_only:
            found.append(Target(f"{server.name}, msgpack", server, partial(rpc_load.run, server.rpc_socket)))
    return found


class Comparison:
    """Drives the running servers and keeps what was measured."""

    def __init__(self, servers: Sequence[RunningServer], plan: Plan, body: Path) -> None:
        self._servers = servers
        self._targets = targets(servers, body, grpc_only=plan.grpc_only)
        self._plan = plan
        self._samples: dict[tuple[str, int], list[Sample]] = {}
        self._requests: dict[tuple[str, int], int] = {}

    def run(self, command: str, depends_on: dict[str, str]) -> Report:
        """Warm up, measure all rounds, check the answers again."""
        idle = [memory(server.pids) for server in self._servers]
        bare = bare_interpreter_mib()
        for target, streams in self._turns():
            self._warm_up(target, streams)
        inside: list[embedded.EmbeddedResult] = []
        for number in range(1, self._plan.rounds + 1):
            say(f"round {number} of {self._plan.rounds}")
            for target, streams in self._turns():
                self._measure(target, streams)
            inside.append(embedded.measure(request_bytes(), self._plan.seconds))
        for server in self._servers:
            server.check()
        return Report(
            command=command,
            machine=depends_on,
            rows=tuple(self._row(target, streams) for target, streams in self._turns()),
            memory=tuple(_memory_of(server, cost) for server, cost in zip(self._servers, idle, strict=True)),
            bare_interpreter_mib=bare,
            embedded=embedded_row(inside),
        )

    def _turns(self) -> Iterator[tuple[Target, int]]:
        for streams in self._plan.streams:
            for target in self._targets:
                yield target, streams

    def _row(self, target: Target, streams: int) -> Row:
        return median_row(target.name, streams, self._samples[target.name, streams])

    def _warm_up(self, target: Target, streams: int) -> None:
        load = self._load(target, streams, WARM_UP_REQUESTS)
        self._requests[target.name, streams] = max(MIN_REQUESTS, int(load.rate * self._plan.seconds))

    def _measure(self, target: Target, streams: int) -> None:
        pids = target.server.pids
        before = cpu_ns(pids)
        load = self._load(target, streams, self._requests[target.name, streams])
        cpu = cpu_per_request(before, cpu_ns(pids), load.requests)
        self._samples.setdefault((target.name, streams), []).append(Sample(load, cpu))

    def _load(self, target: Target, streams: int, requests: int) -> Load:
        try:
            return target.load(requests, streams)
        except BenchmarkError:
            target.server.check()  # the server's own error says more, where it has one
            raise


def compare(plan: Plan, command: str) -> Report:
    """Start all servers in a folder that is gone afterwards, and measure them."""
    h2load.find()
    depends_on = machine()
    with tempfile.TemporaryDirectory(prefix="tykpy-bench-") as folder, ExitStack() as stack:
        body = Path(folder) / "request"
        body.write_bytes(framed(request_bytes()))
        servers = contenders(Path(folder), plan.workers)
        for server in servers:
            say(f"starting {server.name}")
            stack.enter_context(server)
        return Comparison(servers, plan, body).run(command, depends_on)


def _memory_of(server: RunningServer, idle: Cost) -> Memory:
    pids = server.pids
    return Memory(server.name, len(pids), idle.front, idle.children, memory(pids).total)


def show(report: Report) -> None:
    """Print the tables."""
    console = console_for_tables()
    for columns, rows in report.tables():
        table = Table()
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    for note in report.notes():
        console.print(note, highlight=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    parser.add_argument("--workers", type=numbers, help="worker counts of the broker, e.g. 1,2,4,8")
    parser.add_argument("--streams", type=numbers, help="concurrent streams, e.g. 1,8,64")
    parser.add_argument("--grpc-only", action="store_true", help="leave MessagePack-RPC out")
    parser.add_argument("--rounds", type=int, help="rounds to take the median of")
    parser.add_argument("--seconds", type=float, help="about how long each run takes")
    add_file_flags(parser)
    parser.add_argument(
        "--install", action="store_true", help="install h2load with apt-get where it is missing, as root"
    )
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    base = QUICK if arguments.quick else Plan()
    return Plan(
        workers=arguments.workers or base.workers,
        streams=arguments.streams or base.streams,
        rounds=arguments.rounds or base.rounds,
        seconds=arguments.seconds or base.seconds,
        grpc_only=arguments.grpc_only,
    )


def main() -> int:
    """Entry point; returns the exit code."""
    arguments = _arguments()
    if arguments.install:
        h2load.install()
    report = attempt(lambda: compare(_plan(arguments), command_line("benchmarks.compare")))
    if report is None:
        return EXIT_ERROR
    show(report)
    write_files(arguments, report.as_dict(), markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
