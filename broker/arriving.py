"""A limit on the bytes of unfinished requests, over all connections of both front ends.

There is no limit per connection: a gateway has a single one, with all of its uploads on it.

The router limits complete requests in the same way (`RouterOptions.queue_bytes`). The two are counted separately, so
that peers that only begin large requests do not keep others from being served.
"""

from typing import Final

HELD_BYTES: Final = 1024 * 1024 * 1024
"""Limit in bytes, for complete requests and again for unfinished ones: a thousand calls of 1 MiB, as many as one
connection may have at a time, and less than the memory of a machine that takes such bodies."""


class Arriving:
    """The bytes of unfinished requests of all connections."""

    __slots__ = ("bytes", "limit", "refused")

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self.bytes = 0
        self.limit = limit
        self.refused = 0
        """Requests refused because there was no room."""

    def admits(self, share: "Share") -> bool:
        """Return whether a share may stay as large as it is, and count it as refused if not.

        A single share always may: one message has a limit of its own.
        """
        if self.bytes <= self.limit or self.bytes == share.bytes:
            return True
        self.refused += 1
        return False

    @property
    def full(self) -> str:
        """The reason for a refusal, for the peer."""
        return f"unfinished requests of {self.bytes} bytes on all connections (--queue-bytes)"


class Share:
    """The bytes of one owner: a request, or a connection that takes one request at a time.

    An owner sets its size, never a difference, so a share can be released any number of times.
    """

    __slots__ = ("_total", "bytes")

    def __init__(self, total: Arriving) -> None:
        self._total = total
        self.bytes = 0

    def resize(self, size: int) -> None:
        """Set the size in bytes."""
        change = size - self.bytes
        if change:
            self.bytes = size
            self._total.bytes += change

    def release(self) -> None:
        """Set the size to 0."""
        self.resize(0)
