"""The gRPC front end: connections of gateways on the event loop, and the services that they find there."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final, cast

from tykpy.broker.arriving import Arriving
from tykpy.broker.end_of_turn import Turn
from tykpy.broker.faults import Periodic, each
from tykpy.broker.grpc.calls import GrpcCalls
from tykpy.broker.grpc.head import GrpcHeadReader, Method, RefusingHeadReader
from tykpy.broker.grpc.health import HealthService
from tykpy.broker.grpc.reflection import reflection_methods
from tykpy.broker.grpc.sweep import SWEEP_INTERVAL, ConnectionAge
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
"""Seconds that a peer has to read our GOAWAY and close; closing first would throw away what it has not read."""
REFUSED_IDLE: Final = 10.0
"""Seconds without a call for which a peer that may call nothing keeps its connection."""
READ_BYTES: Final = 256 * KIB
"""Bytes of one read: a little more than a Unix socket holds."""
COPIED_BYTES: Final = 32 * KIB
"""Bytes of a read up to which one copy of all is cheaper than one of each frame."""
JOINED_BYTES: Final = 64 * KIB
"""Bytes of output up to which its pieces are joined before they are written."""
SWEEP_SLICE: Final = 100
"""Connections that are looked at in one pass through the event loop: 0.3 ms."""
MAX_REFUSED: Final = 64
"""Connections beyond the limit that get time to read why they are refused; further ones are cut off at once."""
PING_DELAY: Final = 0.01
"""Seconds until a PING is acknowledged. gRPC clients measure the way to us with one PING at a time, and send the next
with the first answer after its acknowledgement. Acknowledged at once, a single client's calls come with a PING each: a
read, a write and two wake-ups more, 8.8 system calls of the broker per call instead of 6.2."""
HIGH_WATER: Final = 1 * MIB
"""Bytes in a socket's output buffer from which on nothing more is read from its peer."""


class GrpcServer:
    """All connections of gateways, on any number of listening sockets."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        limits: Limits | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        admission: Admission | None = None,
        turn: Turn | None = None,
        bodies: BodyStore | None = None,
        arriving: Arriving | None = None,
        oversize: SizeRefusals | None = None,
    ) -> None:
        """`admission`: who may connect; None: everybody who can. `turn`: shared with the dispatcher. `bodies`: where
        big requests are collected. `arriving`, `oversize`: shared with the other front end."""
        self.dispatcher = dispatcher
        self.bodies = bodies
        self.arriving = arriving or Arriving()
        self.buffer = memoryview(bytearray(READ_BYTES))
        """What is read goes here first, on all connections: whoever keeps some of it copies it at once."""
        self.limits = limits or Limits()
        self.oversize = oversize or SizeRefusals(self.limits.max_message)
        self.loop = loop or asyncio.get_running_loop()
        self.turn = turn or Turn(self.loop)
        self.health = HealthService()
        """What is served; the composition root says when."""
        self.methods: Mapping[bytes, Method] = {
            b"/coprocess.Dispatcher/Dispatch": Method(kind=int(Kind.OBJECT)),
            b"/coprocess.Dispatcher/DispatchEvent": Method(kind=int(Kind.EVENT)),
            **self.health.methods(),
            **reflection_methods(),
        }
        self.cache = HeadCache(GrpcHeadReader(self.methods, self.limits), self.limits)
        self._protocols: set[GrpcProtocol] = set()
        self._late: set[GrpcProtocol] = set()
        """Connections that came after `drain`."""
        self._untold: set[GrpcProtocol] = set()
        """Connections that have not said yet that they have read our GOAWAY."""
        self._refused: set[GrpcProtocol] = set()
        """Connections that are too many, and are being told so."""
        self.notices = QuietLog(_log)
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._all_told = asyncio.Event()
        self._draining = False
        self._sweeper = Periodic(self.loop, SWEEP_INTERVAL, self._sweep_slowly)
        self._admission = admission

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._protocols) + len(self._late)

    @property
    def refused(self) -> int:
        """How many are being told that they are too many."""
        return len(self._refused)

    def protocol_factory(self) -> asyncio.BufferedProtocol:
        """For `loop.create_server`."""
        return GrpcProtocol(self)

    def drain(self) -> None:
        """Ask all peers to go: what they have sent is answered, what comes later is refused; never waits.

        A peer that connects after that is not sent away, since it would come back at once, for ever: the dispatcher
        says to each of its calls that nothing more is taken.
        """
        self._draining = True
        self._untold = set(self._protocols)
        for protocol in list(self._protocols):
            protocol.drain()
        self._note_told()

    async def told(self) -> None:
        """Wait, after `drain`, until every peer has read that it is to go: what it still calls, it knows to be late."""
        await self._all_told.wait()

    def went(self, protocol: "GrpcProtocol") -> None:
        """A peer has read that it is to go, or is gone."""
        self._untold.discard(protocol)
        self._note_told()

    def _note_told(self) -> None:
        if self._draining and not self._untold:
            self._all_told.set()

    def abort(self) -> None:
        """Close all connections now; their calls are cancelled."""
        for protocol in [*self._protocols, *self._late, *self._refused]:
            protocol.abort()

    async def closed(self) -> None:
        """Wait until there are no connections, but for those that came after `drain`."""
        await self._all_closed.wait()

    def refusal(self, transport: asyncio.BaseTransport) -> str | None:
        """Why this peer may not call anything; None: it may."""
        return self._admission(transport) if self._admission is not None else None

    def add(self, protocol: "GrpcProtocol") -> bool:
        """A new connection; False: it is one too many."""
        if self.connections >= self.limits.max_connections:
            self._refused.add(protocol)
            return False
        if self._draining:
            self._late.add(protocol)
            return True
        self._protocols.add(protocol)
        self._all_closed.clear()
        self._sweeper.start()
        return True

    def remove(self, protocol: "GrpcProtocol") -> None:
        """A connection is gone."""
        self.went(protocol)
        self._refused.discard(protocol)
        self._late.discard(protocol)
        self._protocols.discard(protocol)
        if not self._protocols:
            self._all_closed.set()
            self._sweeper.stop()

    def sweep(self, now: float) -> None:
        """Look for what took too long; `now` is the loop's time."""
        each(lambda protocol: protocol.sweep(now), list(self._protocols))

    def _sweep_slowly(self) -> None:
        self._sweep_some(iter(list(self._protocols)))

    def _sweep_some(self, left: "Iterator[GrpcProtocol]") -> None:
        """Look at a few connections per pass through the event loop: ten thousand idle ones keep nobody waiting."""
        now = self.loop.time()
        some = list(islice(left, SWEEP_SLICE))
        each(lambda protocol: protocol.sweep(now), some)
        if some:
            self.loop.call_soon(self._sweep_some, left)


