"""The sending half of a connection: answers become frames, within the peer's windows and frame size.

Everything of one turn of the event loop is collected here and taken at once. What the peer's windows, or a full socket,
hold back stays with its stream, and goes out a run of frames per stream and round, so that no answer starves another.
"""

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, FinishedStreamError, PeerError, StreamError
from tykpy.broker.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD_SIZE,
    HEADERS,
    MAX_FRAME_SIZE,
    pack_frame,
    pack_head,
    pack_headers,
)
from tykpy.broker.http2.limits import MAX_WINDOW, MIB, MIN_WINDOW
from tykpy.broker.http2.stream import Stream

TURN_BYTES: Final = 1 * MIB
"""Bytes of held DATA that go out at once: a peer with a window of 2 GiB does not make us copy as much."""
RUN_BYTES: Final = 64 * 1024
"""Bytes of one stream that go out before it is the next one's turn."""
MESSAGE_PREFIX: Final = Struct(">BI")
"""What comes before a gRPC message: whether it is compressed, and its size in bytes."""
MESSAGE_PREFIX_SIZE: Final = MESSAGE_PREFIX.size
_HEAD_START: Final = 5
"""Bytes of a frame's head before the stream id."""


class AnswerTemplate:
    """A whole gRPC answer of one message, all but the message prepared: HEADERS, the start of DATA, trailers."""

    __slots__ = ("_end", "_headers_start", "_start", "_trailers_start", "headers", "trailers")

    def __init__(self, headers: bytes, trailers: bytes) -> None:
        self.headers = headers
        self.trailers = trailers
        self._headers_start = pack_head(len(headers), HEADERS, END_HEADERS, 0)[:_HEAD_START]
        self._trailers_start = pack_head(len(trailers), HEADERS, END_HEADERS | END_STREAM, 0)[:_HEAD_START]
        self._start = Struct(f">5sI{len(headers)}sHBHIBI").pack
        self._end = Struct(f">5sI{len(trailers)}s").pack

    def before(self, stream_id: int, size: int) -> bytes:
        """What goes out before a message of `size` bytes that fits one DATA frame."""
        length = size + MESSAGE_PREFIX_SIZE
        return self._start(
            self._headers_start, stream_id, self.headers, length >> 8, length & 0xFF, DATA, stream_id, 0, size
        )

    def after(self, stream_id: int) -> bytes:
        """What goes out after the message."""
        return self._end(self._trailers_start, stream_id, self.trailers)


NO_TABLE: Final = b"\x20"
"""A dynamic table size update to 0 (RFC 7541, section 6.3)."""


def _nobody_to_wake() -> None:
    """The connection is closed."""


def _nobody_waits(stream: Stream) -> None:
    """The connection is closed."""


