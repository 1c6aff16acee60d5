"""Messages that are too big for a ring record: the record says where the body lies, and keeps its place in the order.

A request's body lies in the broker's `BodyStore`, an answer's in its worker's bulk memory; a body that does not fit
there gets memory of its own (`memfd.py`). The body has no CRC: it is written before the record that announces it, and
that record is checked.
"""

from typing import Final, NamedTuple, Protocol

from tykpy.ipc.bodies.bulk import BulkWriter
from tykpy.ipc.bodies.memfd import SpillSocket, release
from tykpy.ipc.errors import RingCorruptError
from tykpy.ipc.frame import Packed
from tykpy.ipc.ring.layout import OWN_MEMORY, SPILL_PLACE
from tykpy.ipc.ring.ring import Producer

_PLACE: Final = SPILL_PLACE.size


class Announcement(NamedTuple):
    """The payload of a SPILL record, decoded."""

    size: int
    """Bytes of the body."""
    offset: int
    """In bulk memory, or OWN_MEMORY."""
    head: bytes
    """The frame without its body; empty: what lies there is the whole frame."""


def read_announcement(payload: bytes, limit: int) -> Announcement:
    """Decode a SPILL record's payload. Raises RingCorruptError."""
    if len(payload) < _PLACE:
        raise RingCorruptError("a spill record of a wrong length", length=len(payload))
    size, offset = SPILL_PLACE.unpack_from(payload)
    if size > limit:
        raise RingCorruptError("an oversize spill", size=size, limit=limit)
    return Announcement(size, offset, payload[_PLACE:])


class OwnMemoryWriter:
    """Publishes SPILL records whose bodies lie in memory of their own; used by one thread at a time."""

    __slots__ = ("_producer", "_socket")

    def __init__(self, producer: Producer, socket: SpillSocket) -> None:
        self._producer = producer
        self._socket = socket

    def push(self, kind: int, seq: int, aux: int, head: bytes, body: bytes) -> tuple[int, int]:
        """Store the body and publish its record.

        Returns the position to `rewind` to, and the descriptor of the memory, which the caller must `release`. Raises
        SpillError and the errors of `Producer.push`; nothing was published then.
        """
        memory = self._socket.send(seq, body)
        try:
            return self._producer.push(kind, seq, aux, SPILL_PLACE.pack(len(body), OWN_MEMORY) + head), memory
        except BaseException:
            release(memory, discard=True)
            raise


class OversizeWriter(OwnMemoryWriter):
    """Publishes SPILL records whose bodies lie in bulk memory, or in memory of their own if it is full."""

    __slots__ = ("_bulk",)

    def __init__(self, producer: Producer, bulk: BulkWriter, socket: SpillSocket) -> None:
        super().__init__(producer, socket)
        self._bulk = bulk

    def publish(self, kind: int, seq: int, aux: int, head: bytes, body: bytes) -> None:
        """Store the body and publish its record; raises the same as `push`."""
        size = len(body)
        offset = self._bulk.write(body, self._producer.consumed())
        if offset is None:
            _, memory = self.push(kind, seq, aux, head, body)
            release(memory, discard=False)
            return
        try:
            position = self._producer.push(kind, seq, aux, SPILL_PLACE.pack(size, offset) + head)
        except BaseException:
            self._bulk.drop(offset, size)
            raise
        self._bulk.hold(offset, size, position)

    def trim(self) -> None:
        """Release memory that no body uses."""
        self._bulk.trim(self._producer.consumed())


class Memory(Protocol):
    """The memory that holds the bodies of one direction."""

    def read(self, offset: int, size: int) -> bytes:
        """Copy a body. Raises RingCorruptError if the place is outside of this memory."""


class OversizeReader:
    """Fetches the messages of SPILL records; call it before the record's room is given back."""

    __slots__ = ("_bulk", "_limit", "_skip_revoked", "_socket")

    def __init__(self, bulk: Memory, socket: SpillSocket, limit: int, *, skip_revoked: bool) -> None:
        self._bulk = bulk
        self._socket = socket
        self._limit = limit
        self._skip_revoked = skip_revoked

    def fetch(self, seq: int, payload: bytes) -> Packed:
        """Copy the message; the peer cannot change the copy.

        Raises SpillError if only this message is lost, RingCorruptError if the announcement makes no sense.
        """
        size, offset, head = read_announcement(payload, self._limit)
        if offset == OWN_MEMORY:
            body = self._socket.receive(seq, size, skip_revoked=self._skip_revoked)
        else:
            body = self._bulk.read(offset, size)
        return (head, body) if head else (body, None)
