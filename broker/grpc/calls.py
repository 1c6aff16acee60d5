"""The gRPC calls of one connection: requests become dispatches, and their outcomes become gRPC answers."""

from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, NamedTuple, cast

from tykpy.broker.arriving import Arriving, Share
from tykpy.broker.codes import CODE_OF_STATUS, GrpcCode
from tykpy.broker.errors import DispatchError
from tykpy.broker.grpc.head import GrpcHead
from tykpy.broker.grpc.local_call import LocalCall
from tykpy.broker.grpc.messages import GrpcMessageReader
from tykpy.broker.grpc.wire import (
    MESSAGE_PREFIX,
    MESSAGE_PREFIX_SIZE,
    GrpcCallError,
    GrpcTooLargeError,
    pack_fields,
    pack_trailers_only,
)
from tykpy.broker.http2.frames import Data
from tykpy.broker.http2.limits import KIB, Limits
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Stream
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.dispatch import Dispatch, Dispatcher
from tykpy.broker.router.peek import peek_name
from tykpy.ipc.bodies.store import Body, BodyStore, body_bytes

MAX_LOCAL_MESSAGE: Final = 4 * KIB
"""Largest message to the broker itself, in bytes: a name. A peer can have a thousand of them on each connection."""
_unpack_prefix: Final = MESSAGE_PREFIX.unpack_from


class GrpcDispatch(Dispatch):
    """A dispatch that came as a gRPC call."""

    protocol = "grpc"

    __slots__ = ("_sender", "_stream")

    def __init__(self, kind: int, body: Body, timeout_ns: int | None, sender: Sender, stream: Stream) -> None:
        super().__init__(kind, body, timeout_ns, stream.metadata)
        self._sender = sender
        self._stream = stream

    def answer(self, kind: int, body: Any) -> None:
        """Send the answer."""
        stream = self._stream
        stream.application = None
        stream.head.template.send(self._sender, stream, body)
        if stream.pending:
            stream.application = WaitingAnswer(self.kind, self.name, len(body))

    def fail(self, error: DispatchError) -> None:
        """Send the error as a response of trailers only."""
        self._stream.application = None
        block = pack_trailers_only(CODE_OF_STATUS[error.status], error.message)
        self._sender.headers(self._stream, block, end_stream=True)


class WaitingAnswer(NamedTuple):
    """An answer that its peer has not read to the end yet."""

    kind: int
    hook: str
    size: int


class Upload:
    """Collects the messages of a request that comes in pieces, or is served by the broker itself."""

    __slots__ = ("body", "local", "reader", "share", "started_ns")

    def __init__(self, reader: GrpcMessageReader, local: LocalCall | None, share: Share) -> None:
        self.reader = reader
        self.local = local
        self.share = share
        """Counts the request's bytes until it is complete or abandoned."""
        self.body: Body | None = None
        """The message, once it is complete, although the request may not be."""
        self.started_ns = monotonic_ns()

    @property
    def held(self) -> int:
        """Bytes held for the request."""
        return self.reader.buffered + (0 if self.body is None else len(self.body))

    def end(self) -> None:
        """Release what the request holds."""
        self.share.release()
        if self.local is not None:
            self.local.release()


