"""The load generator, a process of its own: one connection as a gateway has it, calls at a pace, latencies counted.

It reads an `Order` from standard input and answers on standard output, as msgpack arrays `[name, body]`: `ready`, then,
once it was told when to start, `progress` while it works and `result` at the end; or `failed`.
"""

import gc
import os
import select
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgpack

from tykpy.bench.errors import BenchError
from tykpy.bench.histogram import Histogram
from tykpy.bench.measure import NS_PER_SECOND
from tykpy.bench.pace import ClosedLoop, OpenLoop, Pace, Window
from tykpy.bench.tracing import traceparents
from tykpy.bench.wire import LoadConnection
from tykpy.broker.errors import BrokerError
from tykpy.client.dialing import ClientTls, Dialled, dial

READ_SIZE: Final = 256 * 1024
HANDSHAKE_SECONDS: Final = 10.0
PROGRESS_NS: Final = 200_000_000
MAX_FAILURE_TEXTS: Final = 8
"""Different errors that are told one by one; messages may hold something that is new in each."""
OTHER_FAILURES: Final = "other errors"
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What sockets that do not wait raise where they would have to; with TLS there is a word for each direction."""

Emit = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. `rate` 0: closed loop with `streams` calls at once; else calls per second."""

    address: str
    messages: Sequence[bytes]
    """Called in turn; of one length."""
    streams: int
    rate: float
    warm_up: float
    seconds: float
    tail: float
    """Seconds for which the load goes on after what is measured, while others read their clocks."""
    drain: float
    """Most seconds to wait for the last answers."""
    tracing: bool = False
    """Send a new `traceparent` with every call."""
    tls: ClientTls | None = None
    """For an address that begins with `tls://`."""


class LoadDriver:
    """Drives one connection through warm-up, measured window, tail and drain; `start` is CLOCK_MONOTONIC ns."""

    def __init__(self, order: Order, sock: socket.socket, connection: LoadConnection, emit: Emit, start: int) -> None:
        self._order = order
        self._socket = sock
        self._connection = connection
        self._emit = emit
        begin = start + int(order.warm_up * NS_PER_SECOND)
        self._start = start
        self._window = Window(begin, begin + int(order.seconds * NS_PER_SECOND))
        self._stop = self._window.end + int(order.tail * NS_PER_SECOND)
        self._give_up = self._stop + int(order.drain * NS_PER_SECOND)
        self._pace: Pace = OpenLoop(order.rate, start) if order.rate else ClosedLoop()
        self._started: dict[int, int] = {}
        self._failures: Counter[str] = Counter()
        self._histogram = Histogram()
        self._unsent = memoryview(b"")
        self._next_progress = begin + PROGRESS_NS
        self._cpu_begin: int | None = None
        self._cpu_end: int | None = None

    def run(self) -> dict[str, Any]:
        """Work; gives the result."""
        now = time.monotonic_ns()
        while now < self._give_up and (now < self._stop or self._started or self._due() is not None):
            if now >= self._start:
                self._call(now)
            self._exchange(now)
            now = time.monotonic_ns()
            self._look_at_clock(now)
        return self._result()

    def _due(self) -> int | None:
        """When the next call is due, if that is before the end: such a call is made even when it is late."""
        due = self._pace.next_due()
        return due if due is not None and due < self._stop else None

    def _room(self) -> int:
        limit = self._connection.max_streams
        if not self._order.rate:
            limit = min(limit, self._order.streams)
        return limit - len(self._started)

    def _call(self, now: int) -> None:
        if now >= self._stop and self._due() is None:
            return
        room = self._room()
        if room > 0 and (starts := self._pace.take(min(now, self._stop - 1), room)):
            self._started.update(zip(self._connection.start_calls(len(starts)), starts, strict=True))

    def _exchange(self, now: int) -> None:
        writers = [self._socket] if self._write() else []
        readable, _, _ = select.select([self._socket], writers, [], self._patience(now))
        if readable:
            self._receive()

    def _write(self) -> bool:
        """Write what there is; True: the socket takes no more for now."""
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._connection.take_output())
                if not self._unsent:
                    return False
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except _NOT_NOW:
                return True

    def _patience(self, now: int) -> float:
        until = self._next_progress if now < self._window.end else self._give_up
        for moment in (self._start, self._window.begin, self._window.end, self._stop):
            if moment > now:
                until = min(until, moment)
        due = self._due()
        if due is not None and self._room() > 0:
            until = min(until, due)
        return max(0, until - now) / NS_PER_SECOND

    def _receive(self) -> None:
        try:
            # TLS: takes a whole record, so nothing stays behind that `select` knows nothing of.
            data = self._socket.recv(READ_SIZE)
        except _NOT_NOW:
            return  # TLS: a part of a record
        now = time.monotonic_ns()
        if not data:
            raise BenchError("the broker closed the connection")
        answers = self._connection.receive(data)
        pop = self._started.pop
        self._window.ended([pop(stream_id) for stream_id in answers.good], now)
        for failure in answers.failures:
            started = self._started.pop(failure.stream_id, None)
            if started is not None and self._window.begin <= now < self._window.end:
                self._fail(failure.text)

    def _fail(self, text: str) -> None:
        known = text in self._failures or len(self._failures) < MAX_FAILURE_TEXTS
        self._failures[text if known else OTHER_FAILURES] += 1

    def _look_at_clock(self, now: int) -> None:
        if self._cpu_begin is None and now >= self._window.begin:
            self._cpu_begin = time.process_time_ns()
        if self._cpu_end is None and now >= self._window.end:
            self._cpu_end = time.process_time_ns()
        if self._next_progress <= now < self._window.end:
            self._next_progress = now + PROGRESS_NS
            self._emit("progress", self._progress())

    def _progress(self) -> dict[str, Any]:
        self._fold()
        return {
            "answered": self._window.answered,
            "failed": self._failures.total(),
            "p50": self._histogram.percentile(50),
            "p99": self._histogram.percentile(99),
        }

    def _fold(self) -> None:
        self._histogram.record(self._window.latencies)
        self._window.latencies.clear()

    def _result(self) -> dict[str, Any]:
        self._fold()
        now = time.process_time_ns()
        end = now if self._cpu_end is None else self._cpu_end
        begin = end if self._cpu_begin is None else self._cpu_begin
        return {
            "answered": self._window.answered,
            "failures": dict(self._failures),
            "unanswered": len(self._started) + self._pace.late(self._stop),
            "histogram": self._histogram.as_dict(),
            "cpu_ns": end - begin,
        }


