"""One request and its answer, as the core keeps them, and what the core asks of the application on top of it."""

from collections import deque
from typing import Any, Protocol

from tykpy.broker.http2.frames import Data
from tykpy.broker.http2.hpack.head_cache import RequestHead


class Stream:
    """An open stream; a closed one is forgotten by the connection.

    `application` is the application's to use. The rest belongs to the core.
    """

    __slots__ = (
        "application",
        "closing",
        "head",
        "id",
        "metadata",
        "pending",
        "receive_window",
        "received",
        "request_ended",
        "send_window",
        "sweeps",
        "swept",
    )

    def __init__(self, stream_id: int, head: RequestHead, receive_window: int, send_window: int) -> None:
        self.id = stream_id
        self.head: Any = head
        self.metadata: bytes | None = None
        """See `HeaderDecoder.metadata`."""
        self.receive_window = receive_window
        self.send_window = send_window
        self.received = 0
        """Bytes of DATA without padding."""
        self.request_ended = False
        self.sweeps = 0
        """Sweeps over the connections since an unfinished request had come far enough for its time to begin anew."""
        self.swept = 0
        """What `received` was then."""
        self.pending: deque[memoryview] | None = None
        """DATA that waits for window or socket; None while nothing ever waited."""
        self.closing: bytes | None = None
        """Set once nothing more may be sent: the trailers behind the pending DATA; empty: END_STREAM without any."""
        self.application: Any = None


class Application(Protocol):
    """What the core tells of requests. Called while bytes are received; may answer before it returns.

    What it raises is a fault of the program, and ends the connection.
    """

    def opened(self, stream: Stream) -> None:
        """A request's head is there; called only where the head says `answer_at_once`."""

    def data(self, stream: Stream, data: Data, at: int, end: int, ended: bool) -> None:
        """More of the body: `data[at:end]`, copied by who keeps it; `ended`: that was all."""

    def given_up(self, stream: Stream) -> None:
        """The peer resets a stream whose answer has begun, and reads no more of it; `cancelled` follows."""

    def cancelled(self, stream: Stream) -> None:
        """The stream is gone before it was answered; nothing may be sent on it."""
