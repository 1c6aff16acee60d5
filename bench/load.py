"""The load generator, a process of its own: one connection as a gateway has it, calls on a schedule, latencies counted.

It reads an `Order` from a pipe and answers with `RunProgress`, first when it is connected; once it is told when to
start, with more of them while it works, and with a `LoadResult` at the end; or with a BenchError.

A closed loop makes the next call when one has ended: a server that stalls is asked less, and most callers who would
have come meanwhile are never seen ("coordinated omission"). An open loop makes calls when they are due, whatever the
server does, and a latency counts from that moment, even if the call could only be sent later.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tykpy.bench.errors import BenchError
from tykpy.bench.measure import NS_PER_SECOND
from tykpy.bench.results import LatencyHistogram
from tykpy.bench.wire import LoadConnection
from tykpy.broker.errors import BrokerError
from tykpy.client.dialing import ClientTls, Dialled, dial
from tykpy.commands.objects import reason

READ_SIZE: Final = 256 * 1024
HANDSHAKE_SECONDS: Final = 10.0
PROGRESS_NS: Final = 200_000_000
MAX_FAILURE_TEXTS: Final = 8
"""Different errors that are counted one by one; each message may contain something new."""
OTHER_FAILURES: Final = "other errors"
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What non-blocking sockets raise if they would have to wait; TLS has an error for each direction."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. `rate` 0: closed loop with `streams` calls at once; otherwise calls per second."""

    address: str
    messages: Sequence[bytes]
    """Called in turn."""
    streams: int
    rate: float
    warm_up: float
    seconds: float
    tail: float
    """Seconds for which the load continues after the measured window, while others read their clocks."""
    drain: float
    """Most seconds to wait for the last answers."""
    tracing: bool = False
    """Send a new `traceparent` with every call."""
    tls: ClientTls | None = None
    """For an address that begins with `tls://`."""


class RunProgress(NamedTuple):
    """Progress in the measured window; latencies in ns."""

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    p50: int = 0
    p99: int = 0


class LoadResult(NamedTuple):
    """What a load generator saw in the measured window."""

    answered: int
    failures: dict[str, int]
    unanswered: int
    latencies_ns: LatencyHistogram


class Schedule:
    """When calls are made, and from when their latency counts; all times are ns of one clock.

    With a rate, call number n is due n/rate seconds after the start; with rate 0, the loop is closed.
    """

    def __init__(self, rate: float, start: int) -> None:
        self._rate = rate
        self._start = start
        self._made = 0

    def take(self, now: int, room: int) -> list[int]:
        """Return the times from which the latencies of the calls to make now count, at most `room`."""
        if not self._rate:
            return [now] * room
        made, self._made = self._made, self._made + min(self.late(now + 1), room)
        return [self._due(number) for number in range(made, self._made)]

    def next_due(self) -> int | None:
        """Return when a call becomes due by itself; None in a closed loop, where another one has to end."""
        return self._due(self._made) if self._rate else None

    def late(self, now: int) -> int:
        """Return the number of calls that were due before `now` and have not been made."""
        due = int((now - 1 - self._start) * self._rate / NS_PER_SECOND) + 1 if self._rate and now > self._start else 0
        return max(0, due - self._made)

    def _due(self, number: int) -> int:
        return self._start + int(number * NS_PER_SECOND / self._rate)