class Sender:
    """Frames to one peer; `wake` is called when there is output where there was none.

    `answer`, `headers`, `data` and `close` raise FinishedStreamError on a stream that was answered or is gone.
    """

    __slots__ = (
        "_on_sent",
        "_table_unsaid",
        "_turn",
        "_wake",
        "_window",
        "answers",
        "held",
        "initial_window",
        "max_frame",
        "out",
        "paused",
        "sent",
        "waiting",
    )

    def __init__(self, wake: Callable[[], None], on_sent: Callable[[Stream], None]) -> None:
        self._wake = wake
        self._on_sent = on_sent
        self._table_unsaid = True
        """The peer has not been told yet that our header blocks use no table."""
        self._turn = TURN_BYTES
        self._window = MIN_WINDOW
        self.initial_window = MIN_WINDOW
        """The send window of a new stream."""
        self.max_frame = MAX_FRAME_SIZE
        self.out: list[bytes | memoryview] = []
        self.waiting: dict[int, Stream] = {}
        """Streams with DATA held back, the next to be served first."""
        self.held = 0
        """Bytes of DATA held back."""
        self.paused = False
        """The socket is full."""
        self.sent = 0
        """Bytes of held DATA that went out: whether the peer reads at all."""
        self.answers = 0
        """Streams answered to their end."""

    def write(self, frame: bytes) -> None:
        """Send a frame that no window holds back."""
        if not self.out:
            self._wake()
        self.out.append(frame)

    def take(self) -> list[bytes | memoryview]:
        """All output so far; there may be more DATA behind it, see `resume`."""
        out, self.out = self.out, []
        self._turn = TURN_BYTES
        return out

    def answer(self, stream: Stream, template: AnswerTemplate, message: bytes) -> None:
        """Send a whole answer of one message and close the stream: the path of almost all calls."""
        if stream.closing is not None:
            raise FinishedStreamError(stream.id)
        size = len(message)
        length = size + MESSAGE_PREFIX_SIZE
        if length > self._window or length > stream.send_window or length > self.max_frame or self.paused:
            self._answer_slowly(stream, template, message)
            return
        self._window -= length
        stream_id = stream.id
        if self._table_unsaid:
            self.headers(stream, template.headers)
            self.write(pack_frame(DATA, 0, stream_id, MESSAGE_PREFIX.pack(0, size) + message))
            self.write(template.after(stream_id))
        else:
            if not self.out:
                self._wake()
            self.out += (template.before(stream_id, size), message, template.after(stream_id))
        stream.closing = b""
        self.answers += 1
        self._on_sent(stream)

    def _answer_slowly(self, stream: Stream, template: AnswerTemplate, message: bytes) -> None:
        self.headers(stream, template.headers)
        self.data(stream, MESSAGE_PREFIX.pack(0, len(message)), message)
        self.close(stream, template.trailers)

    def headers(self, stream: Stream, block: bytes, end_stream: bool = False) -> None:
        """Send the answer's headers; with `end_stream` they are all of it."""
        if stream.closing is not None:
            raise FinishedStreamError(stream.id)
        if self._table_unsaid:
            # A peer that allows a smaller table than the default waits for this word (RFC 7541, section 4.2).
            block = NO_TABLE + block
            self._table_unsaid = False
        self.write(pack_headers(stream.id, block, END_STREAM if end_stream else 0, self.max_frame))
        if end_stream:
            stream.closing = b""
            self.answers += 1
            self._on_sent(stream)

    def data(self, stream: Stream, *pieces: bytes) -> None:
        """Send more of the body, as fast as the windows allow."""
        if stream.closing is not None:
            raise FinishedStreamError(stream.id)
        if stream.pending is None:
            stream.pending = deque()
        for piece in pieces:
            if piece:
                stream.pending.append(memoryview(piece))
                self.held += len(piece)
        if stream.pending:
            self.waiting[stream.id] = stream
            self.pump()

    def close(self, stream: Stream, trailers: bytes) -> None:
        """End the answer after all of its body; with trailers, or without if they are empty."""
        if stream.closing is not None:
            raise FinishedStreamError(stream.id)
        stream.closing = trailers
        if stream.pending:
            return
        self._finish(stream, trailers)

    def _finish(self, stream: Stream, trailers: bytes) -> None:
        if trailers:
            self.write(pack_headers(stream.id, trailers, END_STREAM, self.max_frame))
        else:
            self.write(pack_frame(DATA, END_STREAM, stream.id))
        self.answers += 1
        self._on_sent(stream)

    def pump(self) -> None:
        """Send of what is held back as much as window and socket take, a run of frames per stream and round."""
        blocked = 0
        while blocked < len(self.waiting) and self._window > 0 and self._turn > 0 and not self.paused:
            stream_id, stream = next(iter(self.waiting.items()))
            del self.waiting[stream_id]
            if stream.send_window <= 0:
                self.waiting[stream_id] = stream
                blocked += 1
                continue
            blocked = 0
            self._send_run(stream)
            if stream.pending:
                self.waiting[stream_id] = stream
            elif stream.closing is not None:
                self._finish(stream, stream.closing)

    def _send_run(self, stream: Stream) -> None:
        """Send the full frames that lie in one piece of the body, or else a single frame."""
        assert stream.pending
        piece, full = stream.pending[0], self.max_frame
        length = min(self._window, stream.send_window, len(piece), RUN_BYTES) // full * full
        if length <= full:
            self._send_one(stream)
            return
        head = pack_head(full, DATA, 0, stream.id)
        if not self.out:
            self._wake()
        for at in range(0, length, full):
            self.out += (head, piece[at : at + full])
        if length < len(piece):
            stream.pending[0] = piece[length:]
        else:
            stream.pending.popleft()
        self._account(stream, length, length // full)

    def _send_one(self, stream: Stream) -> None:
        """Send one DATA frame; pieces of the body are joined so that frames are as full as they may be."""
        assert stream.pending
        room = min(self._window, stream.send_window, self.max_frame)
        parts: list[bytes | memoryview] = []
        length = 0
        while stream.pending and length < room:
            piece = stream.pending.popleft()
            if len(piece) > room - length:
                stream.pending.appendleft(piece[room - length :])
                piece = piece[: room - length]
            parts.append(piece)
            length += len(piece)
        self.write(pack_head(length, DATA, 0, stream.id))
        self.out += parts
        self._account(stream, length, 1)

    def _account(self, stream: Stream, length: int, frames: int) -> None:
        self._window -= length
        self._turn -= length
        stream.send_window -= length
        self.held -= length
        self.sent += length + frames * FRAME_HEAD_SIZE

    def forget(self, stream: Stream) -> None:
        """Drop what is held back for a stream that is gone."""
        stream.closing = b""
        if stream.pending:
            self.held -= sum(map(len, stream.pending))
            stream.pending.clear()
        self.waiting.pop(stream.id, None)

    def widen(self, increment: int) -> None:
        """The peer widened the connection's window; raises PeerError above 2^31-1."""
        if self._window + increment > MAX_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1")
        self._window += increment
        if self.waiting:
            self.pump()

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """The peer widened a stream's window; raises StreamError above 2^31-1."""
        if stream.send_window + increment > MAX_WINDOW:
            raise StreamError(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is above 2^31-1")
        stream.send_window += increment
        if stream.id in self.waiting:
            self.pump()

    def resize_streams(self, size: int, streams: list[Stream]) -> None:
        """The peer changed the initial window, and with it the window of all open streams (section 6.9.2).

        What that sets free is sent by `pump`, once the change is acknowledged.
        """
        change, self.initial_window = size - self.initial_window, size
        for stream in streams:
            if stream.send_window + change > MAX_WINDOW:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is above 2^31-1")
            stream.send_window += change

    def let_go(self) -> None:
        """Let go of the connection; what was written before can still be taken."""
        self._wake, self._on_sent = _nobody_to_wake, _nobody_waits

    def resume(self) -> None:
        """The socket takes output (again): send more of what is held back."""
        self.paused = False
        if self.waiting:
            self.pump()
