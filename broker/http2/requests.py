"""Frames to requests: what comes on a connection's streams, and how a stream ends (RFC 9113, sections 5.1 and 8.1)."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, MalformedError, PeerError, StreamError
from tykpy.broker.http2.flow import ReceiveWindow
from tykpy.broker.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY,
    U32,
    Data,
    pack_reset,
    pack_window_update,
)
from tykpy.broker.http2.hpack.head_cache import HeadCache, HeaderDecoder, RequestHead
from tykpy.broker.http2.limits import ANSWER_BYTES, Budget, Limits
from tykpy.broker.http2.payloads import HeaderBlock, unpad, unwrap_headers
from tykpy.broker.http2.reader import FrameReader
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Application, Stream

_MAX_REMEMBERED_RESETS: Final = 2_048
"""Streams that we reset, on which frames may still be under way."""


class RequestReader(FrameReader):
    """Opens streams, hands their requests to the application, and forgets streams that have ended."""

    def __init__(
        self,
        application: Application,
        cache: HeadCache,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._application = application
        self._limits = limits
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
        self.going_away = False
        """No new streams: we are drained, or the peer said that it goes."""

    @abstractmethod
    def _forbid_table(self) -> None:
        """Tell the peer that its header blocks may use no table."""

    # From the frames of a stream

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
        stream.metadata = self._headers.metadata
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

    def _on_rst_stream(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if end - at != U32.size:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._check_not_idle(stream_id, "RST_STREAM")
        self._spend_reset()
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            if stream.pending:
                self._application.given_up(stream)
            self.sender.forget(stream)
            self._application.cancelled(stream)

    # The ends of streams

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give up one stream; the application has said what it had to say, or nothing."""
        if self.streams.pop(stream.id, None) is None:
            return
        self.sender.forget(stream)
        self._remember_reset(stream.id)
        self.sender.write(pack_reset(stream.id, code))

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
        sender = self.sender
        if not self._control.spend(sender.answers + sender.sent // ANSWER_BYTES, cost):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of control frames")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self.sender.answers):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of streams that are reset")