class GrpcCalls:
    """The application of one HTTP/2 connection."""

    __slots__ = (
        "_arriving",
        "_bodies",
        "_dispatch",
        "_dispatcher",
        "_max_message",
        "_oversize",
        "sender",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        limits: Limits,
        bodies: BodyStore | None = None,
        arriving: Arriving | None = None,
        oversize: SizeRefusals | None = None,
    ) -> None:
        """`bodies`: where large requests are collected; None: on the heap. `arriving` counts the unfinished requests of
        all connections, `oversize` those that are refused for their size."""
        self._dispatcher = dispatcher
        self._arriving = arriving or Arriving()
        self._bodies = bodies
        self._dispatch: Callable[[Dispatch], None] = dispatcher.dispatch
        self._max_message = limits.max_message
        self._oversize = oversize or SizeRefusals(limits.max_message)
        self.sender = cast(Sender, None)
        """Set once the connection exists."""

    def data(self, stream: Stream, data: Data, at: int, end: int, ended: bool) -> None:
        """Take more of a request: nearly always all of it, which is dispatched as it is."""
        head: GrpcHead = stream.head
        upload = stream.application
        if upload is not None:
            if not ended and upload.reader.feed_within(data, at, end):
                return
        elif ended and head.plain_kind:
            size = end - at - MESSAGE_PREFIX_SIZE
            if 0 <= size <= self._max_message and _unpack_prefix(data, at) == (0, size):
                body = bytes(data[at + MESSAGE_PREFIX_SIZE : end])
                if head.timeout_ns is None:
                    call = GrpcDispatch(head.plain_kind, body, None, self.sender, stream)
                    stream.application = call
                    self._dispatch(call)
                else:
                    self._start(stream, body, head.timeout_ns)
                return
        self._collect(stream, data, at, end, ended)

    def opened(self, stream: Stream) -> None:
        """Refuse a call, or begin to serve it here."""
        head: GrpcHead = stream.head
        if head.error is not None:
            self._fail(stream, head.error)
        elif head.method.serve is not None:
            local = head.method.serve(self.sender, stream)
            reader = GrpcMessageReader(head.encoding, min(self._max_message, MAX_LOCAL_MESSAGE))
            stream.application = Upload(reader, local, Share(self._arriving))

    def cancelled(self, stream: Stream) -> None:
        """Cancel a call whose stream has ended."""
        call, stream.application = stream.application, None
        if isinstance(call, Upload):
            call.end()
            if call.local is not None:
                call.local.ended = True
        elif isinstance(call, GrpcDispatch):
            self._dispatcher.cancel(call)

    def abandoned(self, stream: Stream) -> None:
        """Note that the caller stopped reading an answer."""
        if isinstance(stream.application, WaitingAnswer):
            self._oversize.note_abandoned(*stream.application)

    def expire(self, stream: Stream) -> None:
        """Fail a request whose rest comes too slowly or not at all."""
        if stream.closing is None:
            self._fail(
                stream, GrpcCallError(GrpcCode.DEADLINE_EXCEEDED, "the rest of the request did not come in time")
            )

    def _start(self, stream: Stream, body: Body, timeout_ns: int | None) -> None:
        if timeout_ns is not None and timeout_ns <= 0:
            self._fail(stream, GrpcCallError(GrpcCode.DEADLINE_EXCEEDED, "the deadline passed before the call started"))
            return
        call = GrpcDispatch(stream.head.plain_kind or stream.head.method.kind, body, timeout_ns, self.sender, stream)
        stream.application = call
        self._dispatch(call)

    # Requests in pieces

    def _collect(self, stream: Stream, data: Data, at: int, end: int, ended: bool) -> None:
        head: GrpcHead = stream.head
        if stream.closing is not None:
            return  # already answered; the peer has not read all of the answer yet
        if head.refusal is not None:
            if ended:
                self._refuse(stream)
            return
        upload = stream.application
        if upload is None:
            reader = GrpcMessageReader(head.encoding, self._max_message, self._bodies)
            upload = stream.application = Upload(reader, None, Share(self._arriving))
        try:
            self._feed(stream, upload, data, at, end)
            if ended:
                self._finish(stream, upload)
        except GrpcTooLargeError as error:
            self._fail(stream, self._too_large(stream, upload, error))
        except GrpcCallError as error:
            self._fail(stream, error)

    def _too_large(self, stream: Stream, upload: Upload, error: GrpcTooLargeError) -> GrpcCallError:
        if upload.local is not None:
            return GrpcCallError(error.code, f"{error.message}, and may have {MAX_LOCAL_MESSAGE}")
        text = self._oversize.refuse_request(stream.head.method.kind, peek_name(error.head), error.message)
        return GrpcCallError(error.code, text)

    def _feed(self, stream: Stream, upload: Upload, data: Data, at: int, end: int) -> None:
        try:
            for message in upload.reader.feed(data, at, end):
                if upload.local is not None and upload.local.takes_many:
                    if stream.progress is not None:  # a request of many messages may last: each has its own timeout
                        stream.progress.restart(stream.received)
                    upload.local.message(body_bytes(message))
                elif upload.body is None:
                    upload.body = message
                else:
                    raise GrpcCallError(GrpcCode.INTERNAL, "more than one message for a method that takes one")
        finally:
            upload.share.resize(upload.held if stream.application is upload else 0)
        if not self._arriving.admits(upload.share):
            raise GrpcCallError(GrpcCode.RESOURCE_EXHAUSTED, self._arriving.full)

    def _finish(self, stream: Stream, upload: Upload) -> None:
        local, body = upload.local, upload.body
        if upload.reader.within_message:
            raise GrpcCallError(GrpcCode.INTERNAL, "the request ends within a message")
        upload.share.release()
        upload.body = None
        if local is not None and local.takes_many:
            local.half_closed()
        elif body is None:
            raise GrpcCallError(GrpcCode.INTERNAL, "no message for a method that takes one")
        elif local is not None:
            local.message(body_bytes(body))
        else:
            timeout_ns = stream.head.timeout_ns
            if timeout_ns is not None:
                timeout_ns -= monotonic_ns() - upload.started_ns
            self._start(stream, body, timeout_ns)

    # Answers of our own

    def _fail(self, stream: Stream, error: GrpcCallError) -> None:
        upload, stream.application = stream.application, None
        if isinstance(upload, Upload):
            upload.end()
            if upload.local is not None:
                upload.local.finish(error.code, error.message)
                return
        self.sender.headers(stream, pack_trailers_only(error.code, error.message), end_stream=True)

    def _refuse(self, stream: Stream) -> None:
        refusal = stream.head.refusal
        assert refusal is not None
        self.sender.headers(stream, pack_fields((b":status", refusal.status), (b"content-type", b"text/plain")))
        self.sender.data(stream, refusal.text)
        self.sender.close(stream, b"")
