"""The HPACK table of one peer (RFC 7541, sections 2.3.2 and 4): what it has sent before and may refer to by number."""

from collections import deque
from typing import Final

from tykpy.broker.http2.hpack.validate import FIELD_OVERHEAD, Header

DEFAULT_SIZE: Final = 4096
"""Bytes that a peer may use until it is told otherwise (RFC 9113, section 6.5.2)."""


class DynamicTable:
    """Entries, the newest first."""

    __slots__ = ("_size", "entries", "limit", "size_allowed")

    def __init__(self) -> None:
        self.entries: deque[Header] = deque()
        self._size = 0
        self.limit = DEFAULT_SIZE
        """Bytes that we allow, from the moment on that the peer has acknowledged it."""
        self.size_allowed = DEFAULT_SIZE
        """Bytes that the peer itself has set; it says so before it uses a table of another size."""

    def add(self, name: bytes, value: bytes) -> None:
        """A new entry; older ones make room, and one larger than the table empties it."""
        self.entries.appendleft((name, value))
        self._size += len(name) + len(value) + FIELD_OVERHEAD
        self._evict()

    def resize(self, size: int) -> None:
        """The peer says how large its table is; raises ValueError where we do not allow that."""
        if size > self.limit:
            raise ValueError(f"a table of {size} bytes, {self.limit} are allowed")
        self.size_allowed = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self.size_allowed:
            name, value = self.entries.pop()
            self._size -= len(name) + len(value) + FIELD_OVERHEAD
