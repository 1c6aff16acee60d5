"""Every offset and code of the shared segments, drawn once; no other module knows a byte position.

All numbers are native little-endian u64 unless said otherwise. Counters are read and written as one aligned
8-byte load or store (`memoryview.cast("Q")[i]`): formats such as ">Q" and slices are copied byte by byte.
"""

# One segment. A is written by the broker, B by the worker; the other side maps it read-only.
#
#   0x0000  +------------------------------------------------------------------------+
#           | magic | version | role | epoch | slot | generation | data offset       |  static, CRC-checked
#           | capacity | max record | max message | CRC-32 of the ten before         |  when a segment is mapped
#   0x0080  +------------------------------------------------------------------------+
#           | tail: bytes produced here                                              |  the only publication point
#   0x0100  +------------------------------------------------------------------------+
#           | head: bytes consumed from the peer's segment                           |
#   0x0180  +------------------------------------------------------------------------+
#           | storage state | storage errors | hook threads started | signalled          |  B
#           | log records lost                                                       |  B
#   0x0200  +------------------------------------------------------------------------+
#           | active_seq[96]: what runs in each execution slot, 0 for nothing        |  B
#   0x0500  +------------------------------------------------------------------------+
#           | active_start_ns[96]: CLOCK_MONOTONIC                                   |  B
#   0x0800  +------------------------------------------------------------------------+
#           | storage times[2][23], store and fetch: sum in ns, calls per bucket     |  B
#   0x0970  +------------------------------------------------------------------------+
#           | unused                                                                 |
#   0x1000  +------------------------------------------------------------------------+
#           | records: `capacity` bytes, a power of two                              |
#           +------------------------------------------------------------------------+
#
# One record, aligned to 32 bytes, so that a header always fits before the end of the ring. Positions count bytes
# since the segment's birth and never wrap; the place in the ring is `position & (capacity - 1)`.
#
#    0              4      5       6            8           16           24             28          32
#   +--------------+------+-------+------------+-----------+------------+--------------+-----------+---------
#   | length (u32) | type | flags | zero (u16) | seq (u64) | aux (u64)  | generation   | CRC-32    | payload
#   |              | (u8) | (u8)  |            |           |            | (u32)        | (u32)     | ...
#   +--------------+------+-------+------------+-----------+------------+--------------+-----------+---------
#
#   aux: REQ, SPILL_REQ: absolute deadline (CLOCK_MONOTONIC, ns, 0: none); RESP, ERR, SPILL_RESP: handler time in ns in
#        the lower 48 bits (78 hours), in the upper 16 the share of it that the hook waited (1: none of it, 65535: all
#        of it, 0: not measured).
#   flags: FLAG_ERROR; on REQ and SPILL_REQ FLAG_MEASURE, FLAG_SHARES, FLAG_RETRY and FLAG_RECORD.
#   CRC: over (position / 32, payload, bytes 0-27): no stale lap, torn or misplaced record validates. The header comes
#        last so that a reader runs over its 32 bytes as they are and compares with a constant.
#   PAD: fills the ring up to its end when the next record does not fit there; its payload is not written.
#   SPILL_*: the payload is the body's size (u64), its offset in bulk memory (u64), and the frame without the body; with
#        OWN_MEMORY for an offset the body lies in memory of its own, and without a frame it is all of the frame. See
#        `bodies/announce.py`.

import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple

from tykpy.ipc.errors import SegmentError

MAGIC: Final = int.from_bytes(b"TYKYRNG1", "little")
VERSION: Final = 5

WORD: Final = 8
"""Bytes per header word."""
HEADER_SIZE: Final = 0x1000
"""Bytes before the first record: one page."""

TAIL: Final = 0x080 // WORD
HEAD: Final = 0x100 // WORD
STORAGE_STATE: Final = 0x180 // WORD
STORAGE_ERRORS: Final = 0x188 // WORD
THREADS: Final = 0x190 // WORD
SIGNALLED: Final = 0x198 // WORD
LOG_LOST: Final = 0x1A0 // WORD
ACTIVE_SEQ: Final = 0x200 // WORD
ACTIVE_START: Final = 0x500 // WORD
STORAGE_TIMES: Final = 0x800 // WORD

STORAGE_TIMES_EACH: Final = 23
"""Words of the times of one storage operation."""
EXECUTION_SLOTS: Final = 96
"""Dispatches that one worker may execute at a time."""

