"""Receive windows (RFC 9113, section 5.2): what the peer may still send, and when to tell it about more."""

from broker.http2.errors import ErrorCode, PeerError


class ReceiveWindow:
    """A connection's receive window: credit goes back in one batch when half of it is used.

    Bytes count as consumed on arrival: what is buffered has a limit of its own, and holding credit back for unfinished
    messages would let a few of them keep all others from ever finishing.
    """

    __slots__ = ("_batch", "_consumed", "left")

    def __init__(self, size: int) -> None:
        self.left = size
        self._batch = size // 2
        self._consumed = 0

    def take(self, length: int) -> int:
        """Account for a DATA frame's payload, padding included; returns the increment to announce now, or 0."""
        self.left -= length
        if self.left < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        self._consumed += length
        if self._consumed <= self._batch:
            return 0
        increment, self._consumed = self._consumed, 0
        self.left += increment
        return increment
