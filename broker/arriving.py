"""What the broker keeps of requests that are not complete, on all connections of both front ends together.

The router bounds complete ones in the same way (`RouterOptions.queue_bytes`). The two are counted apart, so that peers
who only begin big requests keep nobody else's from being served.
"""

from typing import Final

HELD_BYTES: Final = 1024 * 1024 * 1024
"""Bytes, of complete requests and again of unfinished ones: a thousand calls of 1 MiB, all that one connection may have
at a time, and less than a machine that takes such bodies has."""


class Arriving:
    """One count for all connections; each adds and takes off what is its own."""

    __slots__ = ("bytes", "limit", "refused")

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self.bytes = 0
        self.limit = limit
        self.refused = 0
        """Requests that found no room."""

    def change(self, size: int, own: int) -> bool:
        """Count `size` bytes more, or less, for a connection that has `own` with them.

        False: that is too much. It never is where nobody else has any.
        """
        self.bytes += size
        if size <= 0 or self.bytes <= self.limit or self.bytes == own:
            return True
        self.refused += 1
        return False

    @property
    def full(self) -> str:
        """Why there is no room, for the peer."""
        return f"unfinished requests of {self.bytes} bytes on all connections (--queue-bytes)"
