"""Bodies that do not fit into bulk memory: each gets unnamed memory of its own, whose descriptor goes over a socket.

The descriptor is sent before the SPILL record is published, so it is there when the record is read. Memory is written
and read with pwrite and pread, never mapped: the other process could shrink the file under a mapping, and that is a
SIGBUS, where a read is only short. There is no CRC: this memory is never used twice, so nothing stale can be in it.
"""

import errno
import os
import socket
import struct
from array import array
from typing import Final

from tykpy.ipc.errors import RingCorruptError, SegmentError, SpillClosedError, SpillError
from tykpy.ipc.ring.segment import create_memory, is_memory_of

_pread: Final = os.pread
"""Bound before plugins are imported; see `ipc/channel/doorbell.py`."""
_NOTE: Final = struct.Struct("<QQ")
"""What goes with a descriptor: seq, size of the message."""
_DESCRIPTOR: Final = array("i").itemsize
_CLOSED: Final = frozenset({errno.EPIPE, errno.ECONNRESET})


class SpillSocket:
    """One end; never blocks: receivers expect only messages that were sent before, and credits limit their number."""

    def __init__(self, sock: socket.socket, device: int) -> None:
        self._socket = sock
        self._device = device

    def send(self, seq: int, payload: bytes) -> int:
        """Store and send a message; return the memory's writable descriptor, which the caller must close.

        Raises SpillError if there is no shared memory or descriptor left, or the peer does not take its messages, and
        SpillClosedError if the peer is gone.
        """
        try:
            memory = create_memory()
        except SegmentError as error:
            raise SpillError(f"no memory for a message of {len(payload)} bytes: {error}") from error
        try:
            _write(memory.writable, payload)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [memory.readable]))]
            self._socket.sendmsg([_NOTE.pack(seq, len(payload))], rights, socket.MSG_DONTWAIT)
        except OSError as error:
            os.close(memory.writable)
            kind = SpillClosedError if error.errno in _CLOSED else SpillError
            raise kind(f"cannot carry a message of {len(payload)} bytes: {error.strerror}") from error
        finally:
            os.close(memory.readable)
        return memory.writable

    def receive(self, seq: int, size: int, *, skip_revoked: bool) -> bytes:
        """Return the message that belongs to a SPILL record.

        `skip_revoked`: drop the messages before it, which belong to requests that the broker took back.
        Raises SpillError if its descriptor was lost (none left in this process), RingCorruptError if the peer sent
        something other than what it announced.
        """
        while True:
            note, descriptor = self._receive_note(seq)
            try:
                if note == (seq, size):
                    return self._read(descriptor, seq, size)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
            if not skip_revoked or note[0] == seq:
                raise RingCorruptError(
                    "a spill that was not announced", seq=seq, size=size, got_seq=note[0], got_size=note[1]
                )

    def _receive_note(self, seq: int) -> tuple[tuple[int, int], int | None]:
        try:
            note, descriptor = _receive(self._socket)
        except OSError as error:
            raise RingCorruptError("a spill record without its message", seq=seq) from error
        if len(note) == _NOTE.size:
            return _NOTE.unpack(note), descriptor
        if descriptor is not None:
            os.close(descriptor)
        raise RingCorruptError("a spill record without its message", seq=seq, bytes=len(note))

    def _read(self, descriptor: int | None, seq: int, size: int) -> bytes:
        if descriptor is None:
            raise SpillError(f"a message of {size} bytes lost its memory on the way: too many open files?")
        # Accept only memory files: a file of another file system could block the reader.
        if not is_memory_of(descriptor, self._device, size):
            raise RingCorruptError("a spill that is not what was announced", seq=seq, size=size)
        data = read_whole(descriptor, size, 0)
        if len(data) != size:
            raise RingCorruptError("a spill that was cut off", seq=seq, size=size, read=len(data))
        return data

    def close(self) -> None:
        """Close the socket; the kernel frees memory that nobody has received."""
        self._socket.close()


def _receive(sock: socket.socket) -> tuple[bytes, int | None]:
    """Receive a note and at most one descriptor (not inheritable); the kernel drops any further ones."""
    # CMSG_LEN and not CMSG_SPACE: the padding of the latter has room for a second descriptor.
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, _, _ = sock.recvmsg(_NOTE.size, socket.CMSG_LEN(_DESCRIPTOR), flags)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(content) >= _DESCRIPTOR:
            return data, array("i", content[:_DESCRIPTOR])[0]
    return data, None


def release(descriptor: int, *, discard: bool) -> None:
    """Close sent memory; `discard` frees its pages although the descriptor in the peer's socket lives on."""
    if discard:
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _write(descriptor: int, payload: bytes) -> None:
    written = os.pwrite(descriptor, payload, 0)
    while written < len(payload):
        written += os.pwrite(descriptor, memoryview(payload)[written:], written)


def read_whole(descriptor: int, size: int, offset: int) -> bytes:
    """Read `size` bytes; fewer only if the file ends first."""
    data = _pread(descriptor, size, offset)
    while 0 < len(data) < size:
        rest = _pread(descriptor, size - len(data), offset + len(data))
        if not rest:
            break
        data += rest
    return data
