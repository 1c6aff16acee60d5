"""A server's end of one HTTP/2 connection (RFC 9113): its life, and the frames that are about the connection itself.

Bytes become frames in `reader.py`, frames requests in `requests.py`, answers frames in `sender.py`.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

from tykpy.broker.http2.errors import ErrorCode, Http2Error, PeerError, StreamError
from tykpy.broker.http2.frames import (
    ACK,
    GOAWAY_MIN_SIZE,
    PING_SIZE,
    PRIORITY_SIZE,
    STREAM_ID_MASK,
    U32,
    Data,
    FrameType,
    pack_frame,
    pack_goaway,
)
from tykpy.broker.http2.hpack.head_cache import HeadCache
from tykpy.broker.http2.limits import Limits
from tykpy.broker.http2.payloads import check_dependency
from tykpy.broker.http2.reader import Handler
from tykpy.broker.http2.requests import RequestReader
from tykpy.broker.http2.settings import FORBID_TABLE, SettingId, pack_our_settings, parse_settings
from tykpy.broker.http2.stream import Application

_DRAIN_PING: Final = b"tykdrain"
"""Its acknowledgement says that the peer has read the GOAWAY before it."""
_FORBIDS_TABLE: Final = 2
"""The second of our SETTINGS says that header blocks may use no table; the first is the handshake's."""
_SETTINGS_COST: Final = 10
"""Tokens: a change of the initial window touches every stream."""


def _at_once(acknowledge: Callable[[], None]) -> None:
    acknowledge()


class Connection(RequestReader):
    """One connection: feed `receive`; write what `take_output` gives after that, and whenever `wake` was called."""

    def __init__(
        self,
        application: Application,
        cache: HeadCache,
        limits: Limits,
        wake: Callable[[], None],
        clock: Callable[[], float] = monotonic,
        delay: Callable[[Callable[[], None]], object] = _at_once,
    ) -> None:
        """`delay` calls back when the PINGs that have come are to be acknowledged."""
        super().__init__(application, cache, limits, wake, clock)
        self._delay = delay
        self._pings: list[bytes] = []
        """Payloads of PINGs that are not acknowledged yet."""
        self._max_output = max(limits.max_output, limits.max_message)
        self._settings_sent = 1
        self._settings_acknowledged = 0
        self.draining = False
        """We have asked the peer to go."""
        self.fault: Http2Error | None = None
        """Why the connection ended, if it ended badly."""
        self.closed = False
        self.sender.write(pack_our_settings(limits))

    def _frame_handlers(self) -> dict[int, Handler]:
        return {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_rst_stream,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_misplaced,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_misplaced,
        }

    # What the owner calls

    def receive(self, data: Data) -> None:
        """Act on what the peer sent. A fault becomes a GOAWAY in the output, and `closed`."""
        if self.closed:
            return
        try:
            self._feed(data)
        except PeerError as fault:
            self.fail(fault)

    def take_output(self) -> list[bytes | memoryview]:
        """All frames to write now; call again after that, until it is empty."""
        sender = self.sender
        if sender.waiting:
            sender.pump()
            if sender.held > self._max_output and not self.closed:
                message = f"{sender.held} bytes wait for a peer that does not read"
                self.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, message))
        return sender.take()

    def fail(self, fault: Http2Error) -> None:
        """End the connection with a GOAWAY that says why."""
        if self.closed:
            return
        self.fault = fault
        self.sender.write(pack_goaway(self.last_stream_id, fault.code, fault.message))
        self.close()

    def close(self) -> None:
        """Forget everything: the peer is gone, or nothing more is to be said to it."""
        self.closed = True
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self.sender.forget(stream)
            self._application.cancelled(stream)
        # What refers to us is let go of: else memory comes back when the garbage collector runs, and that is never
        # where nothing happens any more.
        self._delay = _at_once
        self._pings.clear()
        self._stop_reading()
        self._headers.close()
        self.sender.let_go()

    def drain(self) -> None:
        """Ask the peer to go: calls that are under way, or on their way, are still answered (section 6.8)."""
        if self.closed or self.draining or self.going_away:
            return
        self.draining = True
        self.sender.write(pack_goaway(STREAM_ID_MASK, ErrorCode.NO_ERROR, "draining"))
        self.sender.write(pack_frame(FrameType.PING, 0, 0, _DRAIN_PING))

    def finish_drain(self) -> None:
        """The peer has had time to hear of it: refuse what comes from now on."""
        if self.closed or self.going_away:
            return
        self.going_away = True
        self.sender.write(pack_goaway(self.last_stream_id, ErrorCode.NO_ERROR, "draining"))

    @property
    def done(self) -> bool:
        """Going away, and nothing is left to do."""
        return self.closed or (self.going_away and not self.streams)

    @property
    def settings_awaited(self) -> int:
        """Which of our SETTINGS, counted from 1, the peer is to acknowledge next; 0: none."""
        return self._settings_acknowledged + 1 if self._settings_acknowledged < self._settings_sent else 0

    # The frames that are about the connection

    def _on_priority(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if not stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if end - at != PRIORITY_SIZE:
            self._fail_stream(StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes"))
            return
        check_dependency(stream_id, data, at)

    def _on_settings(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend(_SETTINGS_COST)
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        if not flags & ACK:
            self._apply_settings(bytes(data[at:end]))
        elif end != at:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
        elif self.settings_awaited:
            self._settings_acknowledged += 1
            if self._settings_acknowledged == _FORBIDS_TABLE:
                self._headers.table_forbidden()

    def _forbid_table(self) -> None:
        self._settings_sent = _FORBIDS_TABLE
        self.sender.write(FORBID_TABLE)

    def _apply_settings(self, payload: bytes) -> None:
        for setting, value in parse_settings(payload):
            if setting == SettingId.INITIAL_WINDOW_SIZE:
                self.sender.resize_streams(value, list(self.streams.values()))
            elif setting == SettingId.MAX_FRAME_SIZE:
                self.sender.max_frame = value
        # Before what the new values allow: DATA that overtook the acknowledgement would break the old ones.
        self.sender.write(pack_frame(FrameType.SETTINGS, ACK, 0))
        self.sender.pump()

    def _on_first_settings(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if flags & ACK:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS acknowledged before any were sent")
        self._expect_any()
        self._on_settings(flags, stream_id, data, at, end)

    def _on_misplaced(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client, or CONTINUATION without HEADERS")

    def _on_ping(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if end - at != PING_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        if not flags & ACK:
            self._pings.append(bytes(data[at:end]))
            if len(self._pings) == 1:
                self._delay(self._acknowledge_pings)
        elif data[at:end] == _DRAIN_PING:
            self.finish_drain()

    def _acknowledge_pings(self) -> None:
        for payload in self._pings:
            self.sender.write(pack_frame(FrameType.PING, ACK, 0, payload))
        self._pings.clear()

    def _on_goaway(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        if end - at < GOAWAY_MIN_SIZE:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._spend()
        self.finish_drain()

    def _on_window_update(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
        if end - at != U32.size:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment = U32.unpack_from(data, at)[0] & STREAM_ID_MASK
        if not stream_id:
            if not increment:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self.sender.widen(increment)
            return
        self._check_not_idle(stream_id, "WINDOW_UPDATE")
        try:
            self._widen_stream(stream_id, increment)
        except StreamError as fault:
            self._fail_stream(fault)

    def _widen_stream(self, stream_id: int, increment: int) -> None:
        if not increment:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.sender.widen_stream(stream, increment)

    def _on_unknown(self, flags: int, stream_id: int, data: Data, at: int, end: int) -> None:
        self._spend()
