"""Collects length-prefixed gRPC messages from DATA in pieces of any size.

A message is collected where it will stay: a large one in the store that workers read, others in a BytesIO, whose buffer
becomes the finished `bytes` without a copy.
"""

from io import BytesIO
from typing import Final

from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.wire import (
    GZIP,
    HEAD_SIZE,
    MESSAGE_PREFIX,
    MESSAGE_PREFIX_SIZE,
    GrpcCallError,
    GrpcTooLargeError,
    decompress,
    decompress_head,
)
from tykpy.broker.http2.frames import Data
from tykpy.ipc.bodies.store import Body, BodyStore, StoredBody
from tykpy.ipc.frame import SPLIT_ABOVE

GROWTH: Final = 4
"""Room for a message, as a multiple of what has arrived: an announced length alone reserves no memory."""


class _HeapBody(BytesIO):
    """A message on the heap, with the interface of `StoredBody`."""

    def reserve(self, size: int) -> bool:
        """Make room for the first `size` bytes, so that they are not moved again and again."""
        begin = self.tell()
        self.seek(size - 1)
        self.write(b"\0")
        self.seek(begin)
        return True


class GrpcMessageReader:
    """Collects the messages of one request; `buffered` is the memory reserved for the current one, in bytes."""

    __slots__ = (
        "_bodies",
        "_compressed",
        "_encoding",
        "_limit",
        "_message",
        "_missing",
        "_prefix",
        "_room",
        "_size",
        "_too_large",
        "buffered",
    )

    def __init__(self, encoding: bytes, limit: int, bodies: BodyStore | None = None) -> None:
        """`bodies`: where large messages are collected."""
        self._bodies = bodies
        self._encoding = encoding
        self._limit = limit
        self._prefix = b""
        self._message: _HeapBody | StoredBody = _HeapBody()
        self._size = 0
        self._missing = -1
        """Bytes of the message still to come; -1 while its prefix is not complete."""
        self._room = 0
        """Bytes that `_message` has room for."""
        self._compressed = False
        self._too_large = 0
        """Size of a message above the limit in bytes; only its beginning is collected."""
        self.buffered = 0

    @property
    def within_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._missing >= 0 or bool(self._prefix)

    def feed(self, data: Data, at: int, end: int) -> list[Body]:
        """Take `data[at:end]` and return the messages that it completes.

        Raises GrpcTooLargeError for one above the limit, once its beginning has come, and GrpcCallError for one that is
        compressed otherwise than the request's headers say.
        """
        messages: list[Body] = []
        while at < end or self._missing == 0:
            if self._missing < 0:
                at = self._take_prefix(data, at, end)
                continue
            taken = min(end - at, self._missing)
            self._take(data, at, at + taken)
            at += taken
            if not self._missing:
                messages.append(self._finish())
        return messages

    def feed_within(self, data: Data, at: int, end: int) -> bool:
        """Take `data[at:end]` if it lies within a message that has room for it, as most frames of a large message do.

        Does not change `buffered`. Returns False if `feed` has to take it.
        """
        size = end - at
        if size >= self._missing or size > self._room:
            return False
        self._missing -= size
        self._room -= size
        self._message.write(memoryview(data)[at:end])
        return True

    def _take(self, data: Data, at: int, end: int) -> None:
        size = end - at
        if size > self._room:
            self._make_room(size)
        self._missing -= size
        self._room -= size
        self._message.write(memoryview(data)[at:end])

    def _make_room(self, size: int) -> None:
        arrived = self._size - self._missing
        self.buffered = min(self._size, (arrived + size) * GROWTH)
        self._room = self.buffered - arrived
        if not self._message.reserve(self.buffered):
            raise GrpcCallError(GrpcCode.RESOURCE_EXHAUSTED, f"no shared memory for a message of {self._size} bytes")

    def _take_prefix(self, data: Data, at: int, end: int) -> int:
        taken = bytes(data[at : min(end, at + MESSAGE_PREFIX_SIZE - len(self._prefix))])
        self._prefix += taken
        if len(self._prefix) == MESSAGE_PREFIX_SIZE:
            flag, size = MESSAGE_PREFIX.unpack(self._prefix)
            self._prefix = b""
            self._check_prefix(flag)
            self._compressed = bool(flag)
            if size > self._limit:
                self._too_large, size = size, min(size, HEAD_SIZE)
            self._missing = self._size = size
            if size > SPLIT_ABOVE and self._bodies is not None and not flag:
                self._message = self._bodies.begin(size) or self._message
        return at + len(taken)

    def _check_prefix(self, flag: int) -> None:
        if flag > 1 or (flag and self._encoding != GZIP):
            text = f"message flag {flag} with grpc-encoding {self._encoding.decode('latin-1')}"
            raise GrpcCallError(GrpcCode.INTERNAL, text)

    def _finish(self) -> Body:
        collected, self._message = self._message, _HeapBody()
        self._missing = -1
        self._room = self.buffered = 0
        if isinstance(collected, StoredBody):
            return collected
        message = collected.getvalue()
        if self._too_large:
            head = decompress_head(message) if self._compressed else message
            raise GrpcTooLargeError(f"the request has {self._too_large} bytes", head)
        return decompress(message, self._limit) if self._compressed else message
