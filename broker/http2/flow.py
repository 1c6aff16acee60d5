"""Receive windows (RFC 9113, section 5.2): what the peer may still send, and when to tell it about more."""

from tykpy.broker.http2.errors import ErrorCode, PeerError


class ReceiveWindow:
    """A connection's receive window: credit goes back in one batch when half of it is used.

    Bytes count as consumed on arrival: what is buffered has a limit of its own, and holding credit back for unfinished
    messages would let a few of them keep all others from ever finishing.
    """

    __slots__ = ("_size", "left", "low")

    def __init__(self, size: int) -> None:
        self._size = size
        self.left = size
        """Bytes that the peer may still send; the DATA of each frame, padding included, is taken off."""
        self.low = size - size // 2
        """Where `left` is below it, `renew` is due."""

    def renew(self) -> int:
        """The increment to announce now; raises PeerError where the peer sent more than it might."""
        if self.left < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        increment = self._size - self.left
        self.left = self._size
        return increment
