"""HTTP/2 frames on the wire (RFC 9113, sections 4 and 6).

0        3     4      5           9
+--------+-----+------+-----------+---------
| length | type| flags| stream id | payload
+--------+-----+------+-----------+---------
  24 bit    8     8      R + 31 bit
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, PeerError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD: Final = Struct(">HBBBI")
"""Length (upper 16 bits, lower 8), type, flags, stream id: no struct code for 24 bits."""
FRAME_HEAD_SIZE: Final = FRAME_HEAD.size
STREAM_ID_MASK: Final = 0x7FFF_FFFF
MAX_FRAME_SIZE: Final = 16_384
"""Largest payload we accept, in bytes: the protocol's minimum, and the most that grpc-go ever sends."""

Data = bytes | memoryview
"""Bytes of a peer. A view is of a buffer that the next read overwrites: copy what is needed longer."""

U32: Final = Struct(">I")
PRIORITY_SIZE: Final = 5
PING_SIZE: Final = 8
GOAWAY_MIN_SIZE: Final = 8
MAX_DEBUG_BYTES: Final = 200
"""Bytes of text in a GOAWAY."""


class FrameType(IntEnum):
    """Frame types we know; others are ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Frame flags; ACK and END_STREAM share a bit, on different types."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


# Plain ints for the paths every frame takes: operators on enum members are ten times as slow.
END_STREAM: Final = int(Flag.END_STREAM)
ACK: Final = int(Flag.ACK)
END_HEADERS: Final = int(Flag.END_HEADERS)
PADDED: Final = int(Flag.PADDED)
PRIORITY: Final = int(Flag.PRIORITY)
DATA: Final = int(FrameType.DATA)
HEADERS: Final = int(FrameType.HEADERS)


def pack_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Encode a frame's head."""
    return FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def pack_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Encode a whole frame."""
    return pack_head(len(payload), kind, flags, stream_id) + payload


def pack_headers(stream_id: int, block: bytes, flags: int, max_frame: int) -> bytes:
    """Encode a header block as HEADERS, and CONTINUATION where it is larger than the peer's frames may be."""
    if len(block) <= max_frame:
        return pack_frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + max_frame] for at in range(0, len(block), max_frame)]
    frames = [pack_frame(HEADERS, flags, stream_id, parts[0])]
    frames += [pack_frame(FrameType.CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    frames.append(pack_frame(FrameType.CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(frames)


def pack_goaway(last_stream_id: int, code: ErrorCode, message: str = "") -> bytes:
    """Encode a GOAWAY with its reason as text."""
    debug = message.encode("utf-8", "replace")[:MAX_DEBUG_BYTES]
    return pack_frame(FrameType.GOAWAY, 0, 0, U32.pack(last_stream_id) + U32.pack(code) + debug)


def pack_reset(stream_id: int, code: ErrorCode) -> bytes:
    """Encode a RST_STREAM."""
    return pack_frame(FrameType.RST_STREAM, 0, stream_id, U32.pack(code))


def pack_window_update(stream_id: int, increment: int) -> bytes:
    """Encode a WINDOW_UPDATE; stream 0 is the connection."""
    return pack_frame(FrameType.WINDOW_UPDATE, 0, stream_id, U32.pack(increment))


def unpad(data: Data, at: int, end: int) -> tuple[int, int]:
    """Return the bounds of a payload `data[at:end]` without its padding; raises PeerError."""
    if at == end:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a padding length")
    padding = data[at]
    if padding >= end - at:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return at + 1, end - padding


def unwrap_headers(flags: int, stream_id: int, data: Data, at: int, end: int) -> tuple[int, int]:
    """Return the bounds of the header block in a HEADERS payload, without padding and priority; raises PeerError."""
    if flags & PADDED:
        at, end = unpad(data, at, end)
    if flags & PRIORITY:
        if end - at < PRIORITY_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        check_dependency(stream_id, data, at)
        at += PRIORITY_SIZE
    return at, end


def check_dependency(stream_id: int, data: Data, at: int) -> None:
    """Refuse a stream that depends on itself; every other priority is ignored."""
    if U32.unpack_from(data, at)[0] & STREAM_ID_MASK == stream_id:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} depends on itself")
