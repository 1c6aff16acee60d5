"""Snapshots of a running broker in named shared memory: readable while its event loop is stuck or stopped.

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

from tykpy.telemetry.snapshot import Snapshot, decode_snapshot

# Two blocks, written in turn: a writer that is stopped in the middle of one has completed the other. A block is a
# header of five u64, native little-endian, and an encoded snapshot. The CRC-32 covers the words before it, and the
# snapshot.
#
#   magic | number of the block | time of the snapshot (CLOCK_MONOTONIC, ns) | size of the snapshot | CRC | snapshot
_HEADER: Final = struct.Struct("<4Q")
_CRC: Final = struct.Struct("<Q")
_START: Final = _HEADER.size + _CRC.size
"""Bytes before the snapshot."""
_BLOCK_SIZE: Final = 512 * 1024
MAX_SNAPSHOT: Final = _BLOCK_SIZE - _START
"""Bytes of an encoded snapshot."""
SIZE: Final = 2 * _BLOCK_SIZE
"""Bytes of a segment."""
_MAGIC: Final = int.from_bytes(b"TYKYLIV2", "little")
_MODE: Final = 0o600
_ROOT: Final = 0
ORPHAN_SECONDS: Final = 3600.0
"""Time in which `tykpy status` can tell that a broker was killed, though brokers of other folders start."""
_STOPPED: Final = ("T", "t")
"""States of a process that a signal or a debugger has stopped (proc_pid_stat(5))."""
_DIGITS: Final = 16
_PREFIX: Final = "tykpy-live-"
_FOLDER: Final = Path("/dev/shm")
"""Where Linux shows named shared memory (shm_overview(7))."""


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

    def write(self, snapshot: bytes, time_ns: int) -> None:
        """Publish an encoded snapshot of at most `MAX_SNAPSHOT` bytes that was taken at `time_ns`."""
        self._number += 1
        header = _HEADER.pack(_MAGIC, self._number, time_ns, len(snapshot))
        start = self._number % 2 * _BLOCK_SIZE
        block = header + _CRC.pack(zlib.crc32(snapshot, zlib.crc32(header))) + snapshot
        self._memory[start : start + len(block)] = block

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

    snapshot: Snapshot
    is_running: bool
    """Whether its process exists."""

    @property
    def hint(self) -> str:
        """What keeps its process from running, if the kernel says so, and what to do; begins with `: `."""
        try:
            stat = Path(f"/proc/{self.snapshot.pid}/stat").read_text(errors="replace")
        except OSError:
            return ""
        state = stat[stat.rindex(")") + 1 :].split()[0]
        return f": its process is stopped (kill -CONT {self.snapshot.pid} lets it go on)" if state in _STOPPED else ""


def read_live_snapshot(runtime_dir: Path) -> LastSeen | None:
    """Read the last snapshot of the broker of this folder; None if there is no valid one.

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
        block = _newest(descriptor)
        if block is None or block.age < 0:
            return None
        return LastSeen(decode_snapshot(block.snapshot), not _can_lock(descriptor))
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def _remove_orphans() -> None:
    """Unlink the segments of this user's brokers that were killed long ago."""
    for path in _FOLDER.glob(f"{_PREFIX}{os.geteuid()}-*"):
        with suppress(OSError), path.open("rb") as segment:
            # A smaller segment is still being created.
            if os.fstat(segment.fileno()).st_size == SIZE and _can_lock(segment.fileno()):
                block = _newest(segment.fileno())
                if block is None or not 0 <= block.age < ORPHAN_SECONDS:
                    path.unlink()


def _name_of(runtime_dir: Path, owner: int) -> str:
    digest = hashlib.sha256(os.fsencode(runtime_dir.resolve())).hexdigest()
    return f"/{_PREFIX}{owner}-{digest[:_DIGITS]}"


class _Block(NamedTuple):
    """What one of the two blocks holds."""

    number: int
    time_ns: int
    snapshot: bytes

    @property
    def age(self) -> float:
        """Seconds since the event loop's last turn."""
        return (time.monotonic_ns() - self.time_ns) / 1e9


def _newest(descriptor: int) -> _Block | None:
    blocks = [_read_block(descriptor, start) for start in (0, _BLOCK_SIZE)]
    return max((block for block in blocks if block is not None), default=None)


def _read_block(descriptor: int, start: int) -> _Block | None:
    # Read, not mapped: the writer could cut the file off under a mapping.
    head = os.pread(descriptor, _START, start)
    if len(head) != _START:
        return None
    magic, number, time_ns, size = _HEADER.unpack_from(head)
    if magic != _MAGIC or size > MAX_SNAPSHOT:
        return None
    snapshot = os.pread(descriptor, size, start + _START)
    crc = zlib.crc32(snapshot, zlib.crc32(head[: _HEADER.size]))
    if _CRC.unpack_from(head, _HEADER.size)[0] != crc:
        return None
    return _Block(number, time_ns, snapshot)


def _can_lock(descriptor: int) -> bool:
    """Whether no broker holds the segment any more."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
