"""The sweep: every case of a plan is measured in every round, and each round starts its brokers anew.

A disturbance in one round affects one of several repetitions of all cases, and differences between starts are part of
the spread. In each repetition load generators are started, and all clocks are read around the measured window.
"""

import contextlib
import os
import selectors
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgpack
from google.protobuf.message import DecodeError

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.bound import spawn
from tykpy.bench.errors import BenchError, ProcessGoneError
from tykpy.bench.load import Order, pack_order
from tykpy.bench.measure import NS_PER_SECOND, cpu_ns, machine_time, memory_mib, usable_cpus
from tykpy.bench.results import BenchReport, Case, CaseResult, Histogram, Sample, Usage, machine
from tykpy.bench.ringcost import RingCost, measure_ring
from tykpy.bench.scenarios import Scenario
from tykpy.bench.serving import ConnectedBroker, MeasuredBroker, OwnBroker
from tykpy.broker.errors import BrokerError
from tykpy.client.dialing import ClientTls
from tykpy.client.grpc import GrpcCallError, GrpcClient

DISPATCH: Final = "/coprocess.Dispatcher/Dispatch"
CHECK_SECONDS: Final = 20.0
DRAIN_SECONDS: Final = 12.0
"""Most seconds to wait for the last answers: longer than the broker's own --timeout."""
TAIL_SECONDS: Final = 0.05
START_PATIENCE: Final = 30.0
"""Seconds for a load generator to connect."""
END_PATIENCE: Final = 10.0
"""Seconds beyond an order's own time for its result to arrive."""
LEAD_NS: Final = 20_000_000
"""Time between telling load generators when to start and that moment."""
LOOKS: Final = (0.25, 0.5, 0.75)
"""Shares of the window after which the broker is asked how many dispatches wait."""
READ_SIZE: Final = 64 * 1024


@dataclass(slots=True)
class RunProgress:
    """Progress of a repetition; latencies, in ns, are the highest of all load generators."""

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    p50: int = 0
    p99: int = 0


