"""What time does to a connection: it is told to go, or given up, when nothing moves for too long.

Looked at once in a while for all connections, so that calls need no timers.
"""

from collections.abc import Callable
from typing import Final

from tykpy.broker.http2.connection import Connection
from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.limits import Limits
from tykpy.broker.http2.stream import Stream

SWEEP_INTERVAL: Final = 5.0
"""Seconds between two sweeps: how much later than its limit a connection may be given up."""


class ConnectionAge:
    """What the sweeps remember of one connection; times are in seconds of one clock."""

    __slots__ = (
        "_begun",
        "_begun_at",
        "_connection",
        "_drained_at",
        "_expire",
        "_last_stream_id",
        "_limits",
        "_moved",
        "_quiet_at",
        "_settings_at",
        "_settings_awaited",
        "_stuck_at",
    )

    def __init__(self, connection: Connection, limits: Limits, expire: Callable[[Stream], None], now: float) -> None:
        self._connection = connection
        self._limits = limits
        self._expire = expire
        self._settings_awaited = connection.settings_awaited
        self._settings_at = now
        """Since when the peer is to acknowledge these of our SETTINGS."""
        self._quiet_at = now
        """Since when there is no call."""
        self._last_stream_id = 0
        self._begun = 0
        self._begun_at = now
        """Since when this frame or header block is not complete."""
        self._stuck_at: float | None = None
        """Since when the peer takes nothing of what waits for it."""
        self._moved = 0
        self._drained_at: float | None = None
        """Since when the peer has been asked to go."""

    def sweep(self, now: float, unsent: int) -> bool:
        """Act on what took too long; `unsent` is what the socket still has to send, in bytes.

        Returns False where the peer reads nothing, so that there is no use in telling it anything.
        """
        connection = self._connection
        if connection.closed:
            return True
        self._sweep_settings(now)
        self._sweep_pieces(now)
        self._sweep_requests()
        self._sweep_idle(now)
        self._sweep_drain(now)
        return not self._is_stuck(now, unsent)

    def _sweep_settings(self, now: float) -> None:
        awaited = self._connection.settings_awaited
        if awaited != self._settings_awaited:
            self._settings_awaited, self._settings_at = awaited, now
        elif awaited and now - self._settings_at > self._limits.handshake_timeout:
            message = "no preface and SETTINGS acknowledgement in time"
            self._connection.fail(PeerError(ErrorCode.SETTINGS_TIMEOUT, message))

    def _sweep_pieces(self, now: float) -> None:
        begun = self._connection.unfinished
        if begun != self._begun:
            self._begun, self._begun_at = begun, now
        elif begun and now - self._begun_at > self._limits.request_timeout:
            message = "the end of a frame or header block did not come in time"
            self._connection.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, message))

    def _sweep_requests(self) -> None:
        most = self._limits.request_timeout / SWEEP_INTERVAL
        for stream in list(self._connection.streams.values()):
            if stream.request_ended:
                continue
            stream.sweeps += 1
            if stream.received - stream.swept >= self._limits.request_progress:
                stream.sweeps, stream.swept = 0, stream.received
            elif stream.sweeps > most:
                self._expire(stream)

    def _sweep_idle(self, now: float) -> None:
        connection = self._connection
        if connection.streams or connection.last_stream_id != self._last_stream_id:
            self._last_stream_id = connection.last_stream_id
            self._quiet_at = now
        if now - self._quiet_at > self._limits.idle_timeout:
            connection.drain()

    def _sweep_drain(self, now: float) -> None:
        """A peer that does not acknowledge it has still been asked."""
        if not self._connection.draining:
            return
        if self._drained_at is None:
            self._drained_at = now
        if now - self._drained_at > self._limits.handshake_timeout:
            self._connection.finish_drain()

    def _is_stuck(self, now: float, unsent: int) -> bool:
        sender = self._connection.sender
        moved = sender.sent - unsent
        if not (sender.waiting or sender.paused) or moved != self._moved:
            self._moved = moved
            self._stuck_at = None
        elif self._stuck_at is None:
            self._stuck_at = now
        return self._stuck_at is not None and now - self._stuck_at > self._limits.write_timeout
