"""Shared memory without a name (memfd): only descriptors are passed, so nothing is left behind after a kill.

A ring's pages are reserved and its size is sealed at creation: neither a lack of memory nor a hostile worker can cause
a SIGBUS later.
"""

import fcntl
import mmap
import os
import stat
import sys
from typing import Final, NamedTuple

from tykpy.ipc.errors import SegmentError
from tykpy.ipc.ring.layout import HEADER_SIZE, STATIC_SIZE, Identity

_SIZE_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Descriptors(NamedTuple):
    """Two descriptors of one piece of unnamed shared memory; the caller closes both."""

    writable: int
    readable: int


def create_memory() -> Descriptors:
    """Make an empty piece of shared memory that has no name.

    Raises SegmentError (no descriptors or memory left).
    """
    try:
        writable = os.memfd_create("tykpy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(writable, 0o600)
            return Descriptors(writable, os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            os.close(writable)
            raise
    except OSError as error:
        raise SegmentError(f"no shared memory: {error.strerror}") from error


def create_segment(identity: Identity) -> Descriptors:
    """Make a ring's segment: its static block written, every page reserved, its size sealed.

    Raises SegmentError.
    """
    descriptors = create_memory()
    try:
        os.posix_fallocate(descriptors.writable, 0, HEADER_SIZE + identity.capacity)
        os.pwrite(descriptors.writable, identity.pack(), 0)
        fcntl.fcntl(descriptors.writable, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    except OSError as error:
        for descriptor in descriptors:
            os.close(descriptor)
        size = HEADER_SIZE + identity.capacity
        raise SegmentError(f"no {size} bytes of shared memory: {error.strerror}") from error
    return descriptors


def create_bulk(capacity: int) -> Descriptors:
    """Make a piece of bulk memory: its size sealed, none of its pages there yet.

    Raises SegmentError.
    """
    descriptors = create_memory()
    try:
        os.ftruncate(descriptors.writable, capacity)
        fcntl.fcntl(descriptors.writable, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    except OSError as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise SegmentError(f"no shared memory: {error.strerror}") from error
    return descriptors


def is_memory_of(descriptor: int, device: int, size: int) -> bool:
    """Whether a descriptor that somebody sent is shared memory of exactly `size` bytes."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_dev == device and status.st_size == size


def keep_from_children(memory: mmap.mmap) -> None:
    """Do not map this memory in processes that this one forks: they could write to it by mistake."""
    memory.madvise(mmap.MADV_DONTFORK)


class Segment:
    """One mapped segment: `memory` for records, `words` for the counters of its header."""

    __slots__ = ("device", "identity", "memory", "words")

    def __init__(self, identity: Identity, memory: mmap.mmap, device: int) -> None:
        self.identity = identity
        self.memory = memory
        self.words = memoryview(memory)[:HEADER_SIZE].cast("Q")
        self.device = device
        """The file system of shared memory, as `st_dev`."""

    @classmethod
    def map(cls, descriptor: int, *, writable: bool) -> "Segment":
        """Check and map a segment; the descriptor stays the caller's.

        Raises SegmentError if the static block or the size is wrong.
        """
        status = os.fstat(descriptor)
        identity = Identity.unpack(os.pread(descriptor, STATIC_SIZE, 0))
        if status.st_size != HEADER_SIZE + identity.capacity:
            raise SegmentError(f"{status.st_size} bytes where the header says {HEADER_SIZE + identity.capacity}")
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        try:
            memory = _map(descriptor, status.st_size, protection)
        except (OSError, ValueError) as error:
            raise SegmentError(f"cannot map {status.st_size} bytes: {error}") from error
        return cls(identity, memory, status.st_dev)

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self.memory.close()


def _map(descriptor: int, size: int, protection: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=protection, trackfd=False)
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=protection)
