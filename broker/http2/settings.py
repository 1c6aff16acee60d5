"""SETTINGS (RFC 9113, section 6.5): encode ours, parse and check the peer's."""

from enum import IntEnum
from struct import Struct
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.frames import MAX_FRAME_SIZE, FrameType, pack_frame, pack_window_update
from tykpy.broker.http2.limits import MAX_WINDOW, MIN_WINDOW, Limits

_ENTRY: Final = Struct(">HI")
ENTRY_SIZE: Final = _ENTRY.size
MAX_ENTRIES: Final = 32
"""Most entries of one SETTINGS frame; only six settings exist."""
_LARGEST_FRAME: Final = 2**24 - 1


class SettingId(IntEnum):
    """The identifiers we know; others are ignored."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def pack_settings(*entries: tuple[SettingId, int]) -> bytes:
    """Encode a SETTINGS frame."""
    return pack_frame(FrameType.SETTINGS, 0, 0, b"".join(_ENTRY.pack(*entry) for entry in entries))


def pack_our_settings(limits: Limits) -> bytes:
    """Encode the first frames of a server: SETTINGS, and the WINDOW_UPDATE that widens the connection's window."""
    frame = pack_settings(
        (SettingId.MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
        (SettingId.INITIAL_WINDOW_SIZE, limits.stream_window),
        (SettingId.MAX_FRAME_SIZE, MAX_FRAME_SIZE),
        (SettingId.MAX_HEADER_LIST_SIZE, limits.max_header_list),
    )
    if limits.connection_window > MIN_WINDOW:
        frame += pack_window_update(0, limits.connection_window - MIN_WINDOW)
    return frame


FORBID_TABLE: Final = pack_settings((SettingId.HEADER_TABLE_SIZE, 0))
"""SETTINGS that forbid the peer to use an HPACK table."""


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Parse the peer's SETTINGS into pairs of identifier and value.

    Raises PeerError with the code that section 6.5.2 assigns to each invalid value.
    """
    if len(payload) % ENTRY_SIZE:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    if len(payload) > MAX_ENTRIES * ENTRY_SIZE:
        raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_ENTRIES} settings in one frame")
    entries: list[tuple[int, int]] = list(_ENTRY.iter_unpack(payload))
    for setting, value in entries:
        _check(setting, value)
    return entries


def _check(setting: int, value: int) -> None:
    if setting == SettingId.ENABLE_PUSH and value > 1:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}")
    if setting == SettingId.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
    if setting == SettingId.MAX_FRAME_SIZE and not MAX_FRAME_SIZE <= value <= _LARGEST_FRAME:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
