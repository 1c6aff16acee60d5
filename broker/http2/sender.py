"""The sending half of a connection: answers become frames that respect the peer's windows and frame size.

Output is collected here and taken once at the end of a turn of the event loop. DATA that the peer's windows or a full
socket hold back stays with its stream and goes out in rounds, one run of frames per stream, so that no answer starves
another.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, FinishedStreamError, PeerError
from tykpy.broker.http2.frames import (
    DATA,
    END_STREAM,
    FRAME_HEAD_SIZE,
    MAX_FRAME_SIZE,
    pack_frame,
    pack_head,
    pack_headers,
)
from tykpy.broker.http2.limits import MAX_WINDOW, MIB, MIN_WINDOW
from tykpy.broker.http2.stream import Stream

ROUND_BYTES: Final = 1 * MIB
"""Most bytes of held DATA in one output: a peer with a window of 2 GiB cannot make us copy that much at once."""
RUN_BYTES: Final = 64 * 1024
"""Most bytes of one stream in a row while others wait."""
NO_TABLE: Final = b"\x20"
"""A dynamic table size update to 0 (RFC 7541, section 6.3)."""


class Sender:
    """Sends frames to one peer; calls `wake` when there is output and there was none before.

    `fits`, `headers`, `data` and `close` raise FinishedStreamError on a stream that was answered or is gone.
    """

    __slots__ = (
        "_on_sent",
        "_round",
        "_table_unannounced",
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
        self._table_unannounced = True
        """Our header blocks use no table, and the peer has not been told yet."""
        self._round = ROUND_BYTES
        self._window = MIN_WINDOW
        self.initial_window = MIN_WINDOW
        """The send window of a new stream."""
        self.max_frame = MAX_FRAME_SIZE
        self.out: list[bytes | memoryview] = []
        self.waiting: dict[int, Stream] = {}
        """Streams with DATA held back, the next one to serve first."""
        self.held = 0
        """Bytes of DATA held back."""
        self.paused = False
        """The socket is full."""
        self.sent = 0
        """Bytes of DATA sent that had been held back: shows whether the peer reads."""
        self.answers = 0
        """Number of streams whose answer is complete."""

    def write(self, frame: bytes) -> None:
        """Send a frame that is not subject to flow control."""
        if not self.out:
            self._wake()
        self.out.append(frame)

    def take(self) -> list[bytes | memoryview]:
        """Return all output so far; `pump` may add more DATA after that."""
        out, self.out = self.out, []
        self._round = ROUND_BYTES
        return out

    def fits(self, stream: Stream, length: int) -> bool:
        """Return whether a whole answer with `length` bytes in one DATA frame can go out now, by `send_whole`."""
        if stream.closing is not None:
            raise FinishedStreamError(stream.id)
        return not (
            length > self._window
            or length > stream.send_window
            or length > self.max_frame
            or self.paused
            or self._table_unannounced
        )

    def send_whole(self, stream: Stream, length: int, *frames: bytes) -> None:
        """Send the prepared frames of a whole answer, as `fits` allowed, and close the stream."""
        self._window -= length
        if not self.out:
            self._wake()
        self.out += frames
        stream.closing = b""
        self.answers += 1
        self._on_sent(stream)

    def headers(self, stream: Stream, block: bytes, end_stream: bool = False) -> None:
        """Send the headers of an answer; with `end_stream` they are the whole answer."""
        if stream.closing is not None:
            raise FinishedStreamError(stream.id)
        if self._table_unannounced:
            # A peer that allows a smaller table than the default expects this update first (RFC 7541, section 4.2).
            block = NO_TABLE + block
            self._table_unannounced = False
        self.write(pack_headers(stream.id, block, END_STREAM if end_stream else 0, self.max_frame))
        if end_stream:
            stream.closing = b""
            self.answers += 1
            self._on_sent(stream)

    def data(self, stream: Stream, *pieces: bytes) -> None:
        """Send more of the body, as far as the windows allow."""
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
        """End the answer after its body, with trailers unless they are empty."""
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
        """Send as much held DATA as windows and socket allow, in rounds of one run of frames per stream."""
        blocked = 0
        while blocked < len(self.waiting) and self._window > 0 and self._round > 0 and not self.paused:
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
        """Send the full frames within one piece of the body, or else a single frame."""
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
        """Send one DATA frame, joining pieces of the body so that it is as full as possible."""
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
        self._round -= length
        stream.send_window -= length
        self.held -= length
        self.sent += length + frames * FRAME_HEAD_SIZE

    def forget(self, stream: Stream) -> None:
        """Drop the held DATA of a stream that is gone."""
        stream.closing = b""
        if stream.pending:
            self.held -= sum(map(len, stream.pending))
            stream.pending.clear()
        self.waiting.pop(stream.id, None)

    def widen(self, increment: int) -> None:
        """Widen the connection's send window; raises PeerError above 2^31-1."""
        if self._window + increment > MAX_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1")
        self._window += increment
        if self.waiting:
            self.pump()

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """Widen a stream's send window; return False if it would exceed 2^31-1."""
        if stream.send_window + increment > MAX_WINDOW:
            return False
        stream.send_window += increment
        if stream.id in self.waiting:
            self.pump()
        return True

    def resize_streams(self, size: int, streams: list[Stream]) -> None:
        """Change the initial window, and with it the send window of all open streams (section 6.9.2).

        Call `pump` after the change has been acknowledged. Raises PeerError above 2^31-1.
        """
        change, self.initial_window = size - self.initial_window, size
        for stream in streams:
            if stream.send_window + change > MAX_WINDOW:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is above 2^31-1")
            stream.send_window += change

    def detach(self) -> None:
        """Drop the references to the connection; what was written before can still be taken."""
        self._wake, self._on_sent = lambda: None, lambda stream: None
