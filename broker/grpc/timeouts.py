"""The timeouts of one gRPC connection, checked by the periodic sweep."""

import random
from collections.abc import Callable
from typing import Final

from tykpy.broker.connections import RequestProgress, Unchanged
from tykpy.broker.http2.connection import Connection
from tykpy.broker.http2.errors import ErrorCode, PeerError
from tykpy.broker.http2.limits import Limits
from tykpy.broker.http2.stream import Stream

AGE_JITTER: Final = 0.1
"""Connections that were opened together are told to go away up to this part of their age earlier or later."""


class ConnectionTimeouts:
    """Ends a connection or a request when nothing has moved for too long, and a connection at its maximum age."""

    __slots__ = ("_connection", "_drain", "_end", "_expire", "_idle", "_limits", "_output", "_pieces", "_settings")

    def __init__(self, connection: Connection, limits: Limits, expire: Callable[[Stream], None], now: float) -> None:
        """`expire` fails a request whose rest does not come in time."""
        self._connection = connection
        self._limits = limits
        self._expire = expire
        self._settings = Unchanged(connection.settings_awaited, now)
        self._pieces = Unchanged(connection.unfinished, now)
        self._idle = Unchanged((0, None), now)
        self._drain = Unchanged(connection.draining, now)
        self._output = Unchanged(None, now)
        self._end = now + limits.max_age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)

    def check(self, now: float, unsent: int) -> bool:
        """Act on every timeout that has passed; `unsent` is the size of the socket's output buffer in bytes.

        Returns False if the peer reads nothing, so that a GOAWAY would not reach it.
        """
        connection, limits = self._connection, self._limits
        if connection.closed:
            return True
        awaited, unfinished = connection.settings_awaited, connection.unfinished
        if self._settings.seconds(awaited, now) > limits.handshake_timeout and awaited:
            message = "no preface and SETTINGS acknowledgement in time"
            connection.fail(PeerError(ErrorCode.SETTINGS_TIMEOUT, message))
        if self._pieces.seconds(unfinished, now) > limits.request_timeout and unfinished:
            message = "the end of a frame or header block did not come in time"
            connection.fail(PeerError(ErrorCode.ENHANCE_YOUR_CALM, message))
        self._check_requests()
        calls = (connection.last_stream_id, now if connection.streams else None)
        if self._idle.seconds(calls, now) > limits.idle_timeout or now > self._end:
            connection.drain()
        # A peer that does not acknowledge the GOAWAY has still been asked to go.
        if self._drain.seconds(connection.draining, now) > limits.handshake_timeout and connection.draining:
            connection.finish_drain()
        sender = connection.sender
        moved = sender.sent - unsent if sender.waiting or sender.paused else now
        return self._output.seconds(moved, now) <= limits.write_timeout

    def _check_requests(self) -> None:
        limits = self._limits
        for stream in list(self._connection.streams.values()):
            if stream.request_ended:
                continue
            progress = stream.progress = stream.progress or RequestProgress()
            if progress.is_too_slow(stream.received, limits.request_timeout, limits.request_progress):
                self._expire(stream)
