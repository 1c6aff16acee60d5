"""The dynamic HPACK table of one peer (RFC 7541, sections 2.3.2 and 4): fields it may refer to by number."""

from collections import deque
from typing import Final

from tykpy.broker.http2.hpack.validate import FIELD_OVERHEAD, Header

DEFAULT_SIZE: Final = 4096
"""Initial size of the table in bytes (RFC 9113, section 6.5.2)."""


class DynamicTable:
    """Entries, newest first."""

    __slots__ = ("_size", "entries", "limit", "size_allowed")

    def __init__(self) -> None:
        self.entries: deque[Header] = deque()
        self._size = 0
        self.limit = DEFAULT_SIZE
        """Size that we allow in bytes, as far as the peer has acknowledged it."""
        self.size_allowed = DEFAULT_SIZE
        """Size that the peer has chosen in bytes."""

    def add(self, name: bytes, value: bytes) -> None:
        """Add an entry and evict older ones to make room; an entry larger than the table empties it."""
        self.entries.appendleft((name, value))
        self._size += len(name) + len(value) + FIELD_OVERHEAD
        self._evict()

    def resize(self, size: int) -> None:
        """Change the size as the peer demands; raises ValueError if we do not allow it."""
        if size > self.limit:
            raise ValueError(f"a table of {size} bytes, {self.limit} are allowed")
        self.size_allowed = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self.size_allowed:
            name, value = self.entries.pop()
            self._size -= len(name) + len(value) + FIELD_OVERHEAD
