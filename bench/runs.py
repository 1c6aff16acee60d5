"""One repetition: load generators are started, and all clocks are read around the measured window."""

import contextlib
import os
import selectors
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack

from tykpy.bench.bound import spawn
from tykpy.bench.errors import BenchError, ProcessGoneError
from tykpy.bench.histogram import Histogram
from tykpy.bench.load import Order, pack_order
from tykpy.bench.measure import MIB, NS_PER_SECOND, cpu_ns, machine_time, pss_bytes, usable_cpus
from tykpy.bench.results import Sample, Usage
from tykpy.bench.serving import Broker

START_PATIENCE: Final = 30.0
"""Seconds for a load generator to connect."""
END_PATIENCE: Final = 10.0
"""Seconds beyond an order's own time for its result to arrive."""
LEAD_NS: Final = 20_000_000
"""From saying when to start until then."""
LOOKS: Final = (0.25, 0.5, 0.75)
"""Shares of the window after which the broker is asked what waits."""
READ_SIZE: Final = 64 * 1024


@dataclass(slots=True)
class Progress:
    """How a repetition stands; latencies in ns are the highest of all load generators."""

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    p50: int = 0
    p99: int = 0


OnProgress = Callable[[Progress], None]


class LoadProcess:
    """A load generator: a child process that takes one order."""

    def __init__(self, order: Order) -> None:
        self._process = spawn("tykpy.bench.load", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._unpacker = msgpack.Unpacker(max_buffer_size=0, strict_map_key=False)
        self.latest: dict[str, Any] = {}
        self.result: dict[str, Any] | None = None
        self.ready = False
        self._write(pack_order(order))

    def fileno(self) -> int:
        """Readable when it says something."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def start_at(self, moment_ns: int) -> None:
        """Tell it when to start."""
        self._write(msgpack.packb(moment_ns))

    def take(self) -> bool:
        """Take what it says; False: that was all. Raises BenchError where it says why it cannot go on."""
        data = os.read(self.fileno(), READ_SIZE)
        if not data and self.result is None:
            raise BenchError("a load generator has ended early; it said why on standard error")
        self._unpacker.feed(data)
        for name, body in self._unpacker:
            if name == "failed":
                raise BenchError(body)
            self.ready = True
            if name == "result":
                self.result = body
            elif name == "progress":
                self.latest = body
        return bool(data)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchError("a load generator has ended early; it said why on standard error") from error


@dataclass(frozen=True, slots=True)
class Clocks:
    """All clocks at one moment, in ns."""

    at: int
    machine: int
    processes: dict[int, int]

    @classmethod
    def take(cls, pids: list[int] | None) -> "Clocks":
        """Read them; processes that may not be looked at are left out."""
        try:
            processes = cpu_ns(pids or ())
        except ProcessGoneError:
            processes = {}
        return cls(time.monotonic_ns(), machine_time().busy, processes)


def split(order: Order, processes: int) -> list[Order]:
    """The order, divided among so many load generators."""
    shares = [order.streams // processes + (number < order.streams % processes) for number in range(processes)]
    return [replace(order, streams=share, rate=order.rate / processes) for share in shares]


def measure(order: Order, processes: int, server: Broker, on_progress: OnProgress) -> Sample:
    """Drive the server with `processes` load generators, which share the order; raises BenchError."""
    with _load(split(order, processes)) as (loads, selector):
        _wait(loads, selector, time.monotonic() + START_PATIENCE, lambda load: load.ready)
        start = time.monotonic_ns() + LEAD_NS
        for load in loads:
            load.start_at(start)
        return _Run(order, server, loads, selector, on_progress, start).run()


class _Run:
    def __init__(
        self, order: Order, server: Broker, loads: list[LoadProcess], selector: selectors.BaseSelector,
        on_progress: OnProgress, start: int,
    ) -> None:  # fmt: skip
        self._order = order
        self._server = server
        self._loads = loads
        self._selector = selector
        self._on_progress = on_progress
        self._begin = start + int(order.warm_up * NS_PER_SECOND)

    def run(self) -> Sample:
        self._listen_until(0.0)
        pids = self._server.pids()
        before = Clocks.take(pids)
        waiting = []
        for share in LOOKS:
            self._listen_until(share)
            waiting.append(self._server.waiting())
        self._listen_until(1.0)
        after = Clocks.take(pids)
        memory = _memory(pids)
        patience = self._order.tail + self._order.drain + END_PATIENCE
        _wait(self._loads, self._selector, time.monotonic() + patience, lambda load: load.result is not None)
        return self._sample(before, after, memory, waiting)

    def _listen_until(self, share: float) -> None:
        """Until this share of the measured window has passed."""
        moment = self._begin + int(share * self._order.seconds * NS_PER_SECOND)
        while (left := moment - time.monotonic_ns()) > 0:
            if _listen(self._selector, left / NS_PER_SECOND):
                self._on_progress(self._progress())

    def _progress(self) -> Progress:
        latest = [load.latest for load in self._loads if load.latest]
        progress = Progress(seconds=max(0.0, (time.monotonic_ns() - self._begin) / NS_PER_SECOND))
        for body in latest:
            progress.answered += body["answered"]
            progress.failed += body["failed"]
            progress.p50, progress.p99 = max(progress.p50, body["p50"]), max(progress.p99, body["p99"])
        return progress

    def _sample(self, before: Clocks, after: Clocks, memory: list[float] | None, waiting: list[int | None]) -> Sample:
        results = [load.result for load in self._loads if load.result is not None]
        latencies = Histogram()
        failures: dict[str, int] = {}
        for result in results:
            latencies.merge(Histogram.from_dict(result["histogram"]))
            for text, count in result["failures"].items():
                failures[text] = failures.get(text, 0) + count
        load = sum(result["cpu_ns"] for result in results) / (self._order.seconds * NS_PER_SECOND)
        usage = _usage(before, after, load, memory, waiting)
        return Sample(
            self._order.seconds,
            sum(result["answered"] for result in results),
            latencies,
            replace(usage, load_processes=len(results)),
            failures,
            sum(result["unanswered"] for result in results),
        )


def _usage(before: Clocks, after: Clocks, load: float, memory: list[float] | None, waiting: list[int | None]) -> Usage:
    passed = after.at - before.at
    looks = [look for look in waiting if look is not None]
    used = [(after.processes[pid] - at) / passed for pid, at in before.processes.items() if pid in after.processes]
    return Usage(
        cpus=usable_cpus(),
        machine=(after.machine - before.machine) / passed,
        load=load,
        broker=used[0] if used else None,
        workers=tuple(used[1:]) if used else None,
        broker_mib=memory[0] if memory else None,
        worker_mib=tuple(memory[1:]) if memory else None,
        waiting=statistics.median(looks) if looks else None,
    )


def _memory(pids: list[int] | None) -> list[float] | None:
    try:
        return [pss_bytes(pid) / MIB for pid in pids] if pids else None
    except ProcessGoneError:
        return None


@contextmanager
def _load(orders: list[Order]) -> Iterator[tuple[list[LoadProcess], selectors.BaseSelector]]:
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        loads = []
        for order in orders:
            load = LoadProcess(order)
            stack.callback(load.close)
            selector.register(load, selectors.EVENT_READ)
            loads.append(load)
        yield loads, selector


def _wait(
    loads: list[LoadProcess], selector: selectors.BaseSelector, deadline: float, done: Callable[[LoadProcess], bool]
) -> None:
    while not all(map(done, loads)):
        left = deadline - time.monotonic()
        if left <= 0:
            raise BenchError("a load generator does not come to its end: is the machine overloaded?")
        _listen(selector, left)


def _listen(selector: selectors.BaseSelector, seconds: float) -> bool:
    """Take what load generators say within this time; False: nothing."""
    heard = selector.select(seconds)
    for key, _ in heard:
        load = key.fileobj
        assert isinstance(load, LoadProcess)
        if not load.take():
            selector.unregister(load)
    return bool(heard)