def connect(address: str, tls: ClientTls | None = None) -> Dialled:
    """A connection to a broker's address; raises BenchError."""
    try:
        return dial(address, HANDSHAKE_SECONDS, tls)
    except BrokerError as error:
        raise BenchError(str(error)) from error
    except OSError as error:
        raise BenchError(f"cannot connect to {address}: {error.strerror or error}") from error


def shake_hands(dialled: Dialled, connection: LoadConnection) -> None:
    """Exchange settings, so that the server's limits are known before the first call; raises BenchError."""
    sock, received = dialled
    sock.settimeout(HANDSHAKE_SECONDS)
    try:
        connection.receive(received)
        while not connection.ready:
            sock.sendall(connection.take_output())
            data = sock.recv(READ_SIZE)
            if not data:
                raise BenchError("the server closed the connection: does it speak gRPC?")
            connection.receive(data)
        sock.sendall(connection.take_output())
    except TimeoutError:
        raise BenchError(f"the server did not answer within {HANDSHAKE_SECONDS} s: does it speak gRPC?") from None
    sock.setblocking(False)


def work(order: Order, emit: Emit, wait_for_start: Callable[[], int]) -> dict[str, Any]:
    """Connect, say `ready`, wait for the time to start, and drive the load; gives the result. Raises BenchError."""
    dialled = connect(order.address, order.tls)
    with dialled.socket as sock:
        fields = traceparents() if order.tracing else None
        connection = LoadConnection(
            order.messages, fields, scheme=b"https" if isinstance(sock, ssl.SSLSocket) else b"http"
        )
        try:
            shake_hands(dialled, connection)
            emit("ready", {"max_streams": connection.max_streams})
            return LoadDriver(order, sock, connection, emit, wait_for_start()).run()
        except OSError as error:
            raise BenchError(f"the connection to {order.address} broke: {error.strerror or error}") from error


def pack_order(order: Order) -> bytes:
    """The order as `main` reads it."""
    packed: bytes = msgpack.packb(asdict(order), default=os.fspath)
    return packed


def unpacked_order(packed: dict[str, Any]) -> Order:
    """The order that was packed."""
    return Order(**packed | {"tls": ClientTls.of(packed["tls"] or {})})


def main() -> None:
    """The process: see the module's docstring."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us; who started this process decides
    unpacker = msgpack.Unpacker(os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False), max_buffer_size=0)
    order = unpacked_order(next(unpacker))

    def emit(name: str, body: Any) -> None:
        os.write(sys.stdout.fileno(), msgpack.packb([name, body]))

    gc.collect()
    gc.disable()
    try:
        emit("result", work(order, emit, lambda: int(next(unpacker))))
    except BenchError as error:
        emit("failed", str(error))


if __name__ == "__main__":
    main()
