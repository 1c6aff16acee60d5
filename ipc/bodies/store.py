"""The broker's store of big request bodies: shared memory that bodies are written to as they arrive.

A body is copied once when it arrives, however many workers get it. Its place is free once the `StoredBody` is garbage:
a dispatch in flight keeps a reference, so no worker reads a place that is reused. Workers can only read; a record on
their ring names the place. A body that does not fit stays on the heap.
"""

import mmap
import os
from typing import Final

from tykpy.ipc.bodies.bulk import map_memory
from tykpy.ipc.bodies.memfd import read_whole
from tykpy.ipc.errors import RingCorruptError, SegmentError
from tykpy.ipc.ring.segment import create_bulk

_BLOCK: Final = 32 * 1024
"""Size and alignment unit of places, in bytes."""

BORROW_FROM: Final = 256 * 1024
"""Smallest body, in bytes, that a worker reads in place: finding its fields costs 25 us.

Measured for broker's and worker's part: a hook that needs no body takes 80 instead of 143 us at 256 KiB and 171 instead
of 586 us at 1 MiB; one that does takes 215 instead of 160 us at 256 KiB, and the same from 1 MiB on.
"""


class BodyStore:
    """Shared memory divided into places; used by one thread.

    A body gets the first gap that is large enough: so few pages are used, and those are in the CPU's cache. One byte
    per block says whether it is used, so free neighbours are one gap.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is address space, in bytes: memory is reserved as bodies come. Raises SegmentError."""
        self._blocks = capacity // _BLOCK
        descriptors = create_bulk(self._blocks * _BLOCK)
        self.readable = descriptors.readable
        """Descriptor that workers inherit; closed with the store."""
        self._descriptor = descriptors.writable
        try:
            self.memory = map_memory(self._descriptor, mmap.PROT_READ | mmap.PROT_WRITE)
        except SegmentError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        self._view = memoryview(self.memory)
        self._used = bytearray(self._blocks)
        """One byte per block: 1 if the block is in use."""
        self._lately = bytearray(self._blocks)
        """One byte per block: 1 if it was used at some time since the last `trim`."""
        self._present = bytearray(self._blocks)
        """One byte per block: 1 if its pages are reserved."""

    @property
    def reserved(self) -> int:
        """Bytes of memory that are reserved."""
        return self._present.count(1) * _BLOCK

    @property
    def used(self) -> int:
        """Bytes of places in use."""
        return self._used.count(1) * _BLOCK

    def begin(self, size: int) -> "StoredBody | None":
        """Return a place for a body of `size` bytes, None if there is no room."""
        count = _count(size)
        first = self._used.find(bytes(count)) if count <= self._blocks else -1
        if first < 0:
            return None
        self._used[first : first + count] = self._lately[first : first + count] = b"\1" * count
        return StoredBody(self, first * _BLOCK, size)

    def put(self, body: bytes) -> "StoredBody | None":
        """Store a complete body; returns None if there is no room or no memory."""
        stored = self.begin(len(body))
        if stored is None or not stored.reserve(len(body)):
            return None
        stored.write(body)
        return stored

    def trim(self) -> None:
        """Release the memory of blocks that have been free since the last call."""
        # Bytes of 0 and 1 can also be combined as one large number, at the speed of C.
        present, lately = (int.from_bytes(flags, "big") for flags in (self._present, self._lately))
        idle = (present & ~lately).to_bytes(self._blocks, "big")
        first = idle.find(1)
        while first >= 0:
            end = idle.find(0, first)
            end = self._blocks if end < 0 else end
            self._give_back(first, end)
            first = idle.find(1, end)
        self._lately[:] = self._used

    def _give_back(self, first: int, end: int) -> None:
        self.memory.madvise(mmap.MADV_REMOVE, first * _BLOCK, (end - first) * _BLOCK)
        self._present[first:end] = bytes(end - first)

    def close(self) -> None:
        """Unmap; do not touch the remaining bodies after that."""
        self._view.release()
        self.memory.close()
        os.close(self._descriptor)
        os.close(self.readable)

    # Called by bodies

    def reserve(self, offset: int, end: int) -> bool:
        """Reserve pages: writing to one for which there is no memory would end the process (SIGBUS)."""
        first, last = offset // _BLOCK, -(-end // _BLOCK)
        if self._present.count(1, first, last) < last - first:
            try:
                os.posix_fallocate(self._descriptor, first * _BLOCK, (last - first) * _BLOCK)
            except OSError:
                return False
            self._present[first:last] = b"\1" * (last - first)
        return True

    def view(self, offset: int, size: int) -> memoryview:
        """Return a view of a place; release it before the place is freed."""
        return self._view[offset : offset + size]

    def release(self, offset: int, size: int) -> None:
        """Free a place."""
        first, count = offset // _BLOCK, _count(size)
        self._used[first : first + count] = bytes(count)


