"""Starts every gateway with its plugin server, checks each API's answer, and measures them in interleaved rounds."""

import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from benchmarks.errors import BenchmarkError, ServerError
from benchmarks.gateway import load
from benchmarks.gateway.columns import Column, write_bundles
from benchmarks.gateway.fronts import Front, Gateway, Setup
from benchmarks.gateway.load import HttpLoad
from benchmarks.gateway.plugins import SOCKET, Plugin
from benchmarks.gateway.programs import go_program
from benchmarks.measure import NS_PER_US
from benchmarks.output import say
from benchmarks.running import RETRY_SECONDS, RunningProgram
from tests.support.peers.redis_server import free_port
from tykpy.bench.measure import cpu_ns

CLIENTS: Final = (1, 16, 64)
ROUNDS: Final = 3
SECONDS: Final = 2
CALL_SECONDS: Final = 10.0
READY_SECONDS: Final = 30.0
"""Until a gateway has loaded its APIs and reached its plugin server."""
MARKS: Final = "X-Marks"
"""The upstream's header with the number of headers that hooks have set."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    plugins: tuple[Plugin, ...]
    columns: tuple[Column, ...]
    clients: tuple[int, ...] = CLIENTS
    rounds: int = ROUNDS
    seconds: int = SECONDS
    """Of one run of the load generator, which takes whole seconds only."""


class Cell(NamedTuple):
    """One figure of the tables."""

    plugin: Plugin
    column: Column
    clients: int


class Sample(NamedTuple):
    """One cell in one round; CPU in microseconds per request."""

    load: HttpLoad
    gateway_us: float
    front_us: float
    """Of the plugin server's first process."""
    workers_us: float
    """Of its other processes."""
    upstream_us: float


Samples = dict[Cell, list[Sample]]
"""Round by round."""


class Measured(NamedTuple):
    """One run."""

    samples: Samples
    left_out: dict[str, str]
    """Titles of plugins that could not be measured, and why."""


class Contender(NamedTuple):
    """A plugin server with a gateway of its own, both running."""

    front: Front
    server: RunningProgram | None


def measure(plan: Plan, gateway: Gateway, folder: Path) -> Measured:
    """Measure everything but plugins that cannot be started or answer wrongly."""
    address = f"127.0.0.1:{free_port()}"
    command = [go_program("benchmark"), "upstream", address]
    upstream = RunningProgram("upstream", command, folder / "upstream.log", lambda: _answers(address))
    with ExitStack() as running:
        running.enter_context(upstream)
        contenders: dict[Plugin, Contender] = {}
        left_out: dict[str, str] = {}
        for plugin in plan.plugins:
            say(f"starting {plugin.title}")
            try:
                contenders[plugin] = start(plugin, plan, gateway, folder, address, running)
            except BenchmarkError as error:
                say(f"error: {plugin.title} is left out: {error}")
                left_out[plugin.title] = str(error)
        return Measured(Rounds(plan, contenders, upstream.pids[0], folder).run(), left_out)


def start(plugin: Plugin, plan: Plan, gateway: Gateway, folder: Path, upstream: str, running: ExitStack) -> Contender:
    """Start one plugin server and its gateway; both end with `running`. Raises BenchmarkError."""
    own = folder / plugin.key
    columns = [column for column in plan.columns if column in plugin.columns]
    (own / "bundles").mkdir(parents=True)
    if plugin.driver:
        write_bundles(own / "bundles", columns, plugin.driver)
    with ExitStack() as starting:
        server = plugin.server(own)
        if server is not None:
            starting.enter_context(server)
        setup = Setup(own, f"unix://{own / SOCKET}", upstream, columns, bundles=bool(plugin.driver))
        front = starting.enter_context(gateway(setup))
        for column in columns:
            check(front, column, column.marks if plugin.runs_hooks else 0)
        running.push(starting.pop_all())
    return Contender(front, server)


def check(front: Front, column: Column, marks: int) -> None:
    """Wait until an API answers, and its upstream saw so many headers; raises ServerError where it never does."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            seen = _get(urlsplit(front.url).netloc, f"/{column.key}/")
        except ServerError:
            seen = -1
        if seen == marks:
            return
        if time.monotonic() > deadline:
            raise ServerError(f"{column.title}: the upstream saw {seen} of {marks} headers")
        time.sleep(RETRY_SECONDS)


class Rounds:
    """Drives running gateways and keeps what was measured."""

    def __init__(self, plan: Plan, contenders: dict[Plugin, Contender], upstream: int, folder: Path) -> None:
        self._plan = plan
        self._contenders = contenders
        self._upstream = upstream
        self._folder = folder

    def run(self) -> Samples:
        """Measure all rounds, every other one in the opposite order; with several, warm up first."""
        cells = list(self._cells())
        for cell in cells:
            if self._plan.rounds > 1 and cell.clients == self._plan.clients[-1]:
                self._sample(cell, seconds=1)
        samples: Samples = {cell: [] for cell in cells}
        for number in range(self._plan.rounds):
            say(f"round {number + 1} of {self._plan.rounds}")
            for cell in cells if number % 2 == 0 else reversed(cells):
                samples[cell].append(self._sample(cell, self._plan.seconds))
        return samples

    def _cells(self) -> Iterator[Cell]:
        for clients in self._plan.clients:
            for column in self._plan.columns:
                for plugin in self._contenders:
                    if column in plugin.columns:
                        yield Cell(plugin, column, clients)

    def _sample(self, cell: Cell, seconds: int) -> Sample:
        contender = self._contenders[cell.plugin]
        server = contender.server.pids if contender.server is not None else []
        pids = [contender.front.pid, self._upstream, *server]
        before = cpu_ns(pids)
        answered = load.run(f"{contender.front.url}/{cell.column.key}/", cell.clients, seconds, self._folder)
        after = cpu_ns(pids)

        def used(some: Sequence[int]) -> float:
            return sum(after[pid] - before[pid] for pid in some) / answered.requests / NS_PER_US

        return Sample(answered, used(pids[:1]), used(server[:1]), used(server[1:]), used(pids[1:2]))


def _answers(address: str) -> None:
    _get(address, "/")


def _get(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=CALL_SECONDS)
    try:
        connection.request("GET", path)
        return int(connection.getresponse().headers.get(MARKS, -1))
    except OSError as error:
        raise ServerError(f"{address}: {error}") from error
    finally:
        connection.close()
