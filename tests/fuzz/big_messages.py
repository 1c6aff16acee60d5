"""Scripts of what one process does to shared memory, sockets and ring before the other reads a big message.

A script is any bytes, read as steps: what to do (1 byte), a number (8 bytes), the length of what follows (2 bytes).
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from mmap import MADV_REMOVE, mmap
from typing import Final, NamedTuple

from tests.unit.ipc.channel.ends import SMALL, channel_pair, whole
from tykpy.broker.errors import DispatchError
from tykpy.broker.router.answers import body_of
from tykpy.ipc.errors import IpcError, RingCorruptError
from tykpy.ipc.frame import Kind, Packed, unpack_frame
from tykpy.ipc.ring.layout import FLAG_ERROR, RecordType
from tykpy.ipc.ring.segment import create_memory

_STEP: Final = struct.Struct("<BQH")
_PAGE: Final = 4096
NOTE_SIZE: Final = 16
"""Bytes that go with a descriptor."""


class Do(IntEnum):
    """What a step does; its number is an offset, a recipient or a size."""

    WRITE = 0
    """Into shared memory."""
    RECORD = 1
    ERROR_RECORD = 2
    """Publish one, with the number as its seq."""
    NOTE = 3
    """On the socket for spills, without a descriptor."""
    MEMORY = 4
    """The same with memory of so many bytes; what follows the note is in it."""
    SHRINK = 5
    """The last such memory."""
    GIVE_BACK = 6
    """Pages of shared memory."""


class Step(NamedTuple):
    """One step of a script."""

    do: int
    number: int
    data: bytes = b""


def script(steps: Iterable[Step]) -> bytes:
    """Encode a script."""
    return b"".join(_STEP.pack(do, number, len(data)) + data for do, number, data in steps)


def read_script(data: bytes) -> Iterator[Step]:
    """Decode a script; the last step may be cut off."""
    at = 0
    while at + _STEP.size <= len(data):
        do, number, length = _STEP.unpack_from(data, at)
        at += _STEP.size
        yield Step(do % len(Do), number, data[at : at + length])
        at += length


class _Performer:
    """The process that performs a script."""

    def __init__(
        self,
        memory: mmap,
        spills: socket.socket,
        push: Callable[[int, int, int, bytes], int],
        kinds: tuple[int, int],
    ) -> None:
        self._memory = memory
        self._spills = spills
        self._push = push
        self._kinds = kinds
        self._sent: list[int] = []
        self.records = 0

    def perform(self, data: bytes) -> None:
        """Perform a script, without the steps that are impossible."""
        try:
            for step in read_script(data):
                with contextlib.suppress(IpcError, BlockingIOError):
                    self._do(step)
        finally:
            for descriptor in self._sent:
                os.close(descriptor)

    def _do(self, step: Step) -> None:
        do, number, data = step
        if do == Do.WRITE:
            at = number % (len(self._memory) - len(data))
            self._memory[at : at + len(data)] = data
        elif do == Do.NOTE:
            self._spills.send(data, socket.MSG_DONTWAIT)
        elif do == Do.MEMORY:
            self._send_memory(number % SMALL.max_message, data)
        elif do == Do.SHRINK and self._sent:
            os.ftruncate(self._sent[-1], number % SMALL.max_message)
        elif do == Do.GIVE_BACK:
            self._memory.madvise(MADV_REMOVE, number % (len(self._memory) // _PAGE) * _PAGE, _PAGE)
        elif do in (Do.RECORD, Do.ERROR_RECORD):
            self._push(self._kinds[do == Do.ERROR_RECORD], number, 0, data)
            self.records += 1

    def _send_memory(self, size: int, data: bytes) -> None:
        writable, readable = create_memory()
        self._sent.append(writable)
        os.pwrite(writable, data[NOTE_SIZE:], 0)
        os.ftruncate(writable, size)
        try:
            socket.send_fds(self._spills, [data[:NOTE_SIZE] or b"\0"], [readable], socket.MSG_DONTWAIT)
        finally:
            os.close(readable)


def bulk(data: bytes) -> None:
    """Fuzz what a worker does to bulk memory and its socket before the broker reads its answers."""
    with channel_pair() as (broker, worker):
        for seq in range(1, SMALL.credits + 1):
            broker.send(seq, whole(b""), 0)
        parts = worker._parts
        kinds = (RecordType.SPILL_RESP, RecordType.SPILL_RESP | FLAG_ERROR)
        _Performer(parts.bulk_out._memory, parts.spills._socket, worker._push, kinds).perform(data)
        for answer in broker.drain():
            assert _size_of(answer.payload) <= SMALL.max_message
            with contextlib.suppress(DispatchError):
                assert isinstance(body_of(answer, Kind.OBJECT), bytes)


def bodies(data: bytes) -> None:
    """Fuzz what a broker does to its store and its socket before a worker reads its requests."""
    with channel_pair() as (broker, worker):
        parts = broker._parts
        kinds = (RecordType.SPILL_REQ, RecordType.REQ)
        performer = _Performer(parts.bodies.memory, parts.spills._socket, broker._push, kinds)
        performer.perform(data)
        parts.requests.ring(performer.records)
        parts.requests.end()
        with contextlib.suppress(RingCorruptError):
            while (request := worker.claim()) is not None:
                assert _size_of(request.payload) <= SMALL.max_message
                with contextlib.suppress(ValueError):
                    unpack_frame(request.payload)


def _size_of(packed: Packed) -> int:
    head, body = packed
    return len(head if body is None else body)
