"""MessagePack-RPC server: a thin asyncio protocol around `wire`, and a table of methods.

The public listener and the admin socket are two instances with two tables. Whatever a peer sends or fails to read
costs its own connection only: messages, calls in flight, output waiting for it and its slowness are all limited.

A message that cannot be understood is answered by an error (with id nil where its id could not be read); calls
already in flight on the connection are still answered, then it is closed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from tykpy.broker.arriving import Arriving, Share
from tykpy.broker.end_of_turn import Turn
from tykpy.broker.errors import DispatchError, WireError
from tykpy.broker.msgpackrpc.limits import RpcLimits
from tykpy.broker.msgpackrpc.sweep import MessageAge, Sweeper
from tykpy.broker.msgpackrpc.wire import (
    Message,
    RpcMessageReader,
    RpcTooLargeError,
    pack_error,
    pack_result,
    pack_value,
    peek_call,
    unpack_params,
)
from tykpy.broker.net.access import Admission
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.ipc.frame import Status
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.msgpackrpc")

MAX_REFUSED: Final = 64
"""Peers beyond the limit that get time to read why they are refused; further ones are cut off at once."""
FLUSH_SIZE: Final = 256 * 1024
"""Bytes of answers that are written without waiting for the end of the turn."""


class Owner(Protocol):
    """Who will answer a call, and wants to know when nobody waits for that any more."""

    def hang_up(self) -> None:
        """The caller has gone; an answer given from now on goes nowhere."""


class Reply:
    """The answer to one call: given once by `answer`, `answer_packed` or `fail`, at once or later.

    For a notification it goes nowhere; after the caller has hung up, too.
    """

    __slots__ = ("_connection", "_id", "owner", "size")

    def __init__(self, connection: "_Connection", call_id: bytes, size: int) -> None:
        self._connection: _Connection | None = connection
        self._id = call_id
        self.size = size
        """Bytes of the call's params."""
        self.owner: Owner | None = None
        """Is told when the caller hangs up before the answer."""

    def answer(self, result: object) -> None:
        """Answer with any value that MessagePack can carry."""
        try:
            packed = pack_value(result)
        except (TypeError, ValueError, OverflowError) as error:
            self.fail(Status.INTERNAL, f"the result cannot be sent: {error}")
        else:
            self.answer_packed(packed)

    def answer_packed(self, packed: bytes) -> None:
        """Answer with one value that is encoded already; the caller vouches for that."""
        self._settle(pack_result(self._id, packed) if self._id else b"")

    def fail(self, status: Status, message: str) -> None:
        """Answer with an error."""
        if not self._id:
            log.debug("a notification failed: %s: %s", status.name, message)
        self._settle(pack_error(self._id, status, message) if self._id else b"")

    def hang_up(self) -> None:
        """Tell the owner that nobody waits for the answer."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.hang_up()

    def _settle(self, data: bytes) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            raise RuntimeError("this call has been answered before")
        self.owner = None
        connection.settle(self, data)


Handler = Callable[[list[Any], Reply], None]
"""Takes the decoded params and answers; what is wrong with the call it may also say by raising DispatchError."""


@dataclass(frozen=True, slots=True)
class RawMethod:
    """A method that takes its params as they came, undecoded."""

    handler: Callable[[Message, Reply], None]


Methods = Mapping[str, Handler | RawMethod]


class MsgpackRpcServer:
    """One listener's connections and the methods that they may call."""

    def __init__(
        self,
        methods: Methods,
        limits: RpcLimits | None = None,
        admission: Admission | None = None,
        turn: Turn | None = None,
        arriving: Arriving | None = None,
        oversize: SizeRefusals | None = None,
    ) -> None:
        """`admission`: who may connect; None: everybody who can. `turn`: shared with the dispatcher. `arriving`,
        `oversize`: shared with the other front end."""
        self.turn = turn
        self.arriving = arriving or Arriving()
        self.admission = admission
        self.limits = limits or RpcLimits()
        self.oversize = oversize or SizeRefusals(self.limits.max_message)
        self.connections: set[_Connection] = set()
        self.draining = False
        self._methods = {name.encode(): _raw(method) for name, method in methods.items()}
        self._names = ", ".join(sorted(methods))
        self.sweeper = Sweeper()
        self.notices = QuietLog(log)
        self._closed = asyncio.Event()
        self._closed.set()

    def protocol_factory(self) -> asyncio.Protocol:
        """A protocol for a new connection, as `loop.create_unix_server` wants it."""
        return _Connection(self)

    def drain(self) -> None:
        """From now on calls are answered UNAVAILABLE; a connection is closed when its last call is answered."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.end_if_idle()

    def abort(self) -> None:
        """Close every connection at once; owners of unanswered calls are told."""
        for connection in tuple(self.connections):
            connection.abort()

    async def closed(self) -> None:
        """Return when no connection is open."""
        await self._closed.wait()

    def add(self, connection: "_Connection") -> None:
        """A connection was opened."""
        self.connections.add(connection)
        self._closed.clear()

    def discard(self, connection: "_Connection") -> None:
        """A connection was closed."""
        self.connections.discard(connection)
        self.sweeper.forget(connection)
        if not self.connections:
            self._closed.set()
            self.sweeper.stop()

    def call(self, message: Message, reply: Reply) -> None:
        """Run one call."""
        handler = self._methods.get(message.method)
        if handler is None:
            name = message.method[:100].decode("utf-8", "replace")
            reply.fail(Status.UNIMPLEMENTED, f"no method {name!r}; there are: {self._names}")
        elif self.draining:
            reply.fail(Status.UNAVAILABLE, "the broker is shutting down")
        else:
            try:
                handler(message, reply)
            except DispatchError as error:
                reply.fail(error.status, error.message)


def _raw(method: Handler | RawMethod) -> Callable[[Message, Reply], None]:
    if isinstance(method, RawMethod):
        return method.handler

    def handler(message: Message, reply: Reply) -> None:
        try:
            params = unpack_params(message)
        except ValueError as error:
            raise DispatchError(Status.INVALID, f"the params cannot be decoded: {error}") from error
        method(params, reply)

    return handler


class _Connection(asyncio.Protocol):
    """One peer. Reading stops while too much is in flight or too much output waits for it."""

    def __init__(self, server: MsgpackRpcServer) -> None:
        self._server = server
        self._limits = server.limits
        self._reader = RpcMessageReader(server.limits.max_message)
        self._in_flight: set[Reply] = set()
        self._in_flight_bytes = 0
        self._share = Share(server.arriving)
        """What is counted of `_reader`."""
        self._age = MessageAge()
        self._out: list[bytes] = []
        self._out_size = 0
        self._held = False
        """Nothing is read: too much in flight, or `_choked`."""
        self._choked = False
        """Too much output waits for the peer."""
        self._refused = False
        """The peer broke the protocol: what it still sends is read and thrown away."""
        self._lost = False
        """The peer is gone."""
        self._timer: asyncio.TimerHandle | None = None

    # -- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass
        self._loop = asyncio.get_running_loop()
        self._turn = self._server.turn or Turn(self._loop)
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer)
        self._server.add(self)
        admission = self._server.admission
        refusal = admission(transport) if admission is not None else None
        if refusal is not None:
            self._send_away(WireError(Status.DENIED, refusal))
        elif len(self._server.connections) > self._limits.max_connections:
            self._refuse(WireError(Status.OVERLOADED, f"{self._limits.max_connections} connections are open already"))
            if len(self._server.connections) > self._limits.max_connections + MAX_REFUSED:
                self.abort()

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            with self._turn:
                self._reader.feed(data)
                self._read_calls()
                self._note_pending(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._share.release()
        self._server.discard(self)
        self._stop_timer()
        in_flight, self._in_flight = self._in_flight, set()
        for reply in in_flight:
            reply.hang_up()

    def pause_writing(self) -> None:
        self._choked = True
        if self._timer is None:
            self._watch_output(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._choked = False
        if not self._refused:
            self._stop_timer()
        self._read_on_if_roomy()

    # -- calls -----------------------------------------------------------------------------------------------------

    def settle(self, reply: Reply, data: bytes) -> None:
        """One call is over; `data` is its answer on the wire, empty for a notification."""
        try:
            self._in_flight.remove(reply)
        except KeyError:
            return  # the peer has gone
        self._in_flight_bytes -= reply.size
        if data:
            self._write(data)
        if self._held:
            self._read_on_if_roomy()
        if not self._in_flight and (self._refused or self._server.draining):
            self.end_if_idle()

    def _read_calls(self) -> None:
        limits, next_message, in_flight = self._limits, self._reader.next, self._in_flight
        while not (self._held or self._refused or self._transport.is_closing()):
            if (
                self._choked
                or len(in_flight) >= limits.max_in_flight
                or self._in_flight_bytes >= limits.max_in_flight_bytes
            ):
                self._held = True
                self._transport.pause_reading()
                return
            try:
                message = next_message()
            except RpcTooLargeError as error:
                text = self._server.oversize.refuse_request(*peek_call(error.head), error.message)
                self._send_away(WireError(error.status, text, error.id))
                return
            except WireError as error:
                self._refuse(error)
                return
            if message is None:
                return
            reply = Reply(self, message.id, len(message.params))
            in_flight.add(reply)
            self._in_flight_bytes += reply.size
            self._server.call(message, reply)

    def _read_on(self) -> None:
        self._read_calls()
        self._note_pending()

    def _note_pending(self, fed: int = 0) -> None:
        pending, before = self._reader.pending, self._share.bytes
        if self._lost or not (pending or before):
            return
        self._share.resize(pending)
        if pending != before + fed:
            self._age.begin()
        if pending:
            self._server.sweeper.watch(self)
        else:
            self._server.sweeper.forget(self)
        if not self._server.arriving.admits(self._share):
            self._refuse(WireError(Status.OVERLOADED, self._server.arriving.full, self._reader.unfinished_id))

    def sweep(self) -> None:
        """Give up a message of which too little comes; while we do not read, that is not the peer's fault."""
        limits = self._limits
        if self._held or self._refused:
            return
        if self._age.is_too_old(self._share.bytes, limits.request_seconds, limits.request_progress):
            text = "the rest of the message did not come in time"
            self._refuse(WireError(Status.EXPIRED, text, self._reader.unfinished_id))

    def _read_on_if_roomy(self) -> None:
        # Half of the limits, not one below: pausing and resuming cost a system call each.
        limits = self._limits
        if (
            self._held
            and not self._choked
            and len(self._in_flight) <= limits.max_in_flight // 2
            and self._in_flight_bytes <= limits.max_in_flight_bytes // 2
            and not self._transport.is_closing()
        ):
            self._held = False
            self._transport.resume_reading()
            self._loop.call_soon(self._read_on)

    # -- output ----------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        # One write for all that is answered in one turn.
        if not self._out:
            self._turn.at_end(self._flush)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size >= FLUSH_SIZE:
            self._flush()

    def _flush(self) -> None:
        out, self._out, self._out_size = self._out, [], 0
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _watch_output(self, before: int) -> None:
        self._timer = self._loop.call_later(self._limits.stall_seconds, self._check_output, before)

    def _check_output(self, before: int) -> None:
        waiting = self._transport.get_write_buffer_size()
        if waiting >= before:
            text = f"a peer has read nothing of {waiting} bytes for {self._limits.stall_seconds:g}s: cut off"
            self._server.notices.log(logging.WARNING, "stuck", text)
            self.abort()
        else:
            self._watch_output(waiting)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the end ---------------------------------------------------------------------------------------------------

    def _refuse(self, error: WireError) -> None:
        notices = self._server.notices
        notices.log(logging.WARNING, error.status.name, f"a peer's connection ends: {error.message}")
        self._send_away(error)

    def _send_away(self, error: WireError) -> None:
        self._refused = True
        self._reader = RpcMessageReader(self._limits.max_message)
        self._note_pending()
        self._write(pack_error(error.id, error.status, error.message))
        self.end_if_idle()

    def end_if_idle(self) -> None:
        """Close once nothing is in flight; a refused peer gets time to finish sending, else it misses the error."""
        if self._in_flight or self._transport.is_closing():
            return
        self._flush()
        if not self._refused or self._server.draining:
            self._transport.close()
            return
        if self._transport.can_write_eof():  # TLS has no half-closed connections
            self._transport.write_eof()
        self._stop_timer()
        self._timer = self._loop.call_later(self._limits.linger_seconds, self.abort)

    def abort(self) -> None:
        """Close at once; output that waits is lost."""
        self._transport.abort()
