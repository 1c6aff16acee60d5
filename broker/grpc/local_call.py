"""Calls that the broker serves itself (health, reflection), with any number of messages each way."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from broker.grpc.wire import ANSWER, GrpcCallError, GrpcCode, pack_status, pack_trailers_only
from broker.http2.sender import MESSAGE_PREFIX, Sender
from broker.http2.stream import Stream


class LocalCall:
    """The answering side of one call; what is said after its end is dropped."""

    __slots__ = ("_sender", "_started", "_stream", "ended")

    def __init__(self, sender: Sender, stream: Stream) -> None:
        self._sender = sender
        self._stream = stream
        self._started = False
        self.ended = False

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self.ended:
            return
        if not self._started:
            self._started = True
            self._sender.headers(self._stream, ANSWER.headers)
        self._sender.data(self._stream, MESSAGE_PREFIX.pack(0, len(message)) + message)

    def finish(self, code: GrpcCode = GrpcCode.OK, message: str = "") -> None:
        """End the call."""
        if self.ended:
            return
        self.ended = True
        if self._started:
            self._sender.close(self._stream, pack_status(code, message))
        else:
            self._sender.headers(self._stream, pack_trailers_only(code, message), end_stream=True)


class LocalHandler(ABC):
    """The receiving side of one call."""

    __slots__ = ()

    @abstractmethod
    def message(self, payload: bytes) -> None:
        """The caller sent a message; may raise GrpcCallError."""

    @abstractmethod
    def half_closed(self) -> None:
        """The caller has no more to say."""

    def cancelled(self) -> None:
        """The call is gone, however it ended; nothing more can be sent."""
        return


class OneMessageHandler(LocalHandler):
    """A method with exactly one request message."""

    __slots__ = ("_called", "call")

    def __init__(self, call: LocalCall) -> None:
        self.call = call
        self._called = False

    def message(self, payload: bytes) -> None:
        """Expected: once."""
        if self._called:
            raise GrpcCallError(GrpcCode.INTERNAL, "more than one message for a method that takes one")
        self._called = True
        self.request(payload)

    def half_closed(self) -> None:
        """Unexpected: without a message."""
        if not self._called:
            raise GrpcCallError(GrpcCode.INTERNAL, "no message for a method that takes one")

    @abstractmethod
    def request(self, payload: bytes) -> None:
        """The one message; may raise GrpcCallError."""


class UnaryHandler(OneMessageHandler):
    """One message in, one out, made by a function."""

    __slots__ = ("_function",)

    def __init__(self, call: LocalCall, function: Callable[[bytes], bytes]) -> None:
        super().__init__(call)
        self._function = function

    def request(self, payload: bytes) -> None:
        """Answer it."""
        self.call.send(self._function(payload))
        self.call.finish()