OnProgress = Callable[[RunProgress], None]


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
        """Return its output, which is readable when it reports something."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def start_at(self, moment_ns: int) -> None:
        """Tell it when to start."""
        self._write(msgpack.packb(moment_ns))

    def take(self) -> bool:
        """Read what it reports; return False at the end. Raises BenchError if it reports why it cannot go on."""
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
        """Kill it."""
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
    """Readings of all clocks at one moment, in ns."""

    at: int
    machine: int
    processes: dict[int, int]

    @classmethod
    def take(cls, pids: list[int] | None) -> "Clocks":
        """Read the clocks; processes that may not be looked at are left out."""
        try:
            processes = cpu_ns(pids or ())
        except ProcessGoneError:
            processes = {}
        return cls(time.monotonic_ns(), machine_time().busy, processes)


def split(order: Order, processes: int) -> list[Order]:
    """Divide the order among so many load generators."""
    shares = [order.streams // processes + (number < order.streams % processes) for number in range(processes)]
    return [replace(order, streams=share, rate=order.rate / processes) for share in shares]


def measure(order: Order, processes: int, server: MeasuredBroker, on_progress: OnProgress) -> Sample:
    """Drive the server with `processes` load generators, which share the order; raises BenchError."""
    with _load(split(order, processes)) as (loads, selector):
        _wait(loads, selector, time.monotonic() + START_PATIENCE, lambda load: load.ready)
        start = time.monotonic_ns() + LEAD_NS
        for load in loads:
            load.start_at(start)
        return _Run(order, server, loads, selector, on_progress, start).run()


class _Run:
    def __init__(
        self, order: Order, server: MeasuredBroker, loads: list[LoadProcess], selector: selectors.BaseSelector,
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
        """Listen until this share of the measured window has passed."""
        moment = self._begin + int(share * self._order.seconds * NS_PER_SECOND)
        while (left := moment - time.monotonic_ns()) > 0:
            if _listen(self._selector, left / NS_PER_SECOND):
                self._on_progress(self._progress())

    def _progress(self) -> RunProgress:
        latest = [load.latest for load in self._loads if load.latest]
        progress = RunProgress(seconds=max(0.0, (time.monotonic_ns() - self._begin) / NS_PER_SECOND))
        for body in latest:
            progress.answered += body["answered"]
            progress.failed += body["failed"]
            progress.p50, progress.p99 = max(progress.p50, body["p50"]), max(progress.p99, body["p99"])
        return progress

    def _sample(self, before: Clocks, after: Clocks, memory: list[float] | None, waiting: list[int | None]) -> Sample:
        results = [load.result for load in self._loads if load.result is not None]
        latencies = Histogram()
        failures: Counter[str] = Counter()
        for result in results:
            latencies.update(result["histogram"])
            failures.update(result["failures"])
        load = sum(result["cpu_ns"] for result in results) / (self._order.seconds * NS_PER_SECOND)
        usage = _usage(before, after, load, memory, waiting)
        return Sample(
            self._order.seconds,
            sum(result["answered"] for result in results),
            latencies,
            replace(usage, load_processes=len(results)),
            dict(failures),
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
        return memory_mib(pids) if pids else None
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
    """Read what load generators report within this time; return False if it is nothing."""
    heard = selector.select(seconds)
    for key, _ in heard:
        load = key.fileobj
        assert isinstance(load, LoadProcess)
        if not load.take():
            selector.unregister(load)
    return bool(heard)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. None and empty mean the scenario's own."""

    scenarios: tuple[Scenario, ...]
    workers: tuple[int, ...]
    threads: tuple[int, ...] = ()
    """0, and empty: auto."""
    streams: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    """Calls per second of open loops; empty: closed loops."""
    body_sizes: tuple[int, ...] = ()
    seconds: float = 2.0
    warm_up: float = 0.5
    repeat: int = 3
    connections: int = 1
    connect: str | None = None
    tls: ClientTls | None = None
    runtime_dir: Path | None = None
    """Where the admin socket of the broker at `connect` may be."""
    tracing: bool = False
    """A new `traceparent` in every call."""

    @property
    def run_seconds(self) -> float:
        """About how long all load takes."""
        runs = sum(len(cases) for cases in self.groups().values()) * self.repeat
        return runs * (self.warm_up + self.seconds)

    def groups(self) -> dict[tuple[int, int], list[tuple[Scenario, Case]]]:
        """Return the cases by (workers, threads) of their broker."""
        groups: dict[tuple[int, int], list[tuple[Scenario, Case]]] = {}
        for scenario in self.scenarios:
            for workers in self.workers:
                for threads in self.threads or (0,):
                    groups.setdefault((workers, threads), []).extend(self._cases(scenario, workers, threads))
        return groups

    def _cases(self, scenario: Scenario, workers: int, threads: int) -> Iterator[tuple[Scenario, Case]]:
        for size in self.body_sizes or scenario.body_sizes:
            for streams in self.streams or (scenario.streams,):
                for rate in self.rates or (0.0,):
                    yield scenario, Case(scenario.name, workers, threads, streams, rate, size, self.tracing)


class Observer:
    """Observes a sweep; this one does nothing."""

    def begins(self, plan: Plan) -> None:
        """Take note of the plan before anything is started."""

    def starting(self, workers: int, threads: int) -> None:
        """Take note that a broker starts."""

    def running(self, case: Case, number: int) -> OnProgress:
        """Take note that a repetition, counted from 1, starts; return a callback for its progress."""
        return lambda progress: None

    def finished(self, result: CaseResult) -> None:
        """Take note that a repetition has ended: the case with all its repetitions so far."""


