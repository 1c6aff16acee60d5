"""One ring: a producer writes records and publishes each with one store of `tail`; a consumer checks and takes them.

A consumer trusts nothing: whatever the peer wrote, it returns a record that was completely published at this position,
or raises RingCorruptError. Ask for a record only after a doorbell token (or the peer's death).
"""

from typing import Final

from tykpy.ipc.errors import RingCorruptError, RingFullError
from tykpy.ipc.ring.checksum import crc32
from tykpy.ipc.ring.layout import (
    ALIGNMENT,
    CRC_RESIDUE,
    HEAD,
    HEADER_SIZE,
    POSITION_SHIFT,
    RECORD_CHECKED,
    RECORD_HEADER,
    TAIL,
    RecordType,
)
from tykpy.ipc.ring.segment import Segment

# Plain module constants instead of enum members and attributes: these two classes are the hot path.
_HEADER: Final = RECORD_HEADER.size
_CHECKED: Final = RECORD_CHECKED.size
_ROUND: Final = ALIGNMENT - 1
_ROUND_RECORD: Final = _HEADER + _ROUND
_pack_checked: Final = RECORD_CHECKED.pack
_pack_into: Final = RECORD_HEADER.pack_into
_unpack: Final = RECORD_HEADER.unpack
_PAD: Final = int(RecordType.PAD)


class Producer:
    """The writing end of a segment."""

    def __init__(self, segment: Segment, peer: Segment) -> None:
        self._memory = segment.memory
        self._words = segment.words
        self._peer_words = peer.words
        self._capacity = segment.identity.capacity
        self._mask = self._capacity - 1
        self._generation = segment.identity.generation
        self._position = self._words[TAIL]
        self._head = self._position
        """The peer's head when it was last read."""
        self._limit = self._head + self._capacity

    def push(self, kind: int, seq: int, aux: int, payload: bytes) -> int:
        """Write and publish one record; returns the position to `rewind` to.

        Raises RingFullError if it does not fit, RingCorruptError if the peer's head is impossible.
        """
        start = position = self._position
        memory = self._memory
        length = len(payload)
        size = (length + _ROUND_RECORD) & -ALIGNMENT
        room = self._capacity - (position & self._mask)
        if size > room:
            position = self._pad(position, room, size)
        elif position + size > self._limit:
            self._look_at_head(position, size)
        offset = HEADER_SIZE + (position & self._mask)
        generation = self._generation
        checked = _pack_checked(length, kind, seq, aux, generation)
        crc = crc32(checked, crc32(payload, position >> POSITION_SHIFT))
        _pack_into(memory, offset, length, kind, seq, aux, generation, crc)
        offset += _HEADER
        memory[offset : offset + length] = payload
        self._position = tail = position + size
        self._words[TAIL] = tail
        return start

    def _pad(self, position: int, room: int, size: int) -> int:
        if position + room + size > self._limit:
            self._look_at_head(position, room + size)
        checked = _pack_checked(room - _HEADER, _PAD, 0, 0, self._generation)
        crc = crc32(checked, position >> POSITION_SHIFT)
        offset = HEADER_SIZE + (position & self._mask)
        _pack_into(self._memory, offset, room - _HEADER, _PAD, 0, 0, self._generation, crc)
        return position + room

    def consumed(self) -> int:
        """Return the position up to which the peer has consumed. Raises RingCorruptError if it is impossible."""
        head: int = self._peer_words[HEAD]
        if not self._head <= head <= self._position:
            raise RingCorruptError("impossible head", head=head, last_head=self._head, tail=self._position)
        self._head = head
        self._limit = head + self._capacity
        return head

    def _look_at_head(self, position: int, needed: int) -> None:
        free = self._capacity - (position - self.consumed())
        if needed > free:
            raise RingFullError(needed, free, self._capacity)

    def rewind(self, position: int) -> None:
        """Take back all records from this position on, which an earlier `push` returned.

        Only for records whose doorbell tokens are in the caller's hands: no consumer looks past its tokens.
        """
        self._position = position
        self._words[TAIL] = position


class Consumer:
    """The reading end of the peer's segment; its head is stored in our own segment."""

    def __init__(self, peer: Segment, own: Segment, kinds: frozenset[int]) -> None:
        identity = peer.identity
        self._memory = peer.memory
        self._peer_words = peer.words
        self._words = own.words
        self._capacity = identity.capacity
        self._mask = identity.capacity - 1
        self._generation = identity.generation
        self._max_payload = identity.max_payload
        self._kinds = frozenset(map(int, kinds))
        self._position = self._words[HEAD]
        self._bound = self._position
        """No record that is being read reaches beyond: the tail as last seen, or the end of the ring before it."""

    def readable(self) -> bool:
        """Whether the peer published more than was popped; without a token, only reliable if the peer is dead."""
        return bool(self._peer_words[TAIL] != self._position)

    def pop(self) -> tuple[int, int, int, bytes]:
        """Check and copy the next record; return kind (with flags), seq, aux and payload. `commit` gives its room back.

        Raises RingCorruptError; the position stays before the damage then.
        """
        position = self._position
        memory = self._memory
        if position >= self._bound:
            self._look_at_tail(position)
        offset = HEADER_SIZE + (position & self._mask)
        header = memory[offset : offset + _HEADER]
        length, kind, seq, aux, generation, crc = _unpack(header)
        if kind == _PAD:
            self._skip_padding(position, header)
            return self.pop()  # once: padding is refused at the start of the ring
        after = position + ((length + _ROUND_RECORD) & -ALIGNMENT)
        offset += _HEADER
        if (
            length > self._max_payload
            or kind not in self._kinds
            or generation != self._generation
            or (after > self._bound and after > self._look_at_tail(position))
        ):
            raise self._impossible(position, header)
        payload = memory[offset : offset + length]
        if crc32(header, crc32(payload, position >> POSITION_SHIFT)) != CRC_RESIDUE:
            raise RingCorruptError("the CRC does not fit", position=position, seq=seq, length=length, crc=crc)
        self._position = after
        return kind, seq, aux, payload

    def commit(self) -> None:
        """Give the room of all popped records back to the producer."""
        self._words[HEAD] = self._position

    def _look_at_tail(self, position: int) -> int:
        """Read the tail again and return the bound; the tail may have been rewound, but not beyond this position."""
        tail: int = self._peer_words[TAIL]
        available = tail - position
        if not 0 < available <= self._capacity or available & _ROUND:
            reason = "a token without a record" if available == 0 else "impossible tail"
            raise RingCorruptError(reason, tail=tail, position=position, capacity=self._capacity)
        self._bound = bound = min(tail, (position | self._mask) + 1)
        return bound

    def _skip_padding(self, position: int, header: bytes) -> None:
        room = self._capacity - (position & self._mask)
        checked = _pack_checked(room - _HEADER, _PAD, 0, 0, self._generation)
        (*_, crc) = _unpack(header)
        after = position + room
        if (
            room == self._capacity
            or header[:_CHECKED] != checked
            or crc != crc32(checked, position >> POSITION_SHIFT)
            or after > self._look_at_tail(position)
        ):
            raise self._impossible(position, header)
        self._position = after

    def _impossible(self, position: int, header: bytes) -> RingCorruptError:
        length, kind, seq, _, generation, _ = _unpack(header)
        return RingCorruptError(
            "impossible record",
            position=position,
            bound=self._bound,
            kind=kind,
            length=length,
            max_payload=self._max_payload,
            seq=seq,
            generation=generation,
            expected_generation=self._generation,
        )
