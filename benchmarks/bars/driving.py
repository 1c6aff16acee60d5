"""The two ways to drive a server: h2load, which costs the least, and our own load generator, which sends what h2load
cannot: many different objects, a new header in every call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import h2load
from benchmarks.bars.rounds import Reading
from benchmarks.errors import ServerError
from benchmarks.measure import cpu_per_request
from benchmarks.objects import DISPATCH_PATH, framed
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench import runs
from tykpy.bench.load import Order
from tykpy.bench.measure import cpu_ns
from tykpy.bench.results import NS_PER_US, Sample
from tykpy.bench.serving import OwnBroker
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.workers.dispatch.sampled_checks import FIRST_CALLS

WARM_UP_CALLS: Final = 1000
MIN_CALLS: Final = 32
CALL_SECONDS: Final = 20.0
WARM_UP_SECONDS: Final = 0.3
"""Before each measurement with our own load generator."""
WARM_UP_RATE: Final = 20_000
"""Dispatches per second that are expected of it, for runs of the right length."""
WATCHED_CALLS: Final = 2 * FIRST_CALLS * 5 // 4
"""Workers look at every other one of a hook's first calls, which costs more than the hook; their shares are unequal."""
DRAIN_SECONDS: Final = 15.0


def ask(address: str, item: Object, is_right: Callable[[Object], bool]) -> int:
    """Make one call; gives the size of the framed answer. Raises ServerError unless it is the right one."""
    try:
        with GrpcClient(address) as client:
            answer = client.call(DISPATCH_PATH, item.SerializeToString(), timeout=CALL_SECONDS)
    except (GrpcCallError, OSError) as error:
        raise ServerError(f"{address}: {error}") from error
    if not is_right(Object.FromString(answer)):
        raise ServerError(f"{address} answers wrongly:\n{Object.FromString(answer)}")
    return len(framed(answer))


@dataclass(slots=True)
class H2LoadCase:
    """A server driven by h2load: so many calls at a time on each of so many connections."""

    name: str
    address: str
    pids: Callable[[], list[int]]
    item: Object
    is_right: Callable[[Object], bool]
    folder: Path
    streams: int
    seconds: float
    connections: int = 1
    warm_up_calls: int = WARM_UP_CALLS
    _run: Callable[[int], h2load.Load] = field(init=False)
    _calls: int = 0

    def warm_up(self) -> None:
        """Check an answer, and find out how many calls fill the time."""
        answer_size = ask(self.address, self.item, self.is_right)
        body = self.folder / "".join(filter(str.isalnum, self.name))
        body.write_bytes(framed(self.item.SerializeToString()))
        socket = Path(self.address.removeprefix("unix://"))
        self._run = partial(
            h2load.run, socket, body, streams=self.streams, answer_size=answer_size, connections=self.connections
        )
        at_once = self.streams * self.connections
        load = self._run(max(self.warm_up_calls, 2 * at_once))
        self._calls = max(MIN_CALLS, 2 * at_once, int(load.rate * self.seconds))

    def measure(self) -> Reading:
        """One round."""
        pids = self.pids()
        before = cpu_ns(pids)
        load = self._run(self._calls)
        cpu = cpu_per_request(before, cpu_ns(pids), load.requests)
        return Reading(load.rate, load.p50_us, cpu.front, cpu.children, load.cpu_us)


@dataclass(slots=True)
class OwnLoadCase:
    """A broker of ours driven by our own load generator, with all objects in turn."""

    name: str
    broker: OwnBroker
    items: Sequence[Object]
    is_right: Callable[[Object], bool]
    streams: int
    seconds: float
    tracing: bool = False
    samples: list[Sample] = field(default_factory=list)

    def warm_up(self) -> None:
        """Check the first and the last answer, and drive it until no hook is new to broker and workers."""
        for item in {id(item): item for item in (self.items[0], self.items[-1])}.values():
            ask(self.broker.address, item, self.is_right)
        missing = len(self.items) * self.broker.workers * WATCHED_CALLS
        while missing > 0:
            missing -= max(1, self._drive(max(WARM_UP_SECONDS, missing / WARM_UP_RATE)).answered)

    def measure(self) -> Reading:
        """One round."""
        sample = self._drive(self.seconds)
        if sample.failed:
            raise ServerError(f"{self.name}: {sample.failed} calls failed: {'; '.join(sample.failures)}")
        self.samples.append(sample)
        usage = sample.usage
        broker, workers = sample.cpu_us(usage.broker), sample.cpu_us(sum(usage.workers or ()))
        p50 = sample.latencies.percentile(50) / NS_PER_US
        return Reading(sample.rate, p50, broker or 0.0, workers or 0.0, sample.cpu_us(usage.load) or 0.0)

    def _drive(self, seconds: float) -> Sample:
        messages = [item.SerializeToString(deterministic=True) for item in self.items]
        order = Order(
            self.broker.address, messages, self.streams, 0.0, WARM_UP_SECONDS, seconds,
            tail=0.05, drain=DRAIN_SECONDS, tracing=self.tracing,
        )  # fmt: skip
        return runs.measure(order, 1, self.broker, lambda progress: None)
