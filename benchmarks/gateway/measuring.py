"""Starts every gateway with its plugin server, checks each API's answer, and measures them in interleaved rounds."""

import http.client
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from benchmarks.gateway import load
from benchmarks.gateway.columns import HookColumn, write_bundles
from benchmarks.gateway.fronts import Front, Gateway, Setup
from benchmarks.gateway.load import HttpLoad
from benchmarks.gateway.plugins import SOCKET, Plugin
from benchmarks.gateway.programs import go_program
from benchmarks.programs import RETRY_SECONDS, Program
from benchmarks.reports import say
from benchmarks.rounds import Pace, in_rounds
from tests.support.peers.redis_server import free_port
from tykpy.bench.errors import BenchError, ServerError
from tykpy.bench.measure import NS_PER_US, cpu_ns

CLIENTS: Final = (1, 16, 64)
USUAL: Final = Pace(rounds=3, seconds=2.0)
CALL_SECONDS: Final = 10.0
READY_SECONDS: Final = 30.0
"""Until a gateway has loaded its APIs and reached its plugin server."""
MARKS: Final = "X-Marks"
"""The upstream's header with the number of headers that hooks have set."""


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What to measure."""

    plugins: tuple[Plugin, ...]
    columns: tuple[HookColumn, ...]
    clients: tuple[int, ...] = CLIENTS
    pace: Pace = USUAL

    @property
    def seconds(self) -> int:
        """Length of one run of the load generator, which takes whole seconds only."""
        return max(1, round(self.pace.seconds))


class Cell(NamedTuple):
    """One figure of the tables."""

    plugin: Plugin
    column: HookColumn
    clients: int

    @property
    def name(self) -> str:
        """A unique name."""
        return f"{self.plugin.key} {self.column.key} {self.clients}"


class CellReading(NamedTuple):
    """One cell in one round. CPU is in microseconds per request."""

    load: HttpLoad
    gateway_us: float
    front_us: float
    """CPU of the plugin server's first process."""
    workers_us: float
    """CPU of its other processes."""
    upstream_us: float


CellReadings = dict[Cell, list[CellReading]]
"""Round by round."""


class Measured(NamedTuple):
    """Everything that one run measured."""

    samples: CellReadings
    left_out: dict[str, str]
    """Reasons by the title of a plugin that could not be measured."""


class Contender(NamedTuple):
    """A plugin server with a gateway of its own, both running."""

    front: Front
    server: Program | None


def measure(plan: GatewayPlan, gateway: Gateway, folder: Path) -> Measured:
    """Measure everything but plugins that cannot be started or answer wrongly."""
    address = f"127.0.0.1:{free_port()}"
    command = [go_program("benchmark"), "upstream", address]
    upstream = Program("upstream", command, folder / "upstream.log", lambda: _answers(address))
    with ExitStack() as running:
        running.enter_context(upstream)
        contenders: dict[Plugin, Contender] = {}
        left_out: dict[str, str] = {}
        for plugin in plan.plugins:
            say(f"starting {plugin.title}")
            try:
                contenders[plugin] = start(plugin, plan, gateway, folder, address, running)
            except BenchError as error:
                say(f"error: {plugin.title} is left out: {error}")
                left_out[plugin.title] = str(error)
        cases = [CellCase(cell, plan, contenders[cell.plugin], upstream, folder) for cell in _cells(plan, contenders)]
        found = in_rounds(cases, plan.pace.rounds)
        return Measured({case.cell: found[case.name] for case in cases}, left_out)


def start(
    plugin: Plugin, plan: GatewayPlan, gateway: Gateway, folder: Path, upstream: str, running: ExitStack
) -> Contender:
    """Start one plugin server and its gateway; both end with `running`. Raises BenchError."""
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


def check(front: Front, column: HookColumn, marks: int) -> None:
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


@dataclass(frozen=True, slots=True)
class CellCase:
    """A cell of the table, with the programs that take part in it."""

    cell: Cell
    plan: GatewayPlan
    contender: Contender
    upstream: Program
    folder: Path

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.cell.name

    def warm_up(self) -> None:
        """Drive it once with the most clients, unless this is only a look."""
        if self.plan.pace.rounds > 1 and self.cell.clients == self.plan.clients[-1]:
            self._drive(1)

    def measure(self) -> CellReading:
        """Measure one round."""
        return self._drive(self.plan.seconds)

    def _drive(self, seconds: int) -> CellReading:
        server = self.contender.server.pids() if self.contender.server is not None else []
        gateway, upstream = self.contender.front.pid, self.upstream.pids()[0]
        pids = [gateway, upstream, *server]
        before = cpu_ns(pids)
        url = f"{self.contender.front.url}/{self.cell.column.key}/"
        answered = load.run(url, self.cell.clients, seconds, self.folder)
        after = cpu_ns(pids)
        used = {pid: (after[pid] - before[pid]) / answered.requests / NS_PER_US for pid in pids}
        front, workers = sum(used[pid] for pid in server[:1]), sum(used[pid] for pid in server[1:])
        return CellReading(answered, used[gateway], front, workers, used[upstream])


def _cells(plan: GatewayPlan, contenders: Mapping[Plugin, Contender]) -> Iterator[Cell]:
    for clients in plan.clients:
        for column in plan.columns:
            for plugin in contenders:
                if column in plugin.columns:
                    yield Cell(plugin, column, clients)


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
