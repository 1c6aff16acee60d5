"""Where the broker keeps big bodies of requests: collected as they arrive where every worker can read them.

A body is copied once on its way in, and not again however many workers are given it. Its place is free when nobody
refers to the `StoredBody` any more: as long as a worker may read it, its dispatch is in flight and does. Workers can
only read, and they read what a record on their ring names; a body that finds no room stays on the heap.
"""

import mmap
import os
from typing import Final

from tykpy.ipc.bodies.bulk import map_memory
from tykpy.ipc.bodies.memfd import read_whole
from tykpy.ipc.errors import RingCorruptError, SegmentError
from tykpy.ipc.ring.segment import create_bulk

_BLOCK: Final = 32 * 1024
"""Bytes: places begin at multiples of it, and take as many of them as the body needs."""

LEND_FROM: Final = 256 * 1024
"""Bytes of a body from which on a worker leaves it where it is: to find its parts costs 25 us.

Measured for broker's and worker's part: a hook that needs no body takes 80 instead of 143 us at 256 KiB and 171 instead
of 586 us at 1 MiB; one that does takes 215 instead of 160 us at 256 KiB, and the same from 1 MiB on.
"""


class BodyStore:
    """A piece of shared memory and the places in it; for one thread.

    A body gets the first gap that is large enough: so few pages are used, and those are in the CPU's cache. One byte
    per block says whether it is used, so free neighbours are one gap.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is address space, in bytes: memory is reserved as bodies come. Raises SegmentError."""
        self._blocks = capacity // _BLOCK
        descriptors = create_bulk(self._blocks * _BLOCK)
        self.readable = descriptors.readable
        """What workers inherit; closed with the store."""
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
        """1 for each block that was in a place at some time since the last `trim`."""
        self._present = bytearray(self._blocks)
        """1 for each block whose pages are there."""

    @property
    def reserved(self) -> int:
        """Bytes of memory that it holds now."""
        return self._present.count(1) * _BLOCK

    @property
    def used(self) -> int:
        """Bytes of the places that are taken."""
        return self._used.count(1) * _BLOCK

    def begin(self, size: int) -> "StoredBody | None":
        """A place for a body of `size` bytes; None where there is no room."""
        count = _count(size)
        first = self._used.find(bytes(count)) if count <= self._blocks else -1
        if first < 0:
            return None
        self._used[first : first + count] = self._lately[first : first + count] = b"\1" * count
        return StoredBody(self, first * _BLOCK, size)

    def put(self, body: bytes) -> "StoredBody | None":
        """Store a body that is complete; None where there is no room or no memory."""
        stored = self.begin(len(body))
        if stored is None or not stored.reserve(len(body)):
            return None
        stored.write(body)
        return stored

    def trim(self) -> None:
        """Give back the memory of blocks that were free since the last call."""
        # Bytes of 0 and 1 are bits of a large number as well, and those are combined at the speed of C.
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
        """Unmap; bodies that are left must not be touched any more."""
        self._view.release()
        self.memory.close()
        os.close(self._descriptor)
        os.close(self.readable)

    # What bodies call

    def reserve(self, offset: int, end: int) -> bool:
        """Make sure that pages are there: to write where there is no memory would be the end of the process."""
        first, last = offset // _BLOCK, -(-end // _BLOCK)
        if self._present.count(1, first, last) < last - first:
            try:
                os.posix_fallocate(self._descriptor, first * _BLOCK, (last - first) * _BLOCK)
            except OSError:
                return False
            self._present[first:last] = b"\1" * (last - first)
        return True

    def view(self, offset: int, size: int) -> memoryview:
        """What lies in a place; to be let go of before the place is free."""
        return self._view[offset : offset + size]

    def release(self, offset: int, size: int) -> None:
        """A place is free."""
        first, count = offset // _BLOCK, _count(size)
        self._used[first : first + count] = bytes(count)


def _count(size: int) -> int:
    """How many blocks a body of `size` bytes takes."""
    return max(1, -(-size // _BLOCK))


class StoredBody:
    """One body, or as much of it as has come."""

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
        """Make room for the first `size` bytes; False: there is no memory."""
        return self._store.reserve(self.offset, self.offset + size)

    def write(self, data: bytes | memoryview) -> None:
        """Append; only into room that was reserved."""
        begin, self._end = self._end, self._end + len(data)
        self._store.memory[begin : self._end] = data

    def view(self) -> memoryview:
        """The whole body; not to be kept."""
        return self._store.view(self.offset, self.size)


class BodyReader:
    """A worker's way to the bodies; takes over the descriptor.

    It maps nothing: address space counts as a worker's memory where that is limited.
    """

    __slots__ = ("_capacity", "_descriptor")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._capacity = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Copy a body out; raises RingCorruptError where none can lie."""
        self._check(offset, size)
        return read_whole(self._descriptor, size, offset)

    def lend(self, offset: int, size: int, max_answer: int) -> "LentBody":
        """A body that stays where it is; raises RingCorruptError where none can lie."""
        self._check(offset, size)
        return LentBody(self._descriptor, offset, size, max_answer)

    def _check(self, offset: int, size: int) -> None:
        if offset + size > self._capacity:
            raise RingCorruptError("a body outside of the store", offset=offset, size=size, capacity=self._capacity)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class LentBody:
    """A body of which a worker copies what it needs, until its request is answered: then another may lie there."""

    __slots__ = ("_descriptor", "_is_here", "_offset", "max_answer", "size")

    def __init__(self, descriptor: int, offset: int, size: int, max_answer: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._is_here = True
        self.size = size
        self.max_answer = max_answer
        """Bytes that the answer may have, with what of this body is in it."""

    def read(self, start: int, end: int) -> bytes:
        """Copy a part out. Raises LookupError once it was given back."""
        part = read_whole(self._descriptor, min(end, self.size) - start, self._offset + start)
        # Looked at after reading, so that no lock is needed: nothing else lies there before it is given back.
        if not self._is_here:
            raise LookupError("the request is answered, and its body was not used before: it is gone")
        return part

    def whole(self) -> bytes:
        """Copy all of it out."""
        return self.read(0, self.size)

    def give_back(self) -> None:
        """To be called before the request is answered: what is read from now on is not taken for the body."""
        self._is_here = False


Body = bytes | StoredBody
"""A body, wherever it lies."""


def body_bytes(body: Body) -> bytes:
    """A body as bytes, copied if it is stored."""
    return bytes(body.view()) if isinstance(body, StoredBody) else body
