"""SETTINGS (RFC 9113, section 6.5): ours as a frame, the peer's checked."""

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.frames import MAX_FRAME_SIZE, FrameType, pack_frame, pack_window_update
from tykpy.broker.http2.limits import MAX_WINDOW, MIN_WINDOW, Limits

_ENTRY: Final = Struct(">HI")
ENTRY_SIZE: Final = _ENTRY.size
MAX_ENTRIES: Final = 32
"""Entries of one SETTINGS frame: many times the six that exist."""
_LARGEST_FRAME: Final = 2**24 - 1


class SettingId(IntEnum):
    """Identifiers we know; others are ignored."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class SettingChange(NamedTuple):
    """One entry of the peer's SETTINGS."""

    setting: int
    value: int


def pack_our_settings(limits: Limits) -> bytes:
    """Encode what a server says first: its SETTINGS, and the WINDOW_UPDATE that widens the connection's window."""
    entries = (
        (SettingId.MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
        (SettingId.INITIAL_WINDOW_SIZE, limits.stream_window),
        (SettingId.MAX_FRAME_SIZE, MAX_FRAME_SIZE),
        (SettingId.MAX_HEADER_LIST_SIZE, limits.max_header_list),
    )
    frame = pack_frame(FrameType.SETTINGS, 0, 0, b"".join(_ENTRY.pack(*entry) for entry in entries))
    if limits.connection_window > MIN_WINDOW:
        frame += pack_window_update(0, limits.connection_window - MIN_WINDOW)
    return frame


FORBID_TABLE: Final = pack_frame(FrameType.SETTINGS, 0, 0, _ENTRY.pack(SettingId.HEADER_TABLE_SIZE, 0))
"""After these a peer's header blocks use no table."""


def parse_settings(payload: bytes) -> list[SettingChange]:
    """Decode and check the peer's SETTINGS.

    Raises PeerError with the code that section 6.5.2 gives to each wrong value.
    """
    if len(payload) % ENTRY_SIZE:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    if len(payload) > MAX_ENTRIES * ENTRY_SIZE:
        raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_ENTRIES} settings in one frame")
    changes = [SettingChange(*entry) for entry in _ENTRY.iter_unpack(payload)]
    for change in changes:
        _check(change)
    return changes


def _check(change: SettingChange) -> None:
    setting, value = change
    if setting == SettingId.ENABLE_PUSH and value > 1:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}")
    if setting == SettingId.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
    if setting == SettingId.MAX_FRAME_SIZE and not MAX_FRAME_SIZE <= value <= _LARGEST_FRAME:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
