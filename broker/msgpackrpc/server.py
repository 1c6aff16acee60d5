"""The MessagePack-RPC front end: a thin asyncio protocol around `wire`, and a table of methods.

The public listener and the admin socket are two servers with two tables. Whatever a peer sends or fails to read costs
its own connection only: messages, calls in flight, waiting output and slowness are all limited.

A message that cannot be parsed is answered by an error (with a nil id if its id cannot be read). Calls in flight on the
connection are still answered, then it is closed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from tykpy.broker.arriving import Arriving, Share
from tykpy.broker.connections import MAX_REFUSED, Connections, RequestProgress, Unchanged
from tykpy.broker.end_of_turn import EndOfTurn
from tykpy.broker.errors import DispatchError, WireError
from tykpy.broker.msgpackrpc.wire import (
    Message,
    RpcMessageReader,
    RpcTooLargeError,
    pack_error,
    pack_result,
    pack_value,
    peek_call,
    unpack_values,
)
from tykpy.broker.net.access import Admission
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.ipc.frame import Status
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.records import counted

log = logging.getLogger("tykpy.msgpackrpc")

FLUSH_SIZE: Final = 256 * 1024
"""Bytes of answers that are written without waiting for the end of the turn."""


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """Limits of one server and each of its connections: sizes in bytes, times in seconds."""

    max_message: int = 16 * 1024 * 1024
    max_connections: int = 64
    max_in_flight: int = 1000
    """Calls of one connection without an answer; further ones are not read until some are answered."""
    max_in_flight_bytes: int = 64 * 1024 * 1024
    """Bytes of calls without an answer, with the same effect."""
    write_buffer: int = 1024 * 1024
    """Output waiting for the peer above which nothing more is read from it."""
    request_timeout: float = 60.0
    """Seconds for the rest of a message, or for `request_progress` of it if it is longer than that."""
    request_progress: int = 64 * 1024
    """Bytes of an unfinished message that restart its timeout (see `broker/http2/limits.py`)."""
    write_timeout: float = 30.0
    """Seconds for which a peer may read nothing of the output that waits for it."""
    linger: float = 2.0
    """Seconds for which the bytes of a refused peer are still read, so that it can finish sending and see the error."""


class Reply:
    """The answer to one call, given once by `answer`, `answer_packed` or `fail`, at once or later.

    For a notification, and after the caller has hung up, it is discarded.
    """

    __slots__ = ("_connection", "_id", "on_hang_up", "size")

    def __init__(self, connection: "_Connection", call_id: int | None, size: int) -> None:
        self._connection: _Connection | None = connection
        self._id = call_id
        self.size = size
        """Bytes of the call's params."""
        self.on_hang_up: Callable[[], None] | None = None
        """Called if the caller hangs up before the answer."""

    def answer(self, result: object) -> None:
        """Answer with any value that MessagePack can encode."""
        try:
            packed = pack_value(result)
        except (TypeError, ValueError, OverflowError) as error:
            self.fail(Status.INTERNAL, f"the result cannot be sent: {error}")
        else:
            self.answer_packed(packed)

    def answer_packed(self, packed: bytes) -> None:
        """Answer with one value that is encoded already; it is not checked."""
        self._complete(b"" if self._id is None else pack_result(self._id, packed))

    def fail(self, status: Status, message: str) -> None:
        """Answer with an error."""
        if self._id is None:
            log.debug("a notification failed: %s: %s", status.name, message)
        self._complete(b"" if self._id is None else pack_error(self._id, status, message))

    def _complete(self, data: bytes) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            raise RuntimeError("this call has been answered before")
        self.on_hang_up = None
        connection.complete(self, data)


RpcMethod = Callable[[list[bytes], Reply], None]
"""Takes a call with encoded params and answers it, or raises DispatchError."""


