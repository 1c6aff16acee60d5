"""The sweep: every case of a plan is measured in every round, and each round starts its brokers anew.

A disturbance in one round affects one of several repetitions of all cases, and differences between starts are part of
the spread. In each repetition load generators are started, and all clocks are read around the measured window.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.errors import BenchError, ProcessGoneError
from tykpy.bench.load import LoadResult, Order, RunProgress
from tykpy.bench.measure import NS_PER_SECOND, cpu_ns, machine_time, memory_mib, usable_cpus
from tykpy.bench.results import BenchReport, Case, CaseResult, LatencyHistogram, Sample, Usage, machine
from tykpy.bench.ringcost import RingCost, measure_ring
from tykpy.bench.scenarios import Scenario
from tykpy.bench.serving import ConnectedBroker, MeasuredBroker, OwnBroker
from tykpy.broker.errors import BrokerError
from tykpy.client.dialing import ClientTls
from tykpy.commands.bound import spawn
from tykpy.commands.errors import CommandError
from tykpy.commands.objects import call_hook, connect
from tykpy.telemetry.records import counted

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

OnProgress = Callable[[RunProgress], None]
Seen = TypeVar("Seen")


class LoadProcess:
    """A load generator: a child process that takes one order, and is killed on leaving."""

    def __init__(self, order: Order) -> None:
        self.pipe, theirs = Pipe()
        with theirs:
            self._process = spawn("tykpy.bench.load", str(theirs.fileno()), pass_fds=[theirs.fileno()])
        self.pid = self._process.pid
        self.progress: RunProgress | None = None
        """None: not connected yet."""
        self.result: LoadResult | None = None
        self.pipe.send(order)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.pipe.close()

    def receive(self) -> None:
        """Receive one report. Raises BenchError if it says why it cannot go on, and EOFError if it has ended."""
        report = self.pipe.recv()
        if isinstance(report, BenchError):
            raise report
        if isinstance(report, LoadResult):
            self.result = report
        else:
            self.progress = report


class Clocks(NamedTuple):
    """Readings of all clocks at one moment, in ns; those of the broker by process, empty if it cannot be looked at."""

    at: int
    machine: int
    loads: int
    broker: dict[int, int]

    @classmethod
    def take(cls, loads: Sequence[LoadProcess], broker: list[int] | None) -> "Clocks":
        """Read the clocks."""
        used = sum(cpu_ns(load.pid for load in loads).values())
        return cls(time.monotonic_ns(), machine_time().busy, used, _seen(cpu_ns, broker) or {})


def _seen(look: Callable[[list[int]], Seen], pids: list[int] | None) -> Seen | None:
    """Return what a look at the broker's processes shows; None if they cannot be looked at."""
    try:
        return look(pids) if pids else None
    except ProcessGoneError:
        return None


