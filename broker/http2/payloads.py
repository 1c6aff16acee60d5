"""What wraps a HEADERS or DATA frame's content (padding, priority), and header blocks that take several frames."""

from typing import Final

from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.frames import PADDED, PRIORITY, PRIORITY_SIZE, STREAM_ID_MASK, U32, Data
from tykpy.broker.http2.limits import Limits

DECODE_FACTOR: Final = 2
"""Blocks and lists up to this many times the limit are still decoded, so that the caller is told what was too large."""


def unpad(data: Data, at: int, end: int) -> tuple[int, int]:
    """Take the padding off a frame's payload `data[at:end]`; returns the bounds of what is left."""
    if at == end:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a padding length")
    padding = data[at]
    if padding >= end - at:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return at + 1, end - padding


def unwrap_headers(flags: int, stream_id: int, data: Data, at: int, end: int) -> tuple[int, int]:
    """Take padding and priority off a HEADERS frame's payload; returns the bounds of the block."""
    if flags & PADDED:
        at, end = unpad(data, at, end)
    if flags & PRIORITY:
        if end - at < PRIORITY_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        check_dependency(stream_id, data, at)
        at += PRIORITY_SIZE
    return at, end


def check_dependency(stream_id: int, data: Data, at: int) -> None:
    """Priorities are ignored, but for the one that cannot be."""
    if U32.unpack_from(data, at)[0] & STREAM_ID_MASK == stream_id:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} depends on itself")


class HeaderBlock:
    """A header block whose end has not come yet; bounded in bytes and in frames."""

    __slots__ = ("_frames", "_max_frames", "_max_size", "_parts", "_size", "flags", "stream_id")

    def __init__(self, stream_id: int, flags: int, limits: Limits) -> None:
        if not stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        self.stream_id = stream_id
        self.flags = flags
        self._max_frames = limits.max_header_frames
        self._max_size = limits.max_header_list * DECODE_FACTOR
        self._parts: list[bytes] = []
        self._frames = 0
        self._size = 0

    def add(self, part: bytes) -> None:
        """One more frame's worth; raises PeerError for a flood."""
        self._parts.append(part)
        self._frames += 1
        self._size += len(part)
        if self._frames > self._max_frames or self._size > self._max_size:
            message = f"header block of {self._size} bytes in {self._frames} frames without an end"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, message)

    def join(self) -> bytes:
        """The whole block."""
        return b"".join(self._parts)