def decoded(function: Callable[[list[Any], Reply], None]) -> RpcMethod:
    """Make a method of a function that takes decoded params."""

    def method(params: list[bytes], reply: Reply) -> None:
        try:
            values = unpack_values(params)
        except ValueError as error:
            raise DispatchError(Status.INVALID, f"the params cannot be decoded: {error}") from error
        function(values, reply)

    return method


class MsgpackRpcServer:
    """All connections of one listener, and the methods that they may call."""

    def __init__(
        self,
        methods: Mapping[str, RpcMethod],
        limits: RpcLimits | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        admission: Admission | None = None,
        end_of_turn: EndOfTurn | None = None,
        arriving: Arriving | None = None,
        oversize: SizeRefusals | None = None,
    ) -> None:
        """`admission`: who may call; None: everybody. `end_of_turn` is shared with the dispatcher, `arriving` and
        `oversize` with the other front end."""
        self.loop = loop or asyncio.get_running_loop()
        self.end_of_turn = end_of_turn or EndOfTurn(self.loop)
        self.arriving = arriving or Arriving()
        self.admission = admission
        self.limits = limits or RpcLimits()
        self.oversize = oversize or SizeRefusals(self.limits.max_message)
        self.connections: Connections[_Connection] = Connections(self.loop, self.limits.max_connections)
        self.notices = QuietLog(log)
        self._methods = methods

    def protocol_factory(self) -> asyncio.Protocol:
        """Return a protocol for a new connection, for `loop.create_server`."""
        return _Connection(self)

    def drain(self) -> None:
        """Answer calls UNAVAILABLE from now on; a connection is closed when its last call is answered."""
        self.connections.draining = True
        for connection in tuple(self.connections.open):
            connection.end_if_idle()

    def call(self, message: Message, reply: Reply) -> None:
        """Run one call."""
        method = self._methods.get(message.method)
        if method is None:
            names = ", ".join(sorted(self._methods))
            reply.fail(Status.UNIMPLEMENTED, f"no method {message.method[:100]!r}; there are: {names}")
        elif self.connections.draining:
            reply.fail(Status.UNAVAILABLE, "the broker is shutting down")
        else:
            try:
                method(message.params, reply)
            except DispatchError as error:
                reply.fail(error.status, error.message)