def sweep(plan: Plan, command: str, observer: Observer) -> BenchReport:
    """Measure everything; raises BenchError."""
    observer.begins(plan)
    found: dict[Case, list[Sample]] = {}
    for number in range(1, plan.repeat + 1):
        ring_cost = cache(measure_ring)  # in every round: a machine is not equally fast at all times
        for (workers, threads), cases in plan.groups().items():
            observer.starting(workers, threads)
            with _server(plan, workers, threads, cases) as server:
                _measure_all(_Round(plan, number, observer, ring_cost, found), server, cases)
    results = tuple(CaseResult(case, tuple(samples)) for case, samples in sorted(found.items(), key=_place(plan)))
    return BenchReport(command, machine(), results)


def _place(plan: Plan) -> Callable[[tuple[Case, Any]], tuple[int, str, int]]:
    # In the order that the user gave, and workers ascending among cases that are otherwise equal.
    names = [scenario.name for scenario in plan.scenarios]
    variants: list[str] = []
    for cases in plan.groups().values():
        variants += [case.variant for _, case in cases if case.variant not in variants]

    def place(item: tuple[Case, Any]) -> tuple[int, str, int]:
        case = item[0]
        variant = variants.index(case.variant) if case.variant in variants else 0
        return names.index(case.scenario), f"{variant:04}", case.workers

    return place


def _server(
    plan: Plan, workers: int, threads: int, cases: list[tuple[Scenario, Case]]
) -> AbstractContextManager[MeasuredBroker]:
    if plan.connect is not None:
        return nullcontext(ConnectedBroker(plan.connect, plan.tls, plan.runtime_dir))
    files = {path for scenario, _ in cases for path in scenario.files}
    return OwnBroker(sorted(files), workers, threads, max(case.streams for _, case in cases))


@dataclass(frozen=True, slots=True)
class _Round:
    """What the cases of one round share."""

    plan: Plan
    number: int
    observer: Observer
    ring_cost: Callable[[int], RingCost]
    found: dict[Case, list[Sample]]


def _measure_all(this: _Round, server: MeasuredBroker, cases: list[tuple[Scenario, Case]]) -> None:
    for scenario, planned in cases:
        case = replace(planned, workers=server.workers, threads=server.threads)
        message = scenario.build(case.body_size).SerializeToString(deterministic=True)
        check(server, scenario, message)
        sample = _measure(this, server, case, message)
        if not sample.answered and sample.failed:
            _refuse(case, sample)
        this.found.setdefault(case, []).append(sample)
        this.observer.finished(CaseResult(case, tuple(this.found[case])))


def _measure(this: _Round, server: MeasuredBroker, case: Case, message: bytes) -> Sample:
    ring_us = this.ring_cost(len(message))
    on_progress = this.observer.running(case, this.number)
    sample = measure(_order(this.plan, server, case, message), this.plan.connections, server, on_progress)
    return replace(sample, usage=replace(sample.usage, ring_us=(ring_us.broker, ring_us.worker)))


def _order(plan: Plan, server: MeasuredBroker, case: Case, message: bytes) -> Order:
    return Order(
        server.address, [message], case.streams, case.rate, plan.warm_up, plan.seconds,
        tail=TAIL_SECONDS, drain=DRAIN_SECONDS, tracing=case.tracing, tls=server.tls,
    )  # fmt: skip


def check(server: MeasuredBroker, scenario: Scenario, message: bytes) -> None:
    """Make one call and check the whole answer; raises BenchError unless it is the right one."""
    try:
        with GrpcClient(server.address, tls=server.tls) as client:
            answer = Object.FromString(client.call(DISPATCH, message, timeout=CHECK_SECONDS))
    except GrpcCallError as error:
        raise BenchError(f"scenario {scenario.name}: the broker answers {error}") from error
    except (BrokerError, OSError, ValueError, DecodeError) as error:
        raise BenchError(f"scenario {scenario.name}: {error}") from error
    if not scenario.is_right(answer):
        raise BenchError(f"scenario {scenario.name}: the hook's answer is not the expected one:\n{answer}")


def _refuse(case: Case, sample: Sample) -> None:
    told = "; ".join(sample.failures) or f"{sample.unanswered} calls without an answer"
    raise BenchError(f"{case.title}: not one good answer: {told}")
