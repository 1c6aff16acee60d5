"""A server's end of one HTTP/2 connection (RFC 9113): what it receives, and what becomes of its streams.

Bytes become frames in `reader.py`, header blocks request heads in `headers.py`, answers frames in `sender.py`.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

from broker.http2.errors import ErrorCode, Http2Error, MalformedError, PeerError, StreamError
from broker.http2.flow import ReceiveWindow
from broker.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GOAWAY_MIN_SIZE,
    PADDED,
    PING_SIZE,
    PRIORITY,
    PRIORITY_SIZE,
    STREAM_ID_MASK,
    U32,
    Data,
    FrameType,
    pack_frame,
    pack_goaway,
    pack_reset,
    pack_window_update,
)
from broker.http2.headers import HeadCache, HeaderDecoder, RequestHead
from broker.http2.limits import Budget, Limits
from broker.http2.payloads import HeaderBlock, check_dependency, unpad, unwrap_headers
from broker.http2.reader import FrameReader, Handler
from broker.http2.sender import Sender
from broker.http2.settings import FORBID_TABLE, Setting, pack_our_settings, parse_settings
from broker.http2.stream import Application, Stream

_DRAIN_PING: Final = b"tykdrain"
"""Its acknowledgement says that the peer has read the GOAWAY before it."""
_FORBIDS_TABLE: Final = 2
"""The second of our SETTINGS says that header blocks may use no table; the first is the handshake's."""
_SETTINGS_COST: Final = 10
"""Tokens: a change of the initial window touches every stream."""
_MAX_REMEMBERED_RESETS: Final = 2_048
"""Streams that we reset, on which frames may still be under way."""


