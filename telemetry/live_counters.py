"""Counters of a running broker in named shared memory: readable while its event loop is stuck or stopped.

The name is derived from the runtime folder. The segment belongs to the broker's user (mode 0600) and is unlinked when
the broker stops. After SIGKILL it stays: the next broker of the folder replaces it, and any broker of that user removes
it after an hour. A lock (flock) that ends with the process tells killed brokers from running ones.
"""

import fcntl
import hashlib
import mmap
import os
import stat
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

import posix_ipc

# Two blocks, written in turn, each in a page of its own: a writer that is stopped in the middle of one has completed
# the other. A block is eleven u64, native little-endian, and their CRC-32:
#
#   magic | number of the block | pid | time | taken | answered | failed | waiting | under way | ready | restarts | CRC
_BLOCK: Final = struct.Struct("<11Q")
_CRC: Final = struct.Struct("<Q")
_PAGE: Final = 4096
SIZE: Final = 2 * _PAGE
"""Bytes of a segment."""
_MAGIC: Final = int.from_bytes(b"TYKYLIV1", "little")
_MODE: Final = 0o600
_ROOT: Final = 0
ORPHAN_SECONDS: Final = 3600.0
"""Time in which `tykpy status` can tell that a broker was killed, though brokers of other folders start."""
_DIGITS: Final = 16
_PREFIX: Final = "tykpy-live-"
_FOLDER: Final = Path("/dev/shm")
"""Where Linux shows named shared memory (shm_overview(7))."""


class LiveCounters(NamedTuple):
    """One reading."""

    pid: int
    time_ns: int
    """Last turn of the event loop, CLOCK_MONOTONIC."""
    taken: int
    answered: int
    failed: int
    """Dispatches since the start."""
    waiting: int
    under_way: int
    """Dispatches now: in the queue, and in workers."""
    ready: int
    """Workers."""
    restarts: int

    @property
    def age(self) -> float:
        """Seconds since the event loop's last turn."""
        return (time.monotonic_ns() - self.time_ns) / 1e9

    def __str__(self) -> str:
        """Return the counters as text, without their age."""
        return (
            f"pid {self.pid}, {self.ready} workers ready, {self.waiting} dispatches waiting, {self.under_way} under way"
            f"; {self.taken} taken, {self.answered} answered, {self.failed} failed; {self.restarts} workers restarted"
        )


class LiveSegment:
    """The broker's end: create it, `write` now and then, `close` it at a normal stop."""

    def __init__(self, name: str, memory: mmap.mmap, inode: int) -> None:
        self._name = name
        self._memory = memory
        self._inode = inode
        self._number = 0

    @classmethod
    def create(cls, runtime_dir: Path) -> Self:
        """Replace the segment of an earlier broker of this folder. Raises OSError."""
        _remove_orphans()
        name = _name_of(runtime_dir, os.geteuid())
        try:
            with suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_shared_memory(name)
            descriptor = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=_MODE).fd
        except posix_ipc.Error as error:
            raise OSError(f"cannot create {name}: {error}") from error
        try:
            os.fchmod(descriptor, _MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A page that is not there when it is written to would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, SIZE)
            # The mapping has a descriptor of its own for the same open file, which holds the lock.
            return cls(name, mmap.mmap(descriptor, SIZE), os.fstat(descriptor).st_ino)
        except OSError:
            posix_ipc.unlink_shared_memory(name)
            raise
        finally:
            os.close(descriptor)

    def write(self, counters: LiveCounters) -> None:
        """Publish a reading; costs two microseconds."""
        self._number += 1
        block = _BLOCK.pack(_MAGIC, self._number, *counters)
        start = self._number % 2 * _PAGE
        self._memory[start : start + _BLOCK.size + _CRC.size] = block + _CRC.pack(zlib.crc32(block))

    def close(self) -> None:
        """Unlink the segment, unless a successor has replaced it."""
        with suppress(posix_ipc.Error, OSError):
            descriptor = posix_ipc.SharedMemory(self._name, read_only=True).fd
            inode = os.fstat(descriptor).st_ino
            os.close(descriptor)
            if inode == self._inode:
                posix_ipc.unlink_shared_memory(self._name)
        self._memory.close()


class LastSeen(NamedTuple):
    """What is known of a broker that does not answer."""

    counters: LiveCounters
    is_running: bool
    """Whether its process exists."""


def read_live_counters(runtime_dir: Path) -> LastSeen | None:
    """Read the counters of the broker of this folder; None if there are none that make sense.

    The segment must belong to the folder's owner or to root, and be closed to others; the content is checked.
    """
    try:
        # A broker that runs as root may have given the folder to the user of its sockets.
        owners = {runtime_dir.stat().st_uid, _ROOT}
    except OSError:
        return None
    found = (_read(_name_of(runtime_dir, owner), owner) for owner in owners)
    return next((seen for seen in found if seen is not None), None)


def _read(name: str, owner: int) -> LastSeen | None:
    try:
        descriptor = posix_ipc.SharedMemory(name, read_only=True).fd
    except (posix_ipc.Error, OSError):
        return None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != owner or stat.S_IMODE(status.st_mode) != _MODE or status.st_size != SIZE:
            return None
        counters = _newest(descriptor)
        if counters is None or counters.age < 0:
            return None
        return LastSeen(counters, not _can_lock(descriptor))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _remove_orphans() -> None:
    """Unlink the segments of this user's brokers that were killed long ago."""
    for path in _FOLDER.glob(f"{_PREFIX}{os.geteuid()}-*"):
        with suppress(OSError), path.open("rb") as segment:
            # One that is smaller is being made.
            if os.fstat(segment.fileno()).st_size == SIZE and _can_lock(segment.fileno()):
                counters = _newest(segment.fileno())
                if counters is None or not 0 <= counters.age < ORPHAN_SECONDS:
                    path.unlink()


def _name_of(runtime_dir: Path, owner: int) -> str:
    digest = hashlib.sha256(os.fsencode(runtime_dir.resolve())).hexdigest()
    return f"/{_PREFIX}{owner}-{digest[:_DIGITS]}"


def _newest(descriptor: int) -> LiveCounters | None:
    # Read, not mapped: the writer could cut the file off under a mapping.
    blocks = [_unpack(os.pread(descriptor, _BLOCK.size + _CRC.size, start)) for start in (0, _PAGE)]
    found = max((block for block in blocks if block is not None), default=None)
    return None if found is None else found[1]


def _unpack(data: bytes) -> tuple[int, LiveCounters] | None:
    if len(data) != _BLOCK.size + _CRC.size:
        return None
    block = data[: _BLOCK.size]
    magic, number, *values = _BLOCK.unpack(block)
    if magic != _MAGIC or _CRC.unpack(data[_BLOCK.size :])[0] != zlib.crc32(block):
        return None
    return number, LiveCounters(*values)


def _can_lock(descriptor: int) -> bool:
    """Whether no broker holds the segment any more."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