class GrpcProtocol(asyncio.BufferedProtocol):
    """One connection: bytes between the transport and the HTTP/2 core."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self._loop = server.loop
        self._turn = server.turn
        self._transport: asyncio.Transport | None = None
        self._flush_due = True
        self._linger: asyncio.TimerHandle | None = None
        self._connection: Connection
        self._age: ConnectionAge

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are."""
        # uvloop's transports have asyncio's methods without being of its class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._open(self._server.refusal(transport))
        if not self._server.add(self):
            self._connection.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, "too many connections (--max-connections)"))
        self._flush()
        if self._server.refused > MAX_REFUSED:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are read to."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read: big reads as they are, since most of them is DATA, which is copied to its place."""
        data = self._server.buffer[:nbytes]
        self.data_received(data if nbytes > COPIED_BYTES else bytes(data))

    def data_received(self, data: Data) -> None:
        """The path of every call: one read, all its frames; what comes of them is written when the turn ends."""
        connection = self._connection
        with self._turn:
            connection.receive(data)
        if connection.going_away or connection.closed:
            self._server.went(self)
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The calls of a peer that is gone are cancelled."""
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
        if not self._connection.closed:
            self._connection.close()
        self._server.remove(self)

    def pause_writing(self) -> None:
        """A peer that does not read is not read from."""
        self._connection.sender.paused = True
        if self._transport is not None and not self._connection.closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._connection.sender.paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._flush()

    def _open(self, refusal: str | None) -> None:
        """Set up the core. Who is refused hears it from every call; a GOAWAY would make clients dial again at once."""
        server = self._server
        cache, limits = server.cache, server.limits
        if refusal is not None:
            cache = HeadCache(RefusingHeadReader(refusal, limits), limits)
            limits = replace(limits, idle_timeout=REFUSED_IDLE)
        calls = GrpcCalls(server.dispatcher, limits, server.bodies, server.arriving, server.oversize)
        self._connection = Connection(calls, cache, limits, self._wake, self._loop.time, self._delay)
        calls.sender = self._connection.sender
        self._age = ConnectionAge(self._connection, limits, calls.expire, self._loop.time())

    # Called by the server

    def drain(self) -> None:
        """Ask the peer to go."""
        self._connection.drain()
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now: float) -> None:
        """Look for what took too long."""
        if self._transport is None:
            return
        reads = self._age.sweep(now, self._transport.get_write_buffer_size())
        if not reads:
            self._server.notices.log(logging.WARNING, "stuck", "a connection is closed: its peer does not read")
            self.abort()
            return
        self._flush()

    # Output

    def _delay(self, acknowledge: Callable[[], None]) -> None:
        """Acknowledge PINGs a little later."""
        self._loop.call_later(PING_DELAY, acknowledge)

    def _wake(self) -> None:
        """There is output: write it once this turn has made all of it."""
        if not self._flush_due:
            self._flush_due = True
            self._turn.at_end(self._flush)

    def _flush(self) -> None:
        connection = self._connection
        transport = self._transport
        if transport is None:
            return
        self._flush_due = True
        while out := connection.take_output():
            # One system call either way; to join much costs more than the kernel's walk over the pieces.
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
        """All is said: wait for the peer to close, but not long."""
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