def _count(size: int) -> int:
    """Return how many blocks a body of `size` bytes takes."""
    return max(1, -(-size // _BLOCK))


class StoredBody:
    """One body, or the part of it that has arrived."""

    __slots__ = ("_end", "_store", "offset", "size")

    def __init__(self, store: BodyStore, offset: int, size: int) -> None:
        self._store = store
        self._end = offset
        self.offset = offset
        self.size = size

    def __del__(self) -> None:
        self._store.release(self.offset, self.size)

    def __len__(self) -> int:
        return self.size

    def reserve(self, size: int) -> bool:
        """Reserve pages for the first `size` bytes; returns False if there is no memory."""
        return self._store.reserve(self.offset, self.offset + size)

    def write(self, data: bytes | memoryview) -> None:
        """Append data; its room must be reserved."""
        begin, self._end = self._end, self._end + len(data)
        self._store.memory[begin : self._end] = data

    def view(self) -> memoryview:
        """Return a view of the whole body, for immediate use."""
        return self._store.view(self.offset, self.size)


class BodyReader:
    """A worker's access to the store; takes ownership of the descriptor.

    Nothing is mapped: address space counts towards --limit-memory.
    """

    __slots__ = ("_capacity", "_descriptor")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._capacity = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Copy a body. Raises RingCorruptError if the place is outside of the store."""
        self._check(offset, size)
        return read_whole(self._descriptor, size, offset)

    def borrow(self, offset: int, size: int, max_answer: int) -> "BorrowedBody":
        """Return a body that stays in the store. Raises RingCorruptError if the place is outside of it."""
        self._check(offset, size)
        return BorrowedBody(self._descriptor, offset, size, max_answer)

    def _check(self, offset: int, size: int) -> None:
        if offset + size > self._capacity:
            raise RingCorruptError("a body outside of the store", offset=offset, size=size, capacity=self._capacity)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class BorrowedBody:
    """A body in the store. A worker copies parts of it until the request is answered; then the place is reused."""

    __slots__ = ("_descriptor", "_is_here", "_offset", "max_answer", "size")

    def __init__(self, descriptor: int, offset: int, size: int, max_answer: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._is_here = True
        self.size = size
        self.max_answer = max_answer
        """Largest answer in bytes, including unchanged ranges of this body."""

    def read(self, start: int, end: int) -> bytes:
        """Copy a part. Raises LookupError after `give_back`."""
        part = read_whole(self._descriptor, min(end, self.size) - start, self._offset + start)
        # Checked after reading, so that no lock is needed: the place is not reused before it is given back.
        if not self._is_here:
            raise LookupError("the request is answered, and its body was not used before: it is gone")
        return part

    def whole(self) -> bytes:
        """Copy the whole body."""
        return self.read(0, self.size)

    def give_back(self) -> None:
        """Make further reads raise; call this before the request is answered."""
        self._is_here = False


Body = bytes | StoredBody
"""A body on the heap or in the store."""


def body_bytes(body: Body) -> bytes:
    """Return a body as bytes, copied if it is stored."""
    return bytes(body.view()) if isinstance(body, StoredBody) else body
