"""What the broker keeps of requests that are not complete, on all connections of both front ends together.

There is no limit for each connection: a gateway has one, and all of its uploads on it.

The router bounds complete ones in the same way (`RouterOptions.queue_bytes`). The two are counted apart, so that peers
who only begin big requests keep nobody else's from being served.
"""

from typing import Final

HELD_BYTES: Final = 1024 * 1024 * 1024
"""Bytes, of complete requests and again of unfinished ones: a thousand calls of 1 MiB, all that one connection may have
at a time, and less than a machine that takes such bodies has."""


class Arriving:
    """The total of all connections."""

    __slots__ = ("bytes", "limit", "refused")

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self.bytes = 0
        self.limit = limit
        self.refused = 0
        """Requests that found no room."""

    def resize(self, size: int) -> None:
        """Set the total; called by the shares only."""
        self.bytes = size

    def admits(self, share: "Share") -> bool:
        """Tell whether a share may stay as large as it is now, and count it as refused if not.

        A share that is alone always may: one message has a limit of its own.
        """
        if self.bytes <= self.limit or self.bytes == share.bytes:
            return True
        self.refused += 1
        return False

    @property
    def full(self) -> str:
        """Why there is no room, for the peer."""
        return f"unfinished requests of {self.bytes} bytes on all connections (--queue-bytes)"


class Share:
    """The part of the total that one owner keeps: a request, or a connection that takes one request at a time.

    An owner states its size and never a difference, so a share can be released any number of times.
    """

    __slots__ = ("_total", "bytes")

    def __init__(self, total: Arriving) -> None:
        self._total = total
        self.bytes = 0

    def resize(self, size: int) -> None:
        """Keep `size` bytes from now on."""
        change = size - self.bytes
        if change:
            self.bytes = size
            self._total.resize(self._total.bytes + change)

    def release(self) -> None:
        """Keep nothing."""
        self.resize(0)
