"""The server's end of one HTTP/2 connection (RFC 9113): bytes become frames, and frames become requests.

`Sender` turns answers into frames; `HeaderDecoder` turns header blocks into request heads.
"""

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, Http2Error, MalformedError, PeerError
from tykpy.broker.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    FRAME_HEAD_SIZE,
    GOAWAY_MIN_SIZE,
    MAX_FRAME_SIZE,
    PADDED,
    PING_SIZE,
    PREFACE,
    PRIORITY,
    PRIORITY_SIZE,
    STREAM_ID_MASK,
    U32,
    Data,
    FrameType,
    check_dependency,
    pack_frame,
    pack_goaway,
    pack_reset,
    pack_window_update,
    unpad,
    unwrap_headers,
)
from tykpy.broker.http2.hpack.head_cache import HeadCache, HeaderDecoder, RequestHead
from tykpy.broker.http2.limits import ANSWER_BYTES, DECODE_FACTOR, Budget, Limits
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.settings import FORBID_TABLE, SettingId, pack_our_settings, parse_settings
from tykpy.broker.http2.stream import Application, Stream

_FrameHandler = Callable[[int, int, Data, int, int], None]
"""Takes flags, stream id, and the frame's payload as `data[at:end]`."""
_HandlerTable = tuple[_FrameHandler, ...]
"""Handlers by frame type."""

_DRAIN_PING: Final = b"tykdrain"
"""Payload of the PING sent behind a GOAWAY: its acknowledgement shows that the peer has read the GOAWAY."""
_TABLE_FORBIDDEN: Final = 2
"""Number of the SETTINGS frame that forbids the HPACK table; the first one belongs to the handshake."""
_SETTINGS_COST: Final = 10
"""Tokens for a SETTINGS frame: a change of the initial window touches every stream."""
_MAX_REMEMBERED_RESETS: Final = 2_048
"""Streams we reset on which frames of the peer may still be on their way."""


def _refuse(message: str) -> _FrameHandler:
    def refuse(flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, message)

    return refuse


