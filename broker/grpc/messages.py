"""Length-prefixed gRPC messages out of DATA that comes in any pieces."""

from broker.grpc.wire import GZIP, GrpcCallError, GrpcCode, decompress
from broker.http2.sender import MESSAGE_PREFIX, MESSAGE_PREFIX_SIZE


def too_large(size: int, limit: int) -> GrpcCallError:
    """The error for a message above the limit, saying both sizes in bytes."""
    return GrpcCallError(
        GrpcCode.RESOURCE_EXHAUSTED, f"message of {size} bytes is larger than the limit of {limit} bytes"
    )


class MessageReader:
    """Collects the messages of one request; `buffered` is what it keeps, in bytes."""

    __slots__ = ("_compressed", "_encoding", "_limit", "_missing", "_parts", "_prefix", "buffered")

    def __init__(self, encoding: bytes, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._prefix = b""
        self._parts: list[bytes] = []
        self._missing = -1
        """Bytes of the message still to come; -1: its prefix is not complete."""
        self._compressed = False
        self.buffered = 0

    @property
    def within_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._missing >= 0 or bool(self._prefix)

    def feed(self, data: bytes, at: int, end: int) -> list[bytes]:
        """Take `data[at:end]`; returns the messages that it completes.

        Raises GrpcCallError for one that is too large, or compressed otherwise than the request's headers say.
        """
        messages = []
        while at < end or self._missing == 0:
            if self._missing < 0:
                at = self._take_prefix(data, at, end)
                continue
            part = data[at : min(end, at + self._missing)]
            at += len(part)
            self._parts.append(part)
            self._missing -= len(part)
            self.buffered += len(part)
            if not self._missing:
                messages.append(self._finish())
        return messages

    def _take_prefix(self, data: bytes, at: int, end: int) -> int:
        taken = data[at : min(end, at + MESSAGE_PREFIX_SIZE - len(self._prefix))]
        self._prefix += taken
        if len(self._prefix) == MESSAGE_PREFIX_SIZE:
            flag, size = MESSAGE_PREFIX.unpack(self._prefix)
            self._prefix = b""
            self._check_prefix(flag, size)
            self._compressed = bool(flag)
            self._missing = size
        return at + len(taken)

    def _check_prefix(self, flag: int, size: int) -> None:
        if flag > 1 or (flag and self._encoding != GZIP):
            text = f"message flag {flag} with grpc-encoding {self._encoding.decode('latin-1')}"
            raise GrpcCallError(GrpcCode.INTERNAL, text)
        if size > self._limit:
            raise too_large(size, self._limit)

    def _finish(self) -> bytes:
        message = b"".join(self._parts)
        self._parts.clear()
        self._missing = -1
        self.buffered = 0
        return decompress(message, self._limit) if self._compressed else message
