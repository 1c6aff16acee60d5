"""The sweep: every case of a plan, in every round, each round with brokers started anew.

A disturbance of one round is one of several repetitions for all cases, and what differs from start to start is in
the spread.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.errors import BenchError
from tykpy.bench.load import Order
from tykpy.bench.results import BenchReport, Case, CaseResult, Sample, machine
from tykpy.bench.ringcost import RingCost, measure_ring
from tykpy.bench.runs import OnProgress, measure
from tykpy.bench.scenarios import Scenario
from tykpy.bench.serving import Broker, ConnectedBroker, OwnBroker
from tykpy.broker.errors import BrokerError
from tykpy.client.dialing import ClientTls
from tykpy.client.grpc import GrpcCallError, GrpcClient

DISPATCH: Final = "/coprocess.Dispatcher/Dispatch"
CHECK_SECONDS: Final = 20.0
DRAIN_SECONDS: Final = 12.0
"""Most seconds to wait for the last answers: more than the broker's own --timeout."""
TAIL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. None and empty: as the scenario has it."""

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
        """About how long all load takes together."""
        runs = sum(len(cases) for cases in self.groups().values()) * self.repeat
        return runs * (self.warm_up + self.seconds)

    def groups(self) -> dict[tuple[int, int], list[tuple[Scenario, Case]]]:
        """The cases by what their broker is like: (workers, threads)."""
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


class Observer(Protocol):
    """Hears how the sweep goes."""

    def begins(self, plan: Plan) -> None:
        """Before anything is started."""

    def starting(self, workers: int, threads: int) -> None:
        """A broker starts."""

    def running(self, case: Case, number: int) -> OnProgress:
        """A repetition, counted from 1, starts; gives who hears of its progress."""

    def finished(self, result: CaseResult) -> None:
        """A repetition has ended: the case with all that is known of it."""


def run(plan: Plan, command: str, observer: Observer) -> BenchReport:
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
    # As the user said them, and workers ascending within what is otherwise the same.
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
) -> AbstractContextManager[Broker]:
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


def _measure_all(this: _Round, server: Broker, cases: list[tuple[Scenario, Case]]) -> None:
    for scenario, planned in cases:
        case = replace(planned, workers=server.workers, threads=server.threads)
        message = scenario.build(case.body_size).SerializeToString(deterministic=True)
        check(server, scenario, message)
        sample = _measure(this, server, case, message)
        if not sample.answered and sample.failed:
            _refuse(case, sample)
        this.found.setdefault(case, []).append(sample)
        this.observer.finished(CaseResult(case, tuple(this.found[case])))


def _measure(this: _Round, server: Broker, case: Case, message: bytes) -> Sample:
    ring_us = this.ring_cost(len(message))
    on_progress = this.observer.running(case, this.number)
    sample = measure(_order(this.plan, server, case, message), this.plan.connections, server, on_progress)
    return replace(sample, usage=replace(sample.usage, ring_us=(ring_us.broker, ring_us.worker)))


def _order(plan: Plan, server: Broker, case: Case, message: bytes) -> Order:
    return Order(
        server.address, [message], case.streams, case.rate, plan.warm_up, plan.seconds,
        tail=TAIL_SECONDS, drain=DRAIN_SECONDS, tracing=case.tracing, tls=server.tls,
    )  # fmt: skip


def check(server: Broker, scenario: Scenario, message: bytes) -> None:
    """Make one call and look at the whole answer; raises BenchError where it is not the right one."""
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