def _ignore(flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
    """Ignore a frame: the connection is already closed."""


def _table(handlers: dict[int, _FrameHandler], default: _FrameHandler) -> _HandlerTable:
    return tuple(handlers.get(kind, default) for kind in range(256))


_CLOSED: Final = _table({}, _ignore)


def _now(acknowledge: Callable[[], None]) -> None:
    acknowledge()


class Connection:
    """One connection: pass what was read to `receive`, then write what `take_output` returns.

    `take_output` is due again whenever `wake` was called. Which frames may come next is a table of handlers: SETTINGS
    before anything else, only CONTINUATION within a header block.
    """

    def __init__(
        self,
        application: Application,
        cache: HeadCache,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float] = monotonic,
        delay: Callable[[Callable[[], None]], object] = _now,
    ) -> None:
        """`delay` calls its argument when the PINGs received so far are to be acknowledged."""
        self._application = application
        self._limits = limits
        self._max_streams = limits.max_concurrent_streams
        self._stream_window = limits.stream_window
        self._max_output = max(limits.max_output, limits.max_message)
        self.sender = Sender(wake, self._on_sent)
        self._headers = HeaderDecoder(cache, limits, self._forbid_table)
        self._control = Budget(limits.control_burst, limits.control_rate, limits.control_per_answer, clock)
        self._resets = Budget(limits.reset_burst, limits.reset_rate, 1, clock)

        self._preface_read = False
        self._partial = bytearray()
        """The preface or frame that is not complete yet."""
        self._pieces = 0
        """Frames and header blocks that came in more than one piece."""
        self._block: list[bytes] = []
        """The parts of the header block that is not complete, from this stream, with these flags of its HEADERS."""
        self._block_stream = 0
        self._block_flags = 0
        self._between = self._handlers_between_blocks()
        self._handlers = _table({FrameType.SETTINGS: self._on_first_settings}, _refuse("no SETTINGS first"))

        # The receive window of the connection: credit goes back in one batch when half of it is used. Bytes count as
        # consumed on arrival: what is buffered has a limit of its own, and holding credit back for unfinished messages
        # would let a few of them keep all others from ever finishing.
        self._receive_window = limits.connection_window
        self._low_window = limits.connection_window - limits.connection_window // 2

        self._delay = delay
        self._pings: list[bytes] = []
        """Payloads of PINGs that are not acknowledged yet."""
        self._settings_sent = 1
        self._settings_acknowledged = 0
        self._reset_by_us: dict[int, None] = {}
        self.streams: dict[int, Stream] = {}
        """Open streams by id."""
        self.last_stream_id = 0
        self.draining = False
        """We have asked the peer to go."""
        self.going_away = False
        """No new streams are accepted: we have drained, or the peer has announced that it goes."""
        self.fault: Http2Error | None = None
        """Why the connection ended, if it ended badly."""
        self.errors: Counter[ErrorCode] = Counter()
        """Faults of the peer by code; the owner may share one between connections."""
        self.closed = False
        self.sender.write(pack_our_settings(limits))

    def _handlers_between_blocks(self) -> _HandlerTable:
        return _table(
            {
                FrameType.DATA: self._on_data,
                FrameType.HEADERS: self._on_headers,
                FrameType.PRIORITY: self._on_priority,
                FrameType.RST_STREAM: self._on_rst_stream,
                FrameType.SETTINGS: self._on_settings,
                FrameType.PUSH_PROMISE: _refuse("PUSH_PROMISE from a client"),
                FrameType.PING: self._on_ping,
                FrameType.GOAWAY: self._on_goaway,
                FrameType.WINDOW_UPDATE: self._on_window_update,
                FrameType.CONTINUATION: _refuse("CONTINUATION without HEADERS"),
            },
            self._on_unknown,
        )

    # Called by the owner

    def receive(self, data: Data) -> None:
        """Act on bytes of the peer. A fault of the peer becomes a GOAWAY in the output, and sets `closed`."""
        if self.closed:
            return
        try:
            if self._preface_read:
                self._read_frames(data)
            else:
                self._read_preface(data)
        except PeerError as fault:
            self.fail(fault)

    def take_output(self) -> list[bytes | memoryview]:
        """Return the frames to write now; call it again after that, until it returns none."""
        sender = self.sender
        if sender.waiting:
            sender.pump()
            if sender.held > self._max_output and not self.closed:
                message = f"{sender.held} bytes wait for a peer that does not read"
                self.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, message))
        return sender.take()

    def fail(self, fault: Http2Error) -> None:
        """End the connection with a GOAWAY that gives the reason."""
        if self.closed:
            return
        self.fault = fault
        self.errors[fault.code] += 1
        self.sender.write(pack_goaway(self.last_stream_id, fault.code, fault.message))
        self.close()

    def close(self) -> None:
        """Cancel all calls and ignore the peer from now on; what was written before can still be taken."""
        self.closed = True
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self.sender.forget(stream)
            self._application.cancelled(stream)
        # Drop every reference back to this object. A cycle would only be freed by the garbage collector, which never
        # runs in an idle broker.
        self._delay = _now
        self._pings.clear()
        self._partial.clear()
        self._handlers = self._between = _CLOSED
        self._headers.close()
        self.sender.detach()

    def drain(self) -> None:
        """Ask the peer to go; calls in progress, and those already on their way, are still answered (section 6.8)."""
        if self.closed or self.draining or self.going_away:
            return
        self.draining = True
        self.sender.write(pack_goaway(STREAM_ID_MASK, ErrorCode.NO_ERROR, "draining"))
        self.sender.write(pack_frame(FrameType.PING, 0, 0, _DRAIN_PING))

    def finish_drain(self) -> None:
        """Refuse new calls from now on: the peer has had time to read the first GOAWAY."""
        if self.closed or self.going_away:
            return
        self.going_away = True
        self.sender.write(pack_goaway(self.last_stream_id, ErrorCode.NO_ERROR, "draining"))

    @property
    def done(self) -> bool:
        """Whether the connection is going away and nothing is left to do."""
        return self.closed or (self.going_away and not self.streams)

    @property
    def settings_awaited(self) -> int:
        """Which of our SETTINGS, counted from 1, the peer has to acknowledge next; 0 if none."""
        return self._settings_acknowledged + 1 if self._settings_acknowledged < self._settings_sent else 0

    @property
    def unfinished(self) -> int:
        """The number of the frame or header block whose end has not come yet; 0 if there is none."""
        return self._pieces if self._partial or self._handlers is not self._between else 0

    # Bytes to frames

    def _read_preface(self, data: Data) -> None:
        self._partial += data
        start = self._partial[: len(PREFACE)]
        if not PREFACE.startswith(start):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "not HTTP/2 with prior knowledge")
        if len(start) < len(PREFACE):
            return
        rest = bytes(self._partial[len(PREFACE) :])
        self._partial.clear()
        self._preface_read = True
        self._read_frames(rest)

    def _read_frames(self, data: Data) -> None:
        # Every byte comes through here: no object is made for a frame.
        at = self._resume(data) if self._partial else 0
        size = len(data)
        unpack = FRAME_HEAD.unpack_from
        while size - at >= FRAME_HEAD_SIZE:
            high, low, kind, flags, stream_id = unpack(data, at)
            start = at + FRAME_HEAD_SIZE
            end = start + (high << 8 | low)
            if end - start > MAX_FRAME_SIZE:
                self._fail_too_large(end - start)
            if end > size:
                break
            self._handlers[kind](flags, stream_id & STREAM_ID_MASK, data, start, end)
            at = end
        if at < size:
            self._pieces += 1
            self._partial += data[at:]

    def _resume(self, data: Data) -> int:
        """Complete the frame that an earlier read began; return how many bytes of `data` it took."""
        partial = self._partial
        taken = 0
        if len(partial) < FRAME_HEAD_SIZE:
            taken = FRAME_HEAD_SIZE - len(partial)
            partial += data[:taken]
            if len(partial) < FRAME_HEAD_SIZE:
                return len(data)
        high, low, kind, flags, stream_id = FRAME_HEAD.unpack_from(partial)
        length: int = high << 8 | low
        if length > MAX_FRAME_SIZE:
            self._fail_too_large(length)
        missing = FRAME_HEAD_SIZE + length - len(partial)
        partial += data[taken : taken + missing]
        if len(partial) < FRAME_HEAD_SIZE + length:
            return len(data)
        frame = bytes(partial)
        partial.clear()
        self._handlers[kind](flags, stream_id & STREAM_ID_MASK, frame, FRAME_HEAD_SIZE, len(frame))
        return taken + missing

    def _fail_too_large(self, length: int) -> None:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes, limit {MAX_FRAME_SIZE}")

    # Frames of a stream: requests

    def _on_headers(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if flags & (PADDED | PRIORITY):
            at, end = unwrap_headers(flags, stream_id, data, at, end)
        if flags & END_HEADERS:
            self._on_block(flags, stream_id, bytes(data[at:end]))
            return
        if not stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        self._block, self._block_stream, self._block_flags = [], stream_id, flags
        self._add_to_block(bytes(data[at:end]))
        self._pieces += 1
        expected: dict[int, _FrameHandler] = {FrameType.CONTINUATION: self._on_continuation}
        self._handlers = _table(expected, _refuse("a frame within a header block"))

    def _on_continuation(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if stream_id != self._block_stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"CONTINUATION of another stream, {stream_id}")
        self._add_to_block(bytes(data[at:end]))
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._handlers = self._between
            self._on_block(self._block_flags, stream_id, block)

    def _add_to_block(self, part: bytes) -> None:
        self._block.append(part)
        frames, size = len(self._block), sum(map(len, self._block))
        if frames > self._limits.max_header_frames or size > self._limits.max_header_list * DECODE_FACTOR:
            message = f"header block of {size} bytes in {frames} frames without an end"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, message)

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        if stream_id <= self.last_stream_id or not stream_id & 1:
            self._on_late_block(flags, stream_id, block)
            return
        self.last_stream_id = stream_id
        try:
            head = self._headers.request(block)
        except MalformedError:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if len(self.streams) >= self._max_streams or self.going_away:
            self._fail_stream(stream_id, ErrorCode.REFUSED_STREAM)
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
        """Take trailers; refuse headers where none are allowed."""
        if not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        stream = self.streams.get(stream_id)
        if stream is None and stream_id in self._reset_by_us:
            self._headers.skip(block)
        elif stream is None:
            raise PeerError(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")
        elif stream.request_ended:
            self._headers.skip(block)
            self._fail_stream(stream_id, ErrorCode.STREAM_CLOSED)
        else:
            self._on_trailers(flags, stream, block)

    def _on_trailers(self, flags: int, stream: Stream, block: bytes) -> None:
        try:
            self._headers.trailers(block)
            well_formed = flags & END_STREAM
        except MalformedError:
            well_formed = 0
        if well_formed:
            self._end_request(stream, b"", 0, 0)
        else:
            self._fail_stream(stream.id, ErrorCode.PROTOCOL_ERROR)

    def _on_data(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        size = end - at
        self._receive_window -= size
        if self._receive_window < self._low_window:
            self._renew_window()
        stream = self.streams.get(stream_id)
        if stream is None or stream.request_ended:
            self._on_late_data(stream, stream_id)
            return
        stream.receive_window -= size
        if flags & PADDED:
            at, end = unpad(data, at, end)
        if stream.receive_window < 0:
            self._fail_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        elif flags & END_STREAM:
            self._end_request(stream, data, at, end)
        else:
            self._continue_request(stream, data, at, end)

    def _renew_window(self) -> None:
        if self._receive_window < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        increment = self._limits.connection_window - self._receive_window
        self._receive_window = self._limits.connection_window
        self.sender.write(pack_window_update(0, increment))

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
            self._fail_stream(stream.id, ErrorCode.PROTOCOL_ERROR)
        else:
            self._application.data(stream, data, at, end, True)

    def _on_late_data(self, stream: Stream | None, stream_id: int) -> None:
        """Refuse DATA, unless we have reset its stream and the peer could not know that yet."""
        if stream_id > self.last_stream_id or not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is not open")
        if stream is None and stream_id in self._reset_by_us:
            self._spend()
        else:
            self._fail_stream(stream_id, ErrorCode.STREAM_CLOSED)

    def _on_rst_stream(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if end - at != U32.size:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._check_not_idle(stream_id, "RST_STREAM")
        self._spend_reset()
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            if stream.pending:
                self._application.abandoned(stream)
            self.sender.forget(stream)
            self._application.cancelled(stream)

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id > self.last_stream_id or not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is not open")

    # Ends of streams

    def _on_sent(self, stream: Stream) -> None:
        """Close a stream whose answer is complete."""
        self.streams.pop(stream.id, None)
        if not stream.request_ended:
            # We do not need the rest of the request; NO_ERROR tells the peer that the answer is valid (section 8.1).
            self._send_reset(stream.id, ErrorCode.NO_ERROR)

    def _fail_stream(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream for a fault of the peer; the number of such resets is limited."""
        self._spend_reset()
        self.errors[code] += 1
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self.sender.forget(stream)
            self._application.cancelled(stream)
        self._send_reset(stream_id, code)

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._reset_by_us[stream_id] = None
        if len(self._reset_by_us) > _MAX_REMEMBERED_RESETS:
            del self._reset_by_us[next(iter(self._reset_by_us))]
        self.sender.write(pack_reset(stream_id, code))

    # Frames of the connection

    def _on_priority(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if not stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if end - at != PRIORITY_SIZE:
            self._fail_stream(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        else:
            check_dependency(stream_id, data, at)

    def _on_first_settings(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if flags & ACK:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS acknowledged before any were sent")
        self._handlers = self._between
        self._on_settings(flags, stream_id, data, at, end)

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
            if self._settings_acknowledged == _TABLE_FORBIDDEN:
                self._headers.table_forbidden()

    def _apply_settings(self, payload: bytes) -> None:
        for setting, value in parse_settings(payload):
            if setting == SettingId.INITIAL_WINDOW_SIZE:
                self.sender.resize_streams(value, list(self.streams.values()))
            elif setting == SettingId.MAX_FRAME_SIZE:
                self.sender.max_frame = value
        # Acknowledge before sending what the new values allow: DATA that overtakes the acknowledgement would break the
        # old ones.
        self.sender.write(pack_frame(FrameType.SETTINGS, ACK, 0))
        self.sender.pump()

    def _forbid_table(self) -> None:
        self._settings_sent = _TABLE_FORBIDDEN
        self.sender.write(FORBID_TABLE)

    def _on_ping(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if end - at != PING_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        if not flags & ACK:
            self._pings.append(bytes(data[at:end]))
            if len(self._pings) == 1:
                self._delay(self._acknowledge_pings)
        elif data[at:end] == _DRAIN_PING:
            self.finish_drain()

    def _acknowledge_pings(self) -> None:
        for payload in self._pings:
            self.sender.write(pack_frame(FrameType.PING, ACK, 0, payload))
        self._pings.clear()

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
        stream = self.streams.get(stream_id)
        if not increment:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif stream is not None and not self.sender.widen_stream(stream, increment):
            self._fail_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR)

    def _on_unknown(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()

    # Limits against abuse

    def _spend(self, cost: int = 1) -> None:
        sender = self.sender
        if not self._control.spend(sender.answers + sender.sent // ANSWER_BYTES, cost):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of control frames")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self.sender.answers):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of streams that are reset")