class _Connection(asyncio.Protocol):
    """One connection. Reading pauses while too much is in flight or too much output waits for the peer."""

    def __init__(self, server: MsgpackRpcServer) -> None:
        self._server = server
        self._loop = server.loop
        self._end_of_turn = server.end_of_turn
        self._limits = server.limits
        self._reader = RpcMessageReader(server.limits.max_message)
        self._in_flight: set[Reply] = set()
        self._in_flight_bytes = 0
        self._share = Share(server.arriving)
        """Counts what `_reader` holds."""
        self._progress = RequestProgress()
        self._out: list[bytes] = []
        self._out_size = 0
        self._written = 0
        self._output = Unchanged(None, self._loop.time())
        self._paused = False
        """Nothing is read: too much is in flight, or `_choked`."""
        self._choked = False
        """Too much output waits for the peer."""
        self._refused = False
        """The peer broke the protocol: what it still sends is read and discarded."""
        self._lost = False
        """The peer is gone."""
        self._linger: asyncio.TimerHandle | None = None

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods without being subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer)
        connections, admission = self._server.connections, self._server.admission
        accepted = connections.add(self)
        refusal = admission(transport) if admission is not None else None
        if refusal is not None:
            self._send_away(WireError(Status.DENIED, refusal))
        elif not accepted:
            what = counted(self._limits.max_connections, "connection is", "connections are")
            self._refuse(WireError(Status.OVERLOADED, f"{what} open already"))
        if len(connections.refused) > MAX_REFUSED:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            with self._end_of_turn:
                self._reader.feed(data)
                self._read_calls()
                self._note_pending(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._share.release()
        self._server.connections.discard(self)
        if self._linger is not None:
            self._linger.cancel()
        in_flight, self._in_flight = self._in_flight, set()
        for reply in in_flight:
            on_hang_up, reply.on_hang_up = reply.on_hang_up, None
            if on_hang_up is not None:
                on_hang_up()

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._read_on_if_roomy()

    # Called by the server

    def sweep(self, now: float) -> None:
        """Give up a peer that reads nothing, and a message whose rest does not come in time."""
        limits, waiting = self._limits, self._transport.get_write_buffer_size()
        moved = self._written - waiting if self._choked else now
        if self._output.seconds(moved, now) > limits.write_timeout:
            text = f"a peer has read nothing of {waiting} bytes for {limits.write_timeout:g}s: cut off"
            self._server.notices.log(logging.WARNING, "stuck", text)
            self.abort()
        elif not self._share.bytes or self._paused or self._refused:
            return  # there is no message to wait for, or it is not the peer's fault that it is not read
        elif self._progress.is_too_slow(self._share.bytes, limits.request_timeout, limits.request_progress):
            text = "the rest of the message did not come in time"
            self._refuse(WireError(Status.EXPIRED, text, self._reader.unfinished_id))

    def end_if_idle(self) -> None:
        """Close once nothing is in flight; a refused peer first gets time to finish sending and see the error."""
        if self._in_flight or self._transport.is_closing():
            return
        self._flush()
        if not self._refused or self._server.connections.draining:
            self._transport.close()
            return
        if self._transport.can_write_eof():  # TLS has no half-closed connections
            self._transport.write_eof()
        if self._linger is None:
            self._linger = self._loop.call_later(self._limits.linger, self.abort)

    def abort(self) -> None:
        """Close at once; waiting output is lost."""
        self._transport.abort()

    # Calls

    def complete(self, reply: Reply, data: bytes) -> None:
        """End one call; `data` is its answer on the wire, empty for a notification."""
        try:
            self._in_flight.remove(reply)
        except KeyError:
            return  # the peer has gone
        self._in_flight_bytes -= reply.size
        if data:
            self._write(data)
        if self._paused:
            self._read_on_if_roomy()
        if not self._in_flight and (self._refused or self._server.connections.draining):
            self.end_if_idle()

    def _read_calls(self) -> None:
        limits, next_message, in_flight = self._limits, self._reader.next, self._in_flight
        while not (self._paused or self._refused or self._transport.is_closing()):
            if (
                self._choked
                or len(in_flight) >= limits.max_in_flight
                or self._in_flight_bytes >= limits.max_in_flight_bytes
            ):
                self._paused = True
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
            reply = Reply(self, message.id, sum(map(len, message.params)))
            in_flight.add(reply)
            self._in_flight_bytes += reply.size
            self._server.call(message, reply)

    def _read_on_if_roomy(self) -> None:
        # Half of the limits, not one below: pausing and resuming cost a system call each.
        limits = self._limits
        if (
            self._paused
            and not self._choked
            and len(self._in_flight) <= limits.max_in_flight // 2
            and self._in_flight_bytes <= limits.max_in_flight_bytes // 2
            and not self._transport.is_closing()
        ):
            self._paused = False
            self._transport.resume_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._read_calls()
        self._note_pending()

    def _note_pending(self, fed: int = 0) -> None:
        pending, before = self._reader.pending, self._share.bytes
        if self._lost or not (pending or before):
            return
        self._share.resize(pending)
        if pending != before + fed:  # it is another message
            self._progress.restart()
        if not self._server.arriving.admits(self._share):
            self._refuse(WireError(Status.OVERLOADED, self._server.arriving.full, self._reader.unfinished_id))

    # Output

    def _write(self, data: bytes) -> None:
        # One write for all answers of one turn.
        if not self._out:
            self._end_of_turn.at_end(self._flush)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size >= FLUSH_SIZE:
            self._flush()

    def _flush(self) -> None:
        self._written += self._out_size
        out, self._out, self._out_size = self._out, [], 0
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    # Refusals

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
