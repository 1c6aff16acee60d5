"""One request with its answer, and the interface of the application that answers requests."""

from collections import deque
from typing import Any, Protocol

from tykpy.broker.http2.frames import Data
from tykpy.broker.http2.hpack.head_cache import RequestHead


class Stream:
    """An open stream. `application` is for the application; the other attributes belong to the connection."""

    __slots__ = (
        "application",
        "closing",
        "head",
        "id",
        "metadata",
        "pending",
        "progress",
        "receive_window",
        "received",
        "request_ended",
        "send_window",
    )

    def __init__(self, stream_id: int, head: RequestHead, receive_window: int, send_window: int) -> None:
        self.id = stream_id
        self.head: Any = head
        self.metadata: bytes | None = None
        """The call's metadata, see `HeaderDecoder.metadata`."""
        self.receive_window = receive_window
        self.send_window = send_window
        self.received = 0
        """Bytes of DATA so far, without padding."""
        self.request_ended = False
        self.progress: Any = None
        """For the sweep that looks for requests whose rest does not come."""
        self.pending: deque[memoryview] | None = None
        """DATA that waits for a window or the socket; None as long as nothing had to wait."""
        self.closing: bytes | None = None
        """Set once the answer is complete: the trailers to send after `pending`; empty for END_STREAM alone."""
        self.application: Any = None


class Application(Protocol):
    """Answers the requests of a connection. Called while bytes are received; may answer before it returns.

    An exception is a bug, and ends the connection.
    """

    def opened(self, stream: Stream) -> None:
        """Take the head of a request; called only if the head has `answer_at_once`."""

    def data(self, stream: Stream, data: Data, at: int, end: int, ended: bool) -> None:
        """Take more of the body, `data[at:end]`, and copy what is kept; `ended`: the body is complete."""

    def abandoned(self, stream: Stream) -> None:
        """Note that the peer has reset a stream before it read the whole answer; `cancelled` follows."""

    def cancelled(self, stream: Stream) -> None:
        """Forget a stream that ended before it was answered; nothing can be sent on it any more."""