class Connection(FrameReader):
    """One connection: feed `receive`; write what `take_output` gives after that, and whenever `wake` was called."""

    def __init__(
        self,
        application: Application,
        cache: HeadCache,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__()
        self._application = application
        self._limits = limits
        self._max_output = max(limits.max_output, limits.max_message)
        self._max_streams = limits.max_concurrent_streams
        self._stream_window = limits.stream_window
        self.sender = Sender(wake, self._sent)
        self._headers = HeaderDecoder(cache, limits, self._forbid_table)
        self._window = ReceiveWindow(limits.connection_window)
        self._control = Budget(limits.control_burst, limits.control_rate, limits.control_per_answer, clock)
        self._resets = Budget(limits.reset_burst, limits.reset_rate, 1, clock)
        self._block: HeaderBlock | None = None
        self._reset_by_us: dict[int, None] = {}
        self.streams: dict[int, Stream] = {}
        """Open streams by id."""
        self.last_stream_id = 0
        self._settings_sent = 1
        self._settings_acknowledged = 0
        self.draining = False
        """We have asked the peer to go."""
        self.going_away = False
        """No new streams: we are drained, or the peer said that it goes."""
        self.fault: Http2Error | None = None
        """Why the connection ended, if it ended badly."""
        self.closed = False
        self.sender.write(pack_our_settings(limits))

    def _frame_handlers(self) -> dict[int, Handler]:
        return {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_rst_stream,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_misplaced,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_misplaced,
        }

    # What the owner calls

    def receive(self, data: Data) -> None:
        """Act on what the peer sent. A fault becomes a GOAWAY in the output, and `closed`."""
        if self.closed:
            return
        try:
            self._feed(data)
        except PeerError as fault:
            self.fail(fault)

    def take_output(self) -> list[bytes | memoryview]:
        """All frames to write now; call again after that, until it is empty."""
        sender = self.sender
        if sender.waiting:
            sender.pump()
            if sender.held > self._max_output and not self.closed:
                message = f"{sender.held} bytes wait for a peer that does not read"
                self.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, message))
        return sender.take()

    def fail(self, fault: Http2Error) -> None:
        """End the connection with a GOAWAY that says why."""
        if self.closed:
            return
        self.fault = fault
        self.sender.write(pack_goaway(self.last_stream_id, fault.code, fault.message))
        self.close()

    def close(self) -> None:
        """Forget everything: the peer is gone, or nothing more is to be said to it."""
        self.closed = True
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self.sender.forget(stream)
            self._application.cancelled(stream)
        # What refers to us is let go of: else memory comes back when the garbage collector runs, and that is never
        # where nothing happens any more.
        self._stop_reading()
        self._headers.close()
        self.sender.let_go()

    def drain(self) -> None:
        """Ask the peer to go: calls that are under way, or on their way, are still answered (section 6.8)."""
        if self.closed or self.draining or self.going_away:
            return
        self.draining = True
        self.sender.write(pack_goaway(STREAM_ID_MASK, ErrorCode.NO_ERROR, "draining"))
        self.sender.write(pack_frame(FrameType.PING, 0, 0, _DRAIN_PING))

    def finish_drain(self) -> None:
        """The peer has had time to hear of it: refuse what comes from now on."""
        if self.closed or self.going_away:
            return
        self.going_away = True
        self.sender.write(pack_goaway(self.last_stream_id, ErrorCode.NO_ERROR, "draining"))

    @property
    def done(self) -> bool:
        """Going away, and nothing is left to do."""
        return self.closed or (self.going_away and not self.streams)

    @property
    def settings_awaited(self) -> int:
        """Which of our SETTINGS, counted from 1, the peer is to acknowledge next; 0: none."""
        return self._settings_acknowledged + 1 if self._settings_acknowledged < self._settings_sent else 0

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give up one stream; the application has said what it had to say, or nothing."""
        if self.streams.pop(stream.id, None) is None:
            return
        self.sender.forget(stream)
        self._remember_reset(stream.id)
        self.sender.write(pack_reset(stream.id, code))

    # Requests

    def _on_headers(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if flags & (PADDED | PRIORITY):
            at, end = unwrap_headers(flags, stream_id, data, at, end)
        block = bytes(data[at:end])
        if flags & END_HEADERS:
            self._on_block(flags, stream_id, block)
            return
        self._block = HeaderBlock(stream_id, flags, self._limits)
        self._block.add(block)
        self._expect_continuation(self._on_continuation)

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        if stream_id <= self.last_stream_id or not stream_id & 1:
            self._on_late_block(flags, stream_id, block)
            return
        self.last_stream_id = stream_id
        try:
            head = self._headers.request(block)
        except MalformedError as error:
            self._fail_stream(StreamError(stream_id, error.code, error.message))
            return
        if len(self.streams) >= self._max_streams or self.going_away:
            self._fail_stream(StreamError(stream_id, ErrorCode.REFUSED_STREAM, "no more streams"))
            return
        stream = Stream(stream_id, head, self._stream_window, self.sender.initial_window)
        self.streams[stream_id] = stream
        if flags & END_STREAM or head.answer_at_once:
            self._open(stream, head, flags & END_STREAM)

    def _open(self, stream: Stream, head: RequestHead, ended: int) -> None:
        stream.request_ended = bool(ended)
        if head.answer_at_once:
            self._application.opened(stream)
        if ended and stream.id in self.streams:
            self._end_request(stream, b"", 0, 0)

    def _on_late_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """Trailers, or headers where none may be."""
        if not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        stream = self.streams.get(stream_id)
        if stream is None and stream_id in self._reset_by_us:
            self._headers.skip(block)
        elif stream is None:
            raise PeerError(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")
        elif stream.request_ended:
            self._headers.skip(block)
            self._fail_stream(StreamError(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM"))
        else:
            self._on_trailers(flags, stream, block)

    def _on_trailers(self, flags: int, stream: Stream, block: bytes) -> None:
        try:
            self._headers.trailers(block)
            if not flags & END_STREAM:
                raise MalformedError("trailers without END_STREAM")
        except MalformedError as error:
            self._fail_stream(StreamError(stream.id, error.code, error.message))
            return
        self._end_request(stream, b"", 0, 0)

    def _on_data(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        size = end - at
        window = self._window
        window.left -= size
        if window.left < window.low:
            self.sender.write(pack_window_update(0, window.renew()))
        stream = self.streams.get(stream_id)
        if stream is None or stream.request_ended:
            self._on_late_data(stream, stream_id)
            return
        stream.receive_window -= size
        if flags & PADDED:
            at, end = unpad(data, at, end)
        if stream.receive_window < 0:
            message = "more DATA than the stream's window"
            self._fail_stream(StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR, message))
        elif flags & END_STREAM:
            self._end_request(stream, data, at, end)
        else:
            self._continue_request(stream, data, at, end)

    def _continue_request(self, stream: Stream, data: Data, at: int, end: int) -> None:
        if at == end:
            self._spend()
        stream.received += end - at
        self._application.data(stream, data, at, end, False)
        used = self._stream_window - stream.receive_window
        if used > self._stream_window // 2 and stream.id in self.streams:
            stream.receive_window += used
            self.sender.write(pack_window_update(stream.id, used))

    def _end_request(self, stream: Stream, data: Data, at: int, end: int) -> None:
        stream.request_ended = True
        expected = stream.head.content_length
        if expected is not None and expected != stream.received + end - at:
            message = f"content-length is {expected}, the body has {stream.received + end - at} bytes"
            self._fail_stream(StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, message))
            return
        self._application.data(stream, data, at, end, True)

    def _on_late_data(self, stream: Stream | None, stream_id: int) -> None:
        """DATA where none may be, or on a stream that we have reset and the peer does not know it yet."""
        if stream_id > self.last_stream_id or not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is not open")
        if stream is None and stream_id in self._reset_by_us:
            self._spend()
            return
        self._fail_stream(StreamError(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the stream was closed"))

    def _on_continuation(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        block = self._block
        if block is None or stream_id != block.stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"CONTINUATION of another stream, {stream_id}")
        block.add(bytes(data[at:end]))
        if flags & END_HEADERS:
            self._block = None
            self._expect_any()
            self._on_block(block.flags, stream_id, block.join())

    # Everything else

    def _on_priority(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if not stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if end - at != PRIORITY_SIZE:
            self._fail_stream(StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes"))
            return
        check_dependency(stream_id, data, at)

    def _on_rst_stream(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if end - at != U32.size:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._check_not_idle(stream_id, "RST_STREAM")
        self._spend_reset()
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self.sender.forget(stream)
            self._application.cancelled(stream)

    def _on_settings(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend(_SETTINGS_COST)
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        if not flags & ACK:
            self._apply_settings(bytes(data[at:end]))
        elif end != at:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
        elif self.settings_awaited:
            self._settings_acknowledged += 1
            if self._settings_acknowledged == _FORBIDS_TABLE:
                self._headers.table_forbidden()

    def _forbid_table(self) -> None:
        self._settings_sent = _FORBIDS_TABLE
        self.sender.write(FORBID_TABLE)

    def _apply_settings(self, payload: bytes) -> None:
        for setting, value in parse_settings(payload):
            if setting == Setting.INITIAL_WINDOW_SIZE:
                self.sender.resize_streams(value, list(self.streams.values()))
            elif setting == Setting.MAX_FRAME_SIZE:
                self.sender.max_frame = value
        # Before what the new values allow: DATA that overtook the acknowledgement would break the old ones.
        self.sender.write(pack_frame(FrameType.SETTINGS, ACK, 0))
        self.sender.pump()

    def _on_first_settings(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if flags & ACK:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS acknowledged before any were sent")
        self._expect_any()
        self._on_settings(flags, stream_id, data, at, end)

    def _on_misplaced(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client, or CONTINUATION without HEADERS")

    def _on_ping(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if end - at != PING_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        if not flags & ACK:
            self.sender.write(pack_frame(FrameType.PING, ACK, 0, bytes(data[at:end])))
        elif data[at:end] == _DRAIN_PING:
            self.finish_drain()

    def _on_goaway(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        if end - at < GOAWAY_MIN_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._spend()
        self.finish_drain()

    def _on_window_update(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if end - at != U32.size:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment = U32.unpack_from(data, at)[0] & STREAM_ID_MASK
        if not stream_id:
            if not increment:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self.sender.widen(increment)
            return
        self._check_not_idle(stream_id, "WINDOW_UPDATE")
        try:
            self._widen_stream(stream_id, increment)
        except StreamError as fault:
            self._fail_stream(fault)

    def _widen_stream(self, stream_id: int, increment: int) -> None:
        if not increment:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.sender.widen_stream(stream, increment)

    def _on_unknown(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()

    # The ends of streams

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id > self.last_stream_id or not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is not open")

    def _sent(self, stream: Stream) -> None:
        """An answer is complete."""
        self.streams.pop(stream.id, None)
        if not stream.request_ended:
            # The rest of the request is of no interest; NO_ERROR says that the answer stands (section 8.1).
            self._remember_reset(stream.id)
            self.sender.write(pack_reset(stream.id, ErrorCode.NO_ERROR))

    def _fail_stream(self, fault: StreamError) -> None:
        """Reset a stream because of what the peer did; it may not make us do that without end."""
        self._spend_reset()
        stream = self.streams.pop(fault.stream_id, None)
        if stream is not None:
            self.sender.forget(stream)
            self._application.cancelled(stream)
        self._remember_reset(fault.stream_id)
        self.sender.write(pack_reset(fault.stream_id, fault.code))

    def _remember_reset(self, stream_id: int) -> None:
        self._reset_by_us[stream_id] = None
        if len(self._reset_by_us) > _MAX_REMEMBERED_RESETS:
            del self._reset_by_us[next(iter(self._reset_by_us))]

    def _spend(self, cost: int = 1) -> None:
        if not self._control.spend(self.sender.answers, cost):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of control frames")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self.sender.answers):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of streams that are reset")
