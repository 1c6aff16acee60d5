"""The gRPC front end: gateways' connections on the event loop, and the services offered to them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, cast

from tykpy.broker.arriving import Arriving
from tykpy.broker.connections import MAX_REFUSED, Connections
from tykpy.broker.end_of_turn import EndOfTurn
from tykpy.broker.grpc.calls import GrpcCalls
from tykpy.broker.grpc.head import GrpcHeadReader, Method
from tykpy.broker.grpc.health import HealthService
from tykpy.broker.grpc.reflection import reflection_methods
from tykpy.broker.grpc.timeouts import ConnectionTimeouts
from tykpy.broker.http2.connection import Connection
from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.frames import Data
from tykpy.broker.http2.hpack.head_cache import HeadCache
from tykpy.broker.http2.limits import KIB, MIB, Limits
from tykpy.broker.net.access import Admission
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.dispatch import Dispatcher
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.frame import Kind
from tykpy.telemetry.rate_limited_log import QuietLog

_log: Final = logging.getLogger(__name__)

LINGER: Final = 1.0
"""Seconds for a peer to read our GOAWAY and close; closing first would discard what it has not read yet."""
REFUSED_IDLE: Final = 10.0
"""Seconds without a call after which a peer that may not call anything is asked to go."""
READ_BYTES: Final = 256 * KIB
"""Size of the read buffer, a little more than a Unix socket holds."""
COPIED_BYTES: Final = 32 * KIB
"""Bytes of a read up to which one copy of the whole is cheaper than a copy of each frame."""
JOINED_BYTES: Final = 64 * KIB
"""Bytes of output up to which the pieces are joined before they are written."""
PING_DELAY: Final = 0.01
"""Seconds until a PING is acknowledged. gRPC clients measure the round trip with one PING at a time, and send the next
one with the first answer after its acknowledgement. If acknowledged at once, every call of a single client comes with a
PING: one more read and write and two more wake-ups, 8.8 system calls of the broker per call instead of 6.2."""
HIGH_WATER: Final = 1 * MIB
"""Bytes in a socket's output buffer above which nothing more is read from its peer."""


