"""The cost of a dispatch does not grow with the number of hooks, bundles, connections and calls.

It is counted in bytecodes, which are the same on every machine; the benchmarks show the effect of caches.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from types import FrameType as PythonFrame
from typing import Any, Final, cast

import pytest

from benchmarks.bars.many import bundles, hooks
from benchmarks.objects import framed
from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.http2_peer import settings, window_update
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.end_of_turn import EndOfTurn
from tykpy.broker.grpc.server import GrpcProtocol, GrpcServer
from tykpy.broker.grpc.wire import pack_fields
from tykpy.broker.http2.frames import ACK, END_HEADERS, END_STREAM, PREFACE, FrameType, pack_frame
from tykpy.broker.http2.limits import Limits
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.bundles.registry import BundleStore
from tykpy.workers.dispatch.prepare import HookDispatcher

THIRD_CALL: Final = 5
"""Stream id of a connection's third call."""
CALLS: Final = 200
"""Number of calls that are counted."""
AT_ONCE: Final = 20
FEW: Final = 10
MANY: Final = 100
IN_FLIGHT: Final = 2000
WARM_UP: Final = 50
"""Calls of each hook after which the router knows that it is short."""
FIRST_CALLS: Final = 4
"""Calls of each connection that may use a header table."""
TOLERANCE: Final = 0.03
"""Relative. On a slow machine fewer deadlines share a slot of the wheel, at some 20 bytecodes each."""
HOUR_NS: Final = 3600 * 10**9
ACKNOWLEDGEMENT: Final = pack_frame(FrameType.SETTINGS, ACK, 0)
HELLO: Final = b"".join((PREFACE, settings(), ACKNOWLEDGEMENT, window_update(0, 2**30)))
BLOCK: Final = pack_fields(
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/coprocess.Dispatcher/Dispatch"),
    (b"content-type", b"application/grpc"),
)


class Transport:
    """A transport that counts what is written."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0


class Gateway:
    """One connection, and the calls made on it."""

    def __init__(self, server: GrpcServer) -> None:
        self.protocol = cast(GrpcProtocol, server.protocol_factory())
        self.protocol.connection_made(cast(asyncio.Transport, Transport()))
        self.protocol.data_received(HELLO)
        self._next_id = 1
        self._acknowledged = False

    def call(self, bodies: Iterator[bytes]) -> None:
        """Make a call for each body, all in one read."""
        frames = []
        if self._next_id >= THIRD_CALL and not self._acknowledged:
            # After the second block the broker forbids the header table.
            self._acknowledged = True
            frames.append(ACKNOWLEDGEMENT)
        for body in bodies:
            frames.append(pack_frame(FrameType.HEADERS, END_HEADERS, self._next_id, BLOCK))
            frames.append(pack_frame(FrameType.DATA, END_STREAM, self._next_id, body))
            self._next_id += 2
        self.protocol.data_received(b"".join(frames))


class Scene:
    """A broker with one worker and some connections, in this process and without a running event loop."""

    def __init__(self, worker: LocalWorker, folder: Path, items: list[Object], connections: int = 1) -> None:
        self.loop = asyncio.new_event_loop()
        end_of_turn = EndOfTurn(self.loop)
        self.router = Router(self.loop, RouterOptions(HOUR_NS, 2 * IN_FLIGHT), end_of_turn)
        server = GrpcServer(
            self.router, Limits(max_concurrent_streams=2 * IN_FLIGHT), self.loop, end_of_turn=end_of_turn
        )
        store = BundleStore([folder], folder / "unpacked", None)
        store.load_all()
        self.router.hooks.update(store.describe())
        self._dispatcher = HookDispatcher(store)
        self._worker = worker
        self.router.join(worker.link)
        self._gateways = cycle([Gateway(server) for _ in range(connections)])
        self._bodies = cycle([framed(item.SerializeToString(deterministic=True)) for item in items])
        self._per_gateway = AT_ONCE if connections == 1 else 1
        self._warm_up = max(WARM_UP * len(items), FIRST_CALLS * connections)

    def call(self, count: int) -> None:
        """Make `count` calls, alternating between the connections."""
        for at in range(0, count, self._per_gateway):
            next(self._gateways).call(islice(self._bodies, min(count - at, self._per_gateway)))

    def answer_all(self) -> int:
        """Let the worker answer all its calls; return their number."""
        given = len(self._worker.link.in_flight)
        for _ in range(given):
            request = self._worker.claim()
            answer = self._dispatcher.prepare(request.payload).run()
            self._worker.channel.answer(0, request.seq, answer, False, 1000)
        self.router.receive(self._worker.link)
        return given

    def serve(self, count: int) -> None:
        """Answer at least `count` calls and make a new one for each, so that the number in flight stays the same."""
        while count > 0:
            answered = self.answer_all()
            self.call(answered)
            count -= answered

    def finish(self) -> None:
        """Answer all calls in flight."""
        while self.router.under_way:
            self.answer_all()
        self.loop.close()

    def cost(self, in_flight: int) -> float:
        """Return the bytecodes per dispatch after a warm-up."""
        self.call(in_flight)
        self.serve(self._warm_up)
        before = self.router.counters.answered
        spent = count_bytecodes(lambda: self.serve(CALLS))
        answered = self.router.counters.answered - before
        self.finish()
        assert answered >= CALLS
        return spent / answered


def count_bytecodes(run: Callable[[], None]) -> int:
    """Run a function and return how many bytecodes Python executes."""
    count = 0

    def step(frame: PythonFrame, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return step

    def enter(frame: PythonFrame, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 checks this frame when tracing begins
    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


@pytest.fixture(autouse=True)
def _unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the sampled checks of hooks, except for the first call."""
    monkeypatch.setattr("tykpy.workers.dispatch.sampled_checks.FIRST_CALLS", 0)
    monkeypatch.setattr("tykpy.workers.dispatch.sampled_checks.LATER_CALLS", 10**9)


def of_hooks(folder: Path, count: int) -> float:
    _, items = hooks(folder, count)
    with local_worker() as worker:
        return Scene(worker, folder, items).cost(AT_ONCE)


def of_bundles(folder: Path, count: int) -> float:
    _, items = bundles(folder, count)
    with local_worker() as worker:
        return Scene(worker, folder, items).cost(AT_ONCE)


def of_connections(folder: Path, count: int) -> float:
    _, items = hooks(folder, 1)
    with local_worker() as worker:
        return Scene(worker, folder, items, connections=count).cost(AT_ONCE)


def of_calls_in_flight(folder: Path, count: int) -> float:
    _, items = hooks(folder, 1)
    with local_worker() as worker:
        return Scene(worker, folder, items).cost(count)


@pytest.mark.parametrize(
    ("measure", "few", "many"),
    [
        (of_hooks, FEW, MANY),
        (of_bundles, FEW, MANY),
        (of_connections, AT_ONCE, MANY),
        (of_calls_in_flight, MANY, IN_FLIGHT),
    ],
)
def test_a_dispatch_costs_the_same_among_many(
    measure: Callable[[Path, int], float], few: int, many: int, tmp_path: Path
) -> None:
    assert measure(tmp_path / "many", many) == pytest.approx(measure(tmp_path / "few", few), rel=TOLERANCE)
