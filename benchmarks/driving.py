"""Ways to drive a server: h2load, which costs the least; our own load generator, which sends what h2load cannot, such
as many different objects and a new header in every call; and MessagePack-RPC.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from benchmarks import h2load
from benchmarks.objects import DISPATCH_PATH, framed
from benchmarks.rounds import Reading
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench import runs
from tykpy.bench.errors import ServerError
from tykpy.bench.load import Order, connect, shake_hands
from tykpy.bench.measure import MIB, NS_PER_US, cpu_ns, pss_bytes
from tykpy.bench.results import Sample
from tykpy.bench.serving import OwnBroker
from tykpy.bench.wire import LoadConnection
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.workers.dispatch.sampled_checks import FIRST_CALLS

WARM_UP_CALLS: Final = 1000
MIN_CALLS: Final = 32
CALL_SECONDS: Final = 20.0
WARM_UP_SECONDS: Final = 0.3
"""Load before each measurement with our own load generator."""
WARM_UP_RATE: Final = 20_000
"""Expected dispatches per second, for warm-ups of the right length."""
WATCHED_CALLS: Final = 2 * FIRST_CALLS * 5 // 4
"""Workers check every other one of a hook's first calls, which costs more than the hook; their shares are unequal."""
DRAIN_SECONDS: Final = 15.0

IsRight = Callable[[Object], bool]


class Server(Protocol):
    """Anything that takes dispatches."""

    @property
    def address(self) -> str:
        """Where it listens for gRPC."""

    def pids(self) -> list[int] | None:
        """Return its processes, the listening one first; None if they cannot be seen from here."""


def ask(address: str, item: Object, is_right: IsRight) -> int:
    """Make one call and return the size of the framed answer; raises ServerError unless it is the right one."""
    try:
        with GrpcClient(address) as client:
            answer = client.call(DISPATCH_PATH, item.SerializeToString(), timeout=CALL_SECONDS)
    except (GrpcCallError, OSError) as error:
        raise ServerError(f"{address}: {error}") from error
    if not is_right(Object.FromString(answer)):
        raise ServerError(f"{address} answers wrongly:\n{str(Object.FromString(answer))[:2000]}")
    return len(framed(answer))


@dataclass(slots=True)
class LoadCase:
    """A server driven by a program that makes a given number of calls, `at_once` at a time."""

    name: str
    pids: Callable[[], list[int] | None]
    run: Callable[[int], h2load.Load]
    """Makes so many calls."""
    at_once: int
    seconds: float
    warm_up_calls: int = WARM_UP_CALLS
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What goes on while it is measured, and not while it is warmed up."""
    _calls: int = 0

    def warm_up(self) -> None:
        """Find out how many calls fill the time."""
        load = self.run(max(self.warm_up_calls, 2 * self.at_once))
        self._calls = max(MIN_CALLS, 2 * self.at_once, int(load.rate * self.seconds))

    def measure(self) -> Reading:
        """Measure one round."""
        with self.around():
            pids = self.pids() or []
            before = cpu_ns(pids)
            load = self.run(self._calls)
            after = cpu_ns(pids)
        front, *others = ((after[pid] - before[pid]) / load.requests / NS_PER_US for pid in pids)
        return Reading(load.rate, load.p50_us, front, sum(others), load.cpu_us, load.p99_us)


def h2load_case(
    name: str, server: Server, item: Object, is_right: IsRight, folder: Path, streams: int, seconds: float,
    connections: int = 1, warm_up_calls: int = WARM_UP_CALLS,
) -> LoadCase:  # fmt: skip
    """Check one answer of a running server, and return its case: so many streams on each of so many connections."""
    answer_size = ask(server.address, item, is_right)
    body = folder / "".join(filter(str.isalnum, name))
    body.write_bytes(framed(item.SerializeToString()))
    socket = Path(server.address.removeprefix("unix://"))
    run = partial(h2load.run, socket, body, streams=streams, answer_size=answer_size, connections=connections)
    return LoadCase(name, server.pids, run, streams * connections, seconds, warm_up_calls)


def drive(
    broker: OwnBroker, messages: Sequence[bytes], streams: int, seconds: float, *, tracing: bool = False
) -> Sample:
    """Drive a broker with our own load generator, which sends the messages in turn."""
    order = Order(
        broker.address, messages, streams, 0.0, WARM_UP_SECONDS, seconds, tail=0.05, drain=DRAIN_SECONDS,
        tracing=tracing,
    )  # fmt: skip
    return runs.measure(order, 1, broker, lambda progress: None)


@dataclass(slots=True)
class OwnLoadCase:
    """A broker of ours driven by our own load generator, with all objects in turn."""

    name: str
    broker: OwnBroker
    items: Sequence[Object]
    is_right: IsRight
    streams: int
    seconds: float
    tracing: bool = False
    samples: list[Sample] = field(default_factory=list)

    def warm_up(self) -> None:
        """Check the first and the last answer, and drive the broker until no hook is new to broker and workers."""
        for item in {id(item): item for item in (self.items[0], self.items[-1])}.values():
            ask(self.broker.address, item, self.is_right)
        missing = len(self.items) * self.broker.workers * WATCHED_CALLS
        while missing > 0:
            missing -= max(1, self._drive(max(WARM_UP_SECONDS, missing / WARM_UP_RATE)).answered)

    def measure(self) -> Reading:
        """Measure one round."""
        sample = self._drive(self.seconds)
        if sample.failed:
            raise ServerError(f"{self.name}: {sample.failed} calls failed: {'; '.join(sample.failures)}")
        self.samples.append(sample)
        usage = sample.usage
        broker, workers = sample.cpu_us(usage.broker), sample.cpu_us(sum(usage.workers or ()))
        p50, p99 = (sample.latencies_ns.percentile(percent) / NS_PER_US for percent in (50, 99))
        return Reading(sample.rate, p50, broker or 0.0, workers or 0.0, sample.cpu_us(usage.load) or 0.0, p99)

    def _drive(self, seconds: float) -> Sample:
        messages = [item.SerializeToString(deterministic=True) for item in self.items]
        return drive(self.broker, messages, self.streams, seconds, tracing=self.tracing)


@contextmanager
def idle_connections(address: str, count: int) -> Iterator[None]:
    """Hold so many connections that have shaken hands and then do nothing, like those of gateways at night."""
    with ExitStack() as stack:
        for _ in range(count):
            dialled = connect(address)
            stack.enter_context(dialled.socket)
            shake_hands(dialled, LoadConnection([b""]))
        yield


def bare_interpreter_mib() -> float:
    """Return the PSS of this Python with nothing imported, while everything else runs."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        mib = pss_bytes(bare.pid) / MIB
        bare.communicate(b"\n")
    return mib
