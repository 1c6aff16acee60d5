"""Bytes to frames: the preface, frames that arrive in pieces, and who takes the next one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.frames import (
    FRAME_HEAD,
    FRAME_HEAD_SIZE,
    MAX_FRAME_SIZE,
    PREFACE,
    STREAM_ID_MASK,
    Data,
    FrameType,
)

Handler = Callable[[int, int, Data, int, int], None]
"""Takes flags, stream id, and the frame's payload as `data[at:end]`."""

_TYPES: Final = 256


def _refuse(message: str) -> Handler:
    def refuse(flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, message)

    return refuse


def _ignore(flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
    """What comes after the connection's end."""


def _ignore_data(data: Data) -> None:
    """The same, before it is cut into frames."""


_CLOSED: Final = (_ignore,) * _TYPES


class FrameReader(ABC):
    """Hands each frame to the handler of its type.

    Which frames may come next is a table of handlers: SETTINGS before all else, CONTINUATION within a header block.
    """

    def __init__(self) -> None:
        self._partial = bytearray()
        self._begun = 0
        """Frames that came in more than one piece."""
        self._between = self._table(self._frame_handlers(), self._on_unknown)
        self._handlers = self._table({FrameType.SETTINGS: self._on_first_settings}, _refuse("no SETTINGS first"))
        self._feed: Callable[[Data], None] = self._feed_preface

    @abstractmethod
    def _frame_handlers(self) -> dict[int, Handler]:
        """Handlers by frame type."""

    @abstractmethod
    def _on_first_settings(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        """The first frame; calls `_expect_any`."""

    @abstractmethod
    def _on_unknown(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        """A frame of a type that nobody handles."""

    @staticmethod
    def _table(handlers: dict[int, Handler], default: Handler) -> tuple[Handler, ...]:
        return tuple(handlers.get(kind, default) for kind in range(_TYPES))

    def _expect_any(self) -> None:
        self._handlers = self._between

    def _expect_continuation(self, handler: Handler) -> None:
        self._begun += 1
        self._handlers = self._table({FrameType.CONTINUATION: handler}, _refuse("a frame within a header block"))

    @property
    def unfinished(self) -> int:
        """The number of the frame or header block whose end is still to come; 0: there is none."""
        return self._begun if self._partial or self._handlers is not self._between else 0

    def _stop_reading(self) -> None:
        """Ignore whatever comes, and let go of the handlers, which refer to us."""
        self._partial.clear()
        self._handlers = self._between = _CLOSED
        self._feed = _ignore_data

    def _feed_preface(self, data: Data) -> None:
        self._partial += data
        start = self._partial[: len(PREFACE)]
        if not PREFACE.startswith(start):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "not HTTP/2 with prior knowledge")
        if len(start) < len(PREFACE):
            return
        rest = bytes(self._partial[len(PREFACE) :])
        self._partial.clear()
        self._feed = self._feed_frames
        self._feed_frames(rest)

    def _feed_frames(self, data: Data) -> None:
        """The path of every byte: no object is made for a frame."""
        at = self._resume(data) if self._partial else 0
        size = len(data)
        unpack = FRAME_HEAD.unpack_from
        while size - at >= FRAME_HEAD_SIZE:
            high, low, kind, flags, stream_id = unpack(data, at)
            start = at + FRAME_HEAD_SIZE
            end = start + (high << 8 | low)
            if end > size:
                if end - start > MAX_FRAME_SIZE:
                    self._too_large(end - start)
                break
            if end - start > MAX_FRAME_SIZE:
                self._too_large(end - start)
            self._handlers[kind](flags, stream_id & STREAM_ID_MASK, data, start, end)
            at = end
        if at < size:
            self._begun += 1
            self._partial += data[at:]

    def _resume(self, data: Data) -> int:
        """Complete the frame that an earlier call began; returns how much of `data` it took."""
        partial = self._partial
        taken = 0
        if len(partial) < FRAME_HEAD_SIZE:
            taken = FRAME_HEAD_SIZE - len(partial)
            partial += data[:taken]
            if len(partial) < FRAME_HEAD_SIZE:
                return len(data)
        high, low, kind, flags, stream_id = FRAME_HEAD.unpack_from(partial)
        length: int = high << 8 | low
        if length > MAX_FRAME_SIZE:
            self._too_large(length)
        missing = FRAME_HEAD_SIZE + length - len(partial)
        partial += data[taken : taken + missing]
        if len(partial) < FRAME_HEAD_SIZE + length:
            return len(data)
        frame = bytes(partial)
        partial.clear()
        self._handlers[kind](flags, stream_id & STREAM_ID_MASK, frame, FRAME_HEAD_SIZE, len(frame))
        return taken + missing

    def _too_large(self, length: int) -> None:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes, limit {MAX_FRAME_SIZE}")