class GrpcServer:
    """All connections of gateways, on any number of listening sockets."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        limits: Limits | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        admission: Admission | None = None,
        end_of_turn: EndOfTurn | None = None,
        bodies: BodyStore | None = None,
        arriving: Arriving | None = None,
        oversize: SizeRefusals | None = None,
    ) -> None:
        """`admission`: who may call; None: everybody. `bodies`: where large requests are collected; None: on the heap.
        `end_of_turn` is shared with the dispatcher, `arriving` and `oversize` with the other front end."""
        self.dispatcher = dispatcher
        self.bodies = bodies
        self.arriving = arriving or Arriving()
        self.buffer = memoryview(bytearray(READ_BYTES))
        """Every connection reads into this buffer: whoever keeps some of it copies it at once."""
        self.limits = limits or Limits()
        self.oversize = oversize or SizeRefusals(self.limits.max_message)
        self.loop = loop or asyncio.get_running_loop()
        self.end_of_turn = end_of_turn or EndOfTurn(self.loop)
        self.health = HealthService()
        """The health of the services, set by the composition root."""
        self.methods: Mapping[bytes, Method] = {
            b"/coprocess.Dispatcher/Dispatch": Method(kind=int(Kind.OBJECT)),
            b"/coprocess.Dispatcher/DispatchEvent": Method(kind=int(Kind.EVENT)),
            **self.health.methods(),
            **reflection_methods(),
        }
        self.cache = HeadCache(GrpcHeadReader(self.methods, self.limits), self.limits)
        self.connections: Connections[GrpcProtocol] = Connections(self.loop, self.limits.max_connections)
        self.notices = QuietLog(_log)
        self.errors: Counter[ErrorCode] = Counter()
        """Faults of peers by code."""
        self._unaware: set[GrpcProtocol] = set()
        """Connections whose peers may not have read our GOAWAY yet."""
        self._all_told = asyncio.Event()
        self.admission = admission

    def protocol_factory(self) -> asyncio.BufferedProtocol:
        """Return a protocol for a new connection, for `loop.create_server`."""
        return GrpcProtocol(self)

    def drain(self) -> None:
        """Ask all peers to go: calls that they have sent are answered, later ones are refused; never waits.

        A peer that connects after that may stay; the dispatcher refuses its calls.
        """
        self.connections.draining = True
        self._unaware = set(self.connections.open)
        for protocol in list(self.connections.open):
            protocol.drain()
        self._note_told()

    @property
    def streams(self) -> int:
        """Open streams of all connections."""
        return sum(protocol.streams for protocol in self.connections.open)

    async def told(self) -> None:
        """Wait, after `drain`, until every peer has read that it is to go."""
        await self._all_told.wait()

    def went(self, protocol: "GrpcProtocol") -> None:
        """Note that a peer has read that it is to go, or is gone."""
        self._unaware.discard(protocol)
        self._note_told()

    def _note_told(self) -> None:
        if self.connections.draining and not self._unaware:
            self._all_told.set()


class GrpcProtocol(asyncio.BufferedProtocol):
    """One connection: moves bytes between the transport and the HTTP/2 core."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self._loop = server.loop
        self._end_of_turn = server.end_of_turn
        self._transport: asyncio.Transport | None = None
        self._flush_due = True
        self._linger: asyncio.TimerHandle | None = None
        self._connection: Connection
        self._timeouts: ConnectionTimeouts

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our SETTINGS, or the reason why the peer is refused."""
        # uvloop's transports have asyncio's methods without being subclasses.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        admission = self._server.admission
        self._open(admission(transport) if admission is not None else None)
        connections = self._server.connections
        if not connections.add(self):
            self._connection.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, "too many connections (--max-connections)"))
        self._flush()
        if len(connections.refused) > MAX_REFUSED:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next read."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read: a large read as a view, since it is mostly DATA, which is copied to its place."""
        data = self._server.buffer[:nbytes]
        self.data_received(data if nbytes > COPIED_BYTES else bytes(data))

    def data_received(self, data: Data) -> None:
        """Act on all frames of one read; the output is written at the end of the turn."""
        connection = self._connection
        with self._end_of_turn:
            connection.receive(data)
        if connection.going_away or connection.closed:
            self._server.went(self)
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the calls of a peer that is gone."""
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
        if not self._connection.closed:
            self._connection.close()
        self._server.went(self)
        self._server.connections.discard(self)

    def pause_writing(self) -> None:
        """Stop reading from a peer that does not read."""
        self._connection.sender.paused = True
        if self._transport is not None and not self._connection.closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again, and send what waits."""
        self._connection.sender.paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._flush()

    def _open(self, refusal: str | None) -> None:
        """Set up the core. A refused peer learns why from its calls; after a GOAWAY it would dial again at once."""
        server = self._server
        cache, limits = server.cache, server.limits
        if refusal is not None:
            cache = HeadCache(GrpcHeadReader({}, limits, refusal), limits)
            limits = replace(limits, idle_timeout=REFUSED_IDLE)
        calls = GrpcCalls(server.dispatcher, limits, server.bodies, server.arriving, server.oversize)
        self._connection = Connection(calls, cache, limits, self._wake, self._loop.time, self._delay)
        self._connection.errors = server.errors
        calls.sender = self._connection.sender
        self._timeouts = ConnectionTimeouts(self._connection, limits, calls.expire, self._loop.time())

    # Called by the server

    @property
    def streams(self) -> int:
        """Open streams."""
        return len(self._connection.streams)

    def drain(self) -> None:
        """Ask the peer to go."""
        self._connection.drain()
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now: float) -> None:
        """Give up what takes too long."""
        if self._transport is None:
            return
        if not self._timeouts.check(now, self._transport.get_write_buffer_size()):
            self._server.notices.log(logging.WARNING, "stuck", "a connection is closed: its peer does not read")
            self.abort()
            return
        self._flush()

    # Output

    def _delay(self, acknowledge: Callable[[], None]) -> None:
        """Acknowledge PINGs a little later, see `PING_DELAY`."""
        self._loop.call_later(PING_DELAY, acknowledge)

    def _wake(self) -> None:
        """Write the new output at the end of this turn."""
        if not self._flush_due:
            self._flush_due = True
            self._end_of_turn.at_end(self._flush)

    def _flush(self) -> None:
        connection = self._connection
        transport = self._transport
        if transport is None:
            return
        self._flush_due = True
        while out := connection.take_output():
            # One system call either way; joining much costs more than the kernel's walk over the pieces.
            if sum(map(len, out)) > JOINED_BYTES:
                transport.writelines(out)
            else:
                transport.write(b"".join(out))
            if not connection.sender.waiting:
                break
        self._flush_due = False
        if (connection.going_away or connection.closed) and connection.done:
            self._end()

    def _end(self) -> None:
        """Wait for the peer to close, for a short time: nothing is left to send."""
        if self._linger is not None or self._transport is None:
            return
        fault = self._connection.fault
        if fault is not None:
            text = f"a connection is closed: {fault.message} ({fault.code.name})"
            self._server.notices.log(logging.WARNING, fault.code.name, text)
        self._connection.close()
        self._linger = self._loop.call_later(LINGER, self.abort)
        if self._transport.can_write_eof():
            self._transport.write_eof()