def split(order: Order, processes: int) -> list[Order]:
    """Divide the order among so many load generators."""
    shares = [order.streams // processes + (number < order.streams % processes) for number in range(processes)]
    return [replace(order, streams=share, rate=order.rate / processes) for share in shares]


def measure(order: Order, processes: int, server: MeasuredBroker, on_progress: OnProgress) -> Sample:
    """Drive the server with `processes` load generators, which share the order; raises BenchError."""
    try:
        with ExitStack() as stack:
            loads = [stack.enter_context(LoadProcess(share)) for share in split(order, processes)]
            _wait(loads, START_PATIENCE, lambda load: load.progress is not None)
            return _run(order, loads, server, on_progress)
    except (EOFError, ConnectionError) as error:
        raise BenchError("a load generator has ended early; it said why on standard error") from error


def _run(order: Order, loads: list[LoadProcess], server: MeasuredBroker, on_progress: OnProgress) -> Sample:
    start = time.monotonic_ns() + LEAD_NS
    for load in loads:
        load.pipe.send(start)

    def listen_until(share: float) -> None:
        """Listen until this share of the measured window has passed."""
        moment = start + int((order.warm_up + share * order.seconds) * NS_PER_SECOND)
        while (left := moment - time.monotonic_ns()) > 0:
            if _listen(loads, left / NS_PER_SECOND):
                on_progress(_progress(loads))

    listen_until(0.0)
    pids = server.pids()
    before = Clocks.take(loads, pids)
    waiting = []
    for share in LOOKS:
        listen_until(share)
        waiting.append(server.waiting())
    listen_until(1.0)
    after = Clocks.take(loads, pids)
    memory = _seen(memory_mib, pids)
    _wait(loads, order.tail + order.drain + END_PATIENCE, lambda load: load.result is not None)
    results = [load.result for load in loads if load.result is not None]
    return _sample(order.seconds, results, _usage(before, after, len(loads), memory, waiting))


def _progress(loads: Sequence[LoadProcess]) -> RunProgress:
    known = [load.progress for load in loads if load.progress is not None]
    return RunProgress(
        seconds=max(one.seconds for one in known),
        answered=sum(one.answered for one in known),
        failed=sum(one.failed for one in known),
        p50=max(one.p50 for one in known),
        p99=max(one.p99 for one in known),
    )


def _sample(seconds: float, results: Sequence[LoadResult], usage: Usage) -> Sample:
    latencies, failures = LatencyHistogram(), Counter[str]()
    for result in results:
        latencies.update(result.latencies_ns)
        failures.update(result.failures)
    answered, unanswered = sum(result.answered for result in results), sum(result.unanswered for result in results)
    return Sample(seconds, answered, latencies, usage, dict(failures), unanswered)


def _usage(before: Clocks, after: Clocks, loads: int, memory: list[float] | None, waiting: list[int | None]) -> Usage:
    passed = after.at - before.at
    looks = [look for look in waiting if look is not None]
    used = [(after.broker[pid] - at) / passed for pid, at in before.broker.items() if pid in after.broker]
    return Usage(
        cpus=usable_cpus(),
        machine=(after.machine - before.machine) / passed,
        load=(after.loads - before.loads) / passed,
        load_processes=loads,
        broker=used[0] if used else None,
        workers=tuple(used[1:]) if used else None,
        broker_mib=memory[0] if memory else None,
        worker_mib=tuple(memory[1:]) if memory else None,
        waiting=statistics.median(looks) if looks else None,
    )


def _wait(loads: Sequence[LoadProcess], seconds: float, done: Callable[[LoadProcess], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not all(map(done, loads)):
        if not _listen(loads, max(0.0, deadline - time.monotonic())):
            raise BenchError("a load generator does not come to its end: is the machine overloaded?")


def _listen(loads: Sequence[LoadProcess], seconds: float) -> bool:
    """Receive what load generators report within this time; return False if it is nothing."""
    working = {load.pipe: load for load in loads if load.result is None}
    heard = wait(working, seconds)
    for load in [load for pipe, load in working.items() if pipe in heard]:
        load.receive()
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
        return len(list(self._cases())) * self.repeat * (self.warm_up + self.seconds)

    def groups(self) -> dict[tuple[int, int], list[tuple[Scenario, Case]]]:
        """Return the cases by (workers, threads) of their broker."""
        groups: dict[tuple[int, int], list[tuple[Scenario, Case]]] = {}
        for scenario, case in self._cases():
            groups.setdefault((case.workers, case.threads), []).append((scenario, case))
        return groups

    def place(self, case: Case) -> tuple[int, int, int]:
        """Return what to sort by: the order in which the user gave settings, and workers ascending."""
        scenarios, variants = zip(*((one.scenario, one.variant) for _, one in self._cases()), strict=True)
        return scenarios.index(case.scenario), variants.index(case.variant), case.workers

    def _cases(self) -> Iterator[tuple[Scenario, Case]]:
        for scenario in self.scenarios:
            sizes, streams = self.body_sizes or scenario.body_sizes, self.streams or (scenario.streams,)
            settings = product(self.workers, self.threads or (0,), sizes, streams, self.rates or (0.0,))
            for workers, threads, size, at_once, rate in settings:
                yield scenario, Case(scenario.name, workers, threads, at_once, rate, size, self.tracing)


class Observer:
    """Observes a sweep; this one does nothing."""

    def starting(self, workers: int, threads: int) -> None:
        """Take note that a broker starts."""

    def running(self, case: Case, number: int) -> OnProgress:
        """Take note that a repetition, counted from 1, starts; return a callback for its progress."""
        return lambda progress: None

    def finished(self, result: CaseResult) -> None:
        """Take note that a repetition has ended: the case with all its repetitions so far."""


def sweep(plan: Plan, command: str, observer: Observer) -> BenchReport:
    """Measure everything; raises BenchError."""
    found: dict[Case, list[Sample]] = {}
    for number in range(1, plan.repeat + 1):
        ring_cost = cache(measure_ring)  # in every round: a machine is not equally fast at all times
        for (workers, threads), cases in plan.groups().items():
            observer.starting(workers, threads)
            with _server(plan, workers, threads, cases) as server:
                for scenario, planned in cases:
                    case = replace(planned, workers=server.workers, threads=server.threads)
                    sample = _measure(plan, server, scenario, case, ring_cost, observer.running(case, number))
                    found.setdefault(case, []).append(sample)
                    observer.finished(CaseResult(case, tuple(found[case])))
    results = tuple(CaseResult(case, tuple(found[case])) for case in sorted(found, key=plan.place))
    return BenchReport(command, machine(), results)


def _server(
    plan: Plan, workers: int, threads: int, cases: list[tuple[Scenario, Case]]
) -> AbstractContextManager[MeasuredBroker]:
    if plan.connect is not None:
        return nullcontext(ConnectedBroker(plan.connect, plan.tls, plan.runtime_dir))
    files = {path for scenario, _ in cases for path in scenario.files}
    return OwnBroker(sorted(files), workers, threads, max(case.streams for _, case in cases))


def _measure(
    plan: Plan, server: MeasuredBroker, scenario: Scenario, case: Case, ring_cost: Callable[[int], RingCost],
    on_progress: OnProgress,
) -> Sample:  # fmt: skip
    messages = scenario.messages or [_checked(server, scenario, case.body_size)]
    order = Order(
        server.address, messages, case.streams, case.rate, plan.warm_up, plan.seconds,
        tail=TAIL_SECONDS, drain=DRAIN_SECONDS, tracing=case.tracing, tls=server.tls,
    )  # fmt: skip
    sample = measure(order, plan.connections, server, on_progress)
    if not sample.answered and sample.failed:
        told = "; ".join(sample.failures) or f"{counted(sample.unanswered, 'call')} without an answer"
        raise BenchError(f"{case.title}: not one good answer: {told}")
    return replace(sample, usage=replace(sample.usage, ring_us=ring_cost(round(statistics.fmean(map(len, messages))))))


def _checked(server: MeasuredBroker, scenario: Scenario, body_size: int | None) -> bytes:
    obj = scenario.build(body_size)
    check(server, scenario, obj)
    return obj.SerializeToString(deterministic=True)


def check(server: MeasuredBroker, scenario: Scenario, obj: Object) -> None:
    """Make one call and check the whole answer; raises BenchError unless it is the right one."""
    try:
        with connect(server.address, server.tls or ClientTls()) as client:
            answer = call_hook(client, obj, CHECK_SECONDS).received
    except (CommandError, BrokerError) as error:
        raise BenchError(f"scenario {scenario.name}: {error}") from error
    if not scenario.is_right(answer):
        raise BenchError(f"scenario {scenario.name}: the hook's answer is not the expected one:\n{answer}")
