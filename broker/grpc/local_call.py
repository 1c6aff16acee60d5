"""Calls that the broker serves itself (health, reflection), with any number of messages each way."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.wire import ANSWER, MESSAGE_PREFIX, pack_status, pack_trailers_only
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Stream


class LocalCall(ABC):
    """One call: takes messages and answers them. A GrpcCallError that `message` raises ends the call."""

    __slots__ = ("_sender", "_started", "_stream", "ended")

    takes_many: ClassVar[bool] = False
    """Take messages as they come; otherwise exactly one, once the request is complete."""

    def __init__(self, sender: Sender, stream: Stream) -> None:
        self._sender = sender
        self._stream = stream
        self._started = self.ended = False

    @abstractmethod
    def message(self, payload: bytes) -> None:
        """Take one message."""

    def half_closed(self) -> None:
        """End the call after the caller's last message; only called if `takes_many`."""
        self.finish()

    def release(self) -> None:
        """Release what the call holds: it is gone, or about to end with an error."""
        return

    def send(self, message: bytes) -> None:
        """Send one message, unless the call has ended."""
        if self.ended:
            return
        if not self._started:
            self._started = True
            self._sender.headers(self._stream, ANSWER.headers)
        self._sender.data(self._stream, MESSAGE_PREFIX.pack(0, len(message)) + message)

    def finish(self, code: GrpcCode = GrpcCode.OK, message: str = "") -> None:
        """End the call, unless it has ended."""
        if self.ended:
            return
        self.ended = True
        self._stream.application = None
        if self._started:
            self._sender.close(self._stream, pack_status(code, message))
        else:
            self._sender.headers(self._stream, pack_trailers_only(code, message), end_stream=True)


class UnaryCall(LocalCall):
    """Answers one message with the result of a function."""

    __slots__ = ("_function",)

    def __init__(self, sender: Sender, stream: Stream, function: Callable[[bytes], bytes]) -> None:
        super().__init__(sender, stream)
        self._function = function

    def message(self, payload: bytes) -> None:
        """Answer the message."""
        self.send(self._function(payload))
        self.finish()