class Window:
    """The measured part of a run: calls that start in it count for latency, calls that end in it for throughput."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        self.answered = 0
        self._histogram = LatencyHistogram()
        self._latest: list[int] = []

    def ended(self, started: list[int], now: int) -> None:
        """Count calls that have ended with OK, by the times from which they count."""
        if self.begin <= now < self.end:
            self.answered += len(started)
        self._latest += [now - at for at in started if self.begin <= at < self.end]

    def latencies_ns(self) -> LatencyHistogram:
        """Return the latencies so far of calls that were due within the window; counting them at once costs less."""
        self._histogram.record(self._latest)
        self._latest.clear()
        return self._histogram


class LoadDriver:
    """Drives one connection through warm-up, measured window, tail and drain; `start` is CLOCK_MONOTONIC ns."""

    def __init__(
        self, order: Order, sock: socket.socket, connection: LoadConnection, report: Callable[[RunProgress], None],
        start: int,
    ) -> None:  # fmt: skip
        self._order = order
        self._socket = sock
        self._connection = connection
        self._report = report
        begin = start + int(order.warm_up * NS_PER_SECOND)
        self._start = start
        self._window = Window(begin, begin + int(order.seconds * NS_PER_SECOND))
        self._stop = self._window.end + int(order.tail * NS_PER_SECOND)
        self._give_up = self._stop + int(order.drain * NS_PER_SECOND)
        self._schedule = Schedule(order.rate, start)
        self._started: dict[int, int] = {}
        self._failures: Counter[str] = Counter()
        self._unsent = memoryview(b"")
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._next_progress = begin + PROGRESS_NS

    def run(self) -> LoadResult:
        """Drive the load and return the result."""
        now = time.monotonic_ns()
        while now < self._give_up and (now < self._stop or self._started or self._due() is not None):
            if now >= self._start:
                self._call(now)
            self._exchange(now)
            now = time.monotonic_ns()
            self._tell(now)
        unanswered = len(self._started) + self._schedule.late(self._stop)
        return LoadResult(self._window.answered, dict(self._failures), unanswered, self._window.latencies_ns())

    def _due(self) -> int | None:
        """Return when the next call is due, if that is before the end: such a call is made even if it is late."""
        due = self._schedule.next_due()
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
        if room > 0 and (starts := self._schedule.take(min(now, self._stop - 1), room)):
            self._started.update(zip(self._connection.start_calls(len(starts)), starts, strict=True))

    def _exchange(self, now: int) -> None:
        writers = [self._socket] if self._write() else []
        readable, _, _ = select.select([self._socket], writers, [], self._patience(now))
        if readable:
            self._receive()

    def _write(self) -> bool:
        """Write what there is; return True if the socket takes no more for now."""
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
        for moment in (self._start, self._stop):
            if now < moment < until:
                until = moment
        due = self._due()
        if due is not None and self._room() > 0:
            until = min(until, due)
        return max(0, until - now) / NS_PER_SECOND

    def _receive(self) -> None:
        try:
            # With TLS this reads a whole record, so nothing stays behind that `select` does not know of.
            # Into a buffer that is kept: the kernel would make and clear the pages of a new one each time.
            size = self._socket.recv_into(self._buffer)
        except _NOT_NOW:
            return  # TLS: a part of a record
        now = time.monotonic_ns()
        if not size:
            raise BenchError("the broker closed the connection")
        answers = self._connection.receive(bytes(self._buffer[:size]))
        pop = self._started.pop
        self._window.ended([pop(stream_id) for stream_id in answers.good], now)
        for failure in answers.failures:
            started = self._started.pop(failure.stream_id, None)
            if started is not None and self._window.begin <= now < self._window.end:
                self._fail(failure.text)

    def _fail(self, text: str) -> None:
        known = text in self._failures or len(self._failures) < MAX_FAILURE_TEXTS
        self._failures[text if known else OTHER_FAILURES] += 1

    def _tell(self, now: int) -> None:
        """Report progress if it is time."""
        window = self._window
        if self._next_progress <= now < window.end:
            self._next_progress = now + PROGRESS_NS
            p50, p99 = map(window.latencies_ns().percentile, (50, 99))
            seconds = (now - window.begin) / NS_PER_SECOND
            self._report(RunProgress(seconds, window.answered, self._failures.total(), p50, p99))


TRACEPARENT_RATE: Final = 60_000
MAX_TRACEPARENTS: Final = 1 << 17
"""Most that are made before the load begins, so that making them does not slow it down; usually as this rate needs."""
_TRACE_ID: Final = 16
_SPAN_ID: Final = 8
"""Bytes."""
_LITERAL: Final = b"\x00"
_HUFFMAN: Final = 0x80


def traceparents(ahead: int) -> Iterator[bytes]:
    """Return an endless series of encoded `traceparent` fields, each different, as a gateway that traces sends them.

    Each is grpc-go's literal: Huffman-coded, not indexed without a table (RFC 7541, 6.2.2; W3C Trace Context).
    """
    made = [_traceparent() for _ in range(min(ahead, MAX_TRACEPARENTS))]
    return chain(made, iter(_traceparent, None))


def _bits(text: bytes) -> str:
    return "".join(f"{REQUEST_CODES[byte]:0{REQUEST_CODES_LENGTH[byte]}b}" for byte in text)


_HEX: Final = tuple(_bits(b"%02x" % number) for number in range(256))
_BEGIN, _MIDDLE, _END = _bits(b"00-"), _bits(b"-"), _bits(b"-01")


def _traceparent() -> bytes:
    ids = os.urandom(_TRACE_ID + _SPAN_ID)
    trace, span = ids[:_TRACE_ID], ids[_TRACE_ID:]
    bits = "".join((_BEGIN, *(_HEX[byte] for byte in trace), _MIDDLE, *(_HEX[byte] for byte in span), _END))
    return _NAME + _string(bits)


def _string(bits: str) -> bytes:
    size = (len(bits) + 7) // 8
    padding = size * 8 - len(bits)
    return bytes([_HUFFMAN | size]) + int(bits + "1" * padding, 2).to_bytes(size, "big")


_NAME: Final = _LITERAL + _string(_bits(b"traceparent"))


def connect(address: str, tls: ClientTls | None = None) -> Dialled:
    """Connect to a broker; raises BenchError."""
    try:
        return dial(address, HANDSHAKE_SECONDS, tls)
    except BrokerError as error:
        raise BenchError(str(error)) from error
    except OSError as error:
        raise BenchError(f"no broker answers at {address}: {reason(error)}") from error


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


def work(order: Order, pipe: "Connection[Any, Any]") -> LoadResult:
    """Connect, report it, wait for the time to start, and drive the load; raises BenchError."""
    dialled = connect(order.address, order.tls)
    with dialled.socket as sock:
        seconds = order.warm_up + order.seconds
        fields = traceparents(int(seconds * TRACEPARENT_RATE)) if order.tracing else None
        connection = LoadConnection(
            order.messages, fields, scheme=b"https" if isinstance(sock, ssl.SSLSocket) else b"http"
        )
        try:
            shake_hands(dialled, connection)
            pipe.send(RunProgress())
            return LoadDriver(order, sock, connection, pipe.send, pipe.recv()).run()
        except OSError as error:
            raise BenchError(f"the connection to {order.address} broke: {error.strerror or error}") from error


def main() -> None:
    """Run the process as the module's docstring describes; its argument is the descriptor of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us; the parent decides
    pipe = Connection(int(sys.argv[1]))
    order = pipe.recv()
    gc.collect()
    gc.disable()
    try:
        pipe.send(work(order, pipe))
    except BenchError as error:
        pipe.send(error)
