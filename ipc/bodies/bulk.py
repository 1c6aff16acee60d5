"""Bulk memory: holds the bodies of a worker's answers that are too big for a ring record.

It is reused, because a fresh page costs five times as much as writing to an existing one. Only its writer decides what
lies where. A body belongs to a record of the writer's ring: once the reader gives the record's room back, it has copied
the body, and the place is free. Pages are reserved before they are written to, and given back by `trim`.
"""

import mmap
import os
from bisect import insort
from collections import deque
from typing import Final

from tykpy.ipc.errors import RingCorruptError, SegmentError
from tykpy.ipc.ring.segment import keep_from_children

_ALIGNMENT: Final = 64
"""Bodies start at multiples of this many bytes: a cache line."""


class BulkWriter:
    """The writing end; takes ownership of the descriptor."""

    __slots__ = ("_capacity", "_descriptor", "_held", "_memory", "_reserved", "_used")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = map_memory(descriptor, mmap.PROT_READ | mmap.PROT_WRITE)
        keep_from_children(self._memory)
        self._capacity = len(self._memory)
        self._used: list[tuple[int, int]] = []
        """Places in use (start, end), sorted."""
        self._held: deque[tuple[int, tuple[int, int]]] = deque()
        """The same places with the positions of their records, oldest first."""
        self._reserved = 0
        """Bytes from the start whose pages are reserved."""

    @property
    def reserved(self) -> int:
        """Bytes of memory that are reserved."""
        return self._reserved

    def write(self, body: bytes, consumed: int) -> int | None:
        """Copy a body into a free place; returns its offset, or None if there is no room or no memory.

        `consumed`: the ring position up to which the reader has given records back. Call `hold` or `drop` next.
        """
        self._free(consumed)
        start = self._find(len(body))
        end = start + len(body)
        if end > self._capacity or not self._reserve(end):
            return None
        self._memory[start:end] = body
        insort(self._used, (start, end))
        return start

    def hold(self, offset: int, size: int, position: int) -> None:
        """Keep the place in use until the record at this ring position is consumed."""
        self._held.append((position, (offset, offset + size)))

    def drop(self, offset: int, size: int) -> None:
        """Free the place, because no record will announce the body."""
        self._used.remove((offset, offset + size))

    def trim(self, consumed: int) -> None:
        """Release the memory if no body uses it."""
        self._free(consumed)
        if self._reserved and not self._used:
            self._memory.madvise(mmap.MADV_REMOVE, 0, self._reserved)
            self._reserved = 0

    def _free(self, consumed: int) -> None:
        held = self._held
        while held and held[0][0] < consumed:
            self._used.remove(held.popleft()[1])

    def _find(self, size: int) -> int:
        """Find the first gap that is large enough: so few pages are used, and they stay in the CPU's cache."""
        at = 0
        for start, end in self._used:
            if start - at >= size:
                break
            at = (end + _ALIGNMENT - 1) & -_ALIGNMENT
        return at

    def _reserve(self, end: int) -> bool:
        if end > self._reserved:
            try:
                os.posix_fallocate(self._descriptor, self._reserved, end - self._reserved)
            except OSError:
                return False
            self._reserved = end
        return True

    def close(self) -> None:
        """Unmap."""
        self._memory.close()
        os.close(self._descriptor)


class BulkReader:
    """The reading end; takes ownership of the descriptor."""

    __slots__ = ("_memory",)

    def __init__(self, descriptor: int) -> None:
        try:
            self._memory = map_memory(descriptor, mmap.PROT_READ)
        finally:
            os.close(descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Copy a body. Raises RingCorruptError if the place is outside of this memory."""
        body = self._memory[offset : offset + size]
        if len(body) != size:
            raise RingCorruptError(
                "a body outside of bulk memory", offset=offset, size=size, capacity=len(self._memory)
            )
        return body

    def close(self) -> None:
        """Unmap."""
        self._memory.close()


def map_memory(descriptor: int, protection: int) -> mmap.mmap:
    """Map all of a piece of shared memory; raises SegmentError."""
    size = os.fstat(descriptor).st_size
    try:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=protection)
    except (OSError, ValueError) as error:
        raise SegmentError(f"cannot map {size} bytes of bulk memory: {error}") from error