ALIGNMENT: Final = 32
"""Records start at multiples of this many bytes; as long as a record's header."""
RECORD_HEADER: Final = struct.Struct("<IIQQII")
"""Type and flags are read and written as one number: the type in the low byte, the flags in the next."""
RECORD_CHECKED: Final = struct.Struct("<IIQQI")
"""The record's header without its CRC: what the CRC covers."""
SPILL_PLACE: Final = struct.Struct("<QQ")
"""Start of a SPILL record's payload: size and offset of the body."""
OWN_MEMORY: Final = 2**64 - 1
"""Offset that stands for memory of its own."""
CRC_RESIDUE: Final = 0x2144DF1C
"""The CRC-32 of anything that ends with its own CRC-32."""
POSITION_SHIFT: Final = 5
"""`position >> POSITION_SHIFT` seeds a record's CRC; the shift drops the bits that alignment keeps at zero."""

_STATIC: Final = struct.Struct("<10Q")
_STATIC_CRC: Final = struct.Struct("<Q")
STATIC_SIZE: Final = _STATIC.size + _STATIC_CRC.size


class Role(IntEnum):
    """Direction of a segment's records."""

    A = 1
    """Broker to worker."""
    B = 2
    """Worker to broker."""


class RecordType(IntEnum):
    """Type of a record."""

    REQ = 1
    RESP = 2
    PAD = 3
    SPILL_REQ = 4
    SPILL_RESP = 5
    ERR = 7


FLAG_ERROR: Final = 1 << 8
"""On SPILL_RESP: the message is an error frame (small ones are of type ERR)."""
FLAG_MEASURE: Final = 1 << 9
"""On a request: say in the answer how much of its time the hook waited."""
FLAG_SHARES: Final = 1 << 10
"""On a request: another thread of the worker claims the next request while this one runs."""
FLAG_RETRY: Final = 1 << 11
"""On a request: a worker died while it ran this one before."""
FLAG_RECORD: Final = 1 << 12
"""On a request: add to the answer what the call read, see `ipc.reads`."""
REQUEST_FLAGS: Final = FLAG_MEASURE | FLAG_SHARES | FLAG_RETRY | FLAG_RECORD

WAITING_SHIFT: Final = 48
"""Where the waiting share begins in an answer's aux."""
MAX_HANDLER_NS: Final = (1 << WAITING_SHIFT) - 1
MAX_WAITING: Final = 65_534
"""The share of a hook that did nothing but wait; it is sent plus one."""


class StorageState(IntEnum):
    """State of the storage of plugins' values, in B."""

    UNUSED = 0
    WORKS = 1
    FAILS = 2
    """The last use of it failed."""


class StorageOperation(IntEnum):
    """Operations whose times are kept, in B."""

    STORE = 0
    FETCH = 1


class Identity(NamedTuple):
    """The static block: whose segment this is, and its sizes in bytes."""

    role: int
    epoch: int
    slot: int
    generation: int
    capacity: int
    max_record: int
    max_message: int

    @property
    def max_payload(self) -> int:
        """Largest message that goes into a record."""
        return self.max_record - RECORD_HEADER.size

    def pack(self) -> bytes:
        """Return the first `STATIC_SIZE` bytes of a segment."""
        role, epoch, slot, generation, *sizes = self
        block = _STATIC.pack(MAGIC, VERSION, role, epoch, slot, generation, HEADER_SIZE, *sizes)
        return block + _STATIC_CRC.pack(zlib.crc32(block))

    @classmethod
    def unpack(cls, data: bytes) -> "Identity":
        """Read and check the static block.

        Raises SegmentError if it is damaged or of another version.
        """
        if len(data) != STATIC_SIZE:
            raise SegmentError(f"the segment is cut off: {len(data)} of {STATIC_SIZE} header bytes")
        block = data[: _STATIC.size]
        (crc,) = _STATIC_CRC.unpack_from(data, _STATIC.size)
        if crc != zlib.crc32(block):
            raise SegmentError(f"the segment's header is damaged: CRC {crc:#x}, expected {zlib.crc32(block):#x}")
        magic, version, role, epoch, slot, generation, data_offset, *sizes = _STATIC.unpack(block)
        if (magic, version, data_offset) != (MAGIC, VERSION, HEADER_SIZE):
            raise SegmentError(f"not a segment of layout {VERSION}: magic {magic:#x}, version {version}")
        return cls(role, epoch, slot, generation, *sizes)


def record_size(length: int) -> int:
    """Return how many bytes a record with a payload of `length` bytes takes in the ring."""
    return (length + RECORD_HEADER.size + ALIGNMENT - 1) & -ALIGNMENT
